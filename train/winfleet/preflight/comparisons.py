"""The hosts beside one another: the odd one is named against the majority, and a table groups hosts by equal value. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from winfleet.preflight.found import Found
from winfleet.preflight.hosts import cuda_of, driver_major
from winfleet.preflight.problems import Problem

UNKNOWN: Final = "?"


def compare_hosts(hosts: Mapping[str, Found], *, python_version: str) -> list[Problem]:
    """What differs between hosts and must not, or slows all of them. `python_version` is the wanted minor, "" for any."""
    return [
        *check_systems(hosts),
        *check_pythons(hosts, python_version),
        *check_loopback(hosts),
        *check_drivers(hosts),
        *check_gpus(hosts),
    ]


def name_odd(
    values: Mapping[str, str],
    *,
    check: str,
    thing: str,
    hint: str,
    shown: Mapping[str, str] | None = None,
    warning: bool = False,
) -> list[Problem]:
    """A problem for each host whose value is not that of the majority; one for all where no majority is.

    `values` maps hosts to what is compared, `shown` to what is said of it; hosts without a value are left out.
    "pc3: Python 3.12.1, the other 3 have 3.11.9", and of two hosts "pc1, pc2: Python 3.11.9 on pc1, 3.12.1 on pc2".
    """
    known = {host: value for host, value in values.items() if value}
    said = {host: (shown or {}).get(host) or value for host, value in known.items()}
    counts = Counter(known.values()).most_common()
    if len(counts) < 2:
        return []
    if counts[0][1] == counts[1][1]:
        groups = " · ".join(f"{value} on {', '.join(names)}" for value, names in group(said).items())
        return [Problem(where=", ".join(known), check=check, what=f"{thing} {groups}", hint=hint, warning=warning)]
    majority = [host for host, value in known.items() if value == counts[0][0]]
    rest = " and ".join(group({host: said[host] for host in majority}))
    whole = len(majority) == len(known) - 1
    others = f"the other {len(majority)} have" if whole else f"{len(majority)} of {len(known)} hosts have"
    return [
        Problem(where=host, check=check, what=f"{thing} {said[host]}, {others} {rest}", hint=hint, warning=warning)
        for host, value in known.items() if value != counts[0][0]
    ]  # fmt: skip


def group(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Value -> the hosts that have it, the value of most hosts first."""
    found: dict[str, list[str]] = {}
    for host, value in values.items():
        found.setdefault(value, []).append(host)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def minor(version: str) -> str:
    """3.11 of 3.11.9."""
    return ".".join(version.split(".")[:2])


def check_systems(hosts: Mapping[str, Found]) -> list[Problem]:
    """Gloo does not connect Windows with Linux."""
    hint = "leave one kind out of the group `workers`: gloo does not connect Windows with Linux"
    values, shown = (
        {name: host.os for name, host in hosts.items()},
        {name: host.release for name, host in hosts.items()},
    )
    return name_odd(values, check="system", thing="system", hint=hint, shown=shown)


def check_pythons(hosts: Mapping[str, Found], wanted: str) -> list[Problem]:
    """One minor for all: pickles, wheels and the lock are made for it."""
    shown = {name: host.python for name, host in hosts.items() if host.python}
    values = {name: minor(version) for name, version in shown.items()}
    hint = "give every host the same one by uv_env_python or uv_env_interpreter, or leave both empty: uv then brings it"
    odd = name_odd(values, check="versions", thing="Python", hint=hint, shown=shown)
    if odd or not wanted or set(values.values()) <= {wanted}:
        return odd
    what = f"Python {', '.join(sorted(set(shown.values())))}, wanted is {wanted}"
    hint = "set uv_env_python_version, or give another interpreter by uv_env_python or uv_env_interpreter"
    return [Problem(where=", ".join(values), check="versions", what=what, hint=hint)]


def check_loopback(hosts: Mapping[str, Found]) -> list[Problem]:
    """An address of the loopback reaches nobody else, so all have one or none."""
    lone = [name for name, host in hosts.items() if host.loopback]
    if len(lone) == len([host for host in hosts.values() if host.address]):
        return []
    return [
        Problem(
            where=name, check="adapter", what=f"{hosts[name].address} is of the loopback, and no other host reaches it",
            hint=f"set fleet_address of {name} to the address of its network cable",
        )
        for name in lone
    ]  # fmt: skip


def check_drivers(hosts: Mapping[str, Found]) -> list[Problem]:
    """Drivers of two families make uv take two builds of torch, cu126 beside cu130."""
    shown = {name: ", ".join(sorted({gpu.driver for gpu in host.gpus if gpu.driver})) for name, host in hosts.items()}
    oldest = {name: min((major for gpu in host.gpus if (major := driver_major(gpu)) is not None), default=None)
              for name, host in hosts.items()}  # fmt: skip
    values = {name: f"CUDA {cuda_of(major)}" for name, major in oldest.items() if major is not None}
    hint = "install one driver on all, or fix the build for all: -e uv_env_torch_backend=cu126"
    return name_odd(values, check="driver", thing="driver", hint=hint, shown=shown, warning=True)


def check_gpus(hosts: Mapping[str, Found]) -> list[Problem]:
    """Every step waits for the slowest GPU."""
    values = {name: " and ".join(sorted({gpu.name for gpu in host.gpus})) or "none" for name, host in hosts.items()}
    hint = "every step waits for the slowest GPU; leave the odd host out if it slows the others"
    return name_odd(values, check="gpu", thing="GPU", hint=hint, warning=True)


def table(hosts: Mapping[str, Found]) -> str:
    """A line for each row that at least one host could tell: its name, then each value with the hosts that have it."""
    lines = []
    width = max(len(title) for title, _ in ROWS)
    for title, say in ROWS:
        values = {name: say(host) or UNKNOWN for name, host in hosts.items()}
        if set(values.values()) != {UNKNOWN}:
            cells = [f"{value}: {' '.join(names)}" for value, names in group(values).items()]
            lines.append(f"{title:<{width}}  {' · '.join(cells)}")
    return "\n".join(lines)


def _gpus(host: Found) -> str:
    names = [f"{gpu.name} {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else gpu.name for gpu in host.gpus]
    counts = Counter(names)
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items()) or "none"


def _adapter(host: Found) -> str:
    if host.adapter is None:
        return ""
    speed = f", {host.adapter.mbit} Mbit/s" if host.adapter.mbit else ""
    return f"{host.adapter.name}, {host.adapter.kind}{speed}"


def _clock(host: Found) -> str:
    if host.skew_seconds is None:
        return ""
    near = abs(host.skew_seconds) <= host.skew_error_seconds + 1
    return "as here" if near else f"{host.skew_seconds:+.0f} s"


def _amount(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f} {unit}"


def _power(host: Found) -> str:
    seconds = host.power.sleep_seconds
    sleep = "" if seconds is None else f"sleeps after {seconds / 60:.12g} min" if seconds else "never sleeps"
    return ", ".join(filter(None, (host.power.name, sleep)))


def _restart(host: Found) -> str:
    if host.os != "Windows":
        return "pending" if host.reboot else ""
    begin, end = host.active_hours or (0, 0)
    updates = f", by updates from {end}:00 to {begin}:00" if begin != end else ""
    return ("pending" if host.reboot else "none pending") + updates


def _own_name(host: Found) -> str:
    return ", ".join("its address" if each == host.address else each for each in host.resolves)


ROWS: Final[Sequence[tuple[str, Callable[[Found], str]]]] = (
    ("System", lambda host: host.release),
    ("Python", lambda host: host.python),
    ("GPUs", _gpus),
    ("Driver", lambda host: ", ".join(sorted({gpu.driver for gpu in host.gpus if gpu.driver}))),
    ("Memory", lambda host: _amount(host.memory_gib, "GiB")),
    ("Free memory", lambda host: _amount(host.memory_free_gib, "GiB")),
    ("Free disk", lambda host: _amount(host.disk_free_gb, "GB")),
    ("Adapter", _adapter),
    ("Own name", _own_name),
    ("Clock", _clock),
    ("Power", _power),
    ("Restart", _restart),
    ("Run", lambda host: ", ".join(host.going_on)),
)
