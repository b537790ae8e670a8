"""May this cluster train? Judges what its hosts said in the rehearsal. Pure functions; every problem names host, value and fix."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from winfleet.core.plan import AGENTS_PORT, RANKS_PORT, STATUS_PORT, SWARM_PORT, Plan
from winfleet.core.reading import Reader, plain
from winfleet.preflight.comparisons import minor, name_odd
from winfleet.preflight.hosts import PORT_MEANINGS, SKEW_SECONDS, say_skew
from winfleet.preflight.problems import Problem
from winfleet.rehearsal.links import Link, Target
from winfleet.transfer.folders import SHORT

LACKS_PACKAGE: Final = (
    "put the package into your project's lock or requirements.txt, or into the Python that uv_env_python names"
)
LACKS_FILE: Final = (
    "it is neither in the code nor in the data that were sent: is it ignored by git, or a path of this machine?"
)
GIB: Final = 2**30
SLOW_NAME_SECONDS: Final = 2.0
SLOW_LINK: Final = 0.5  # of the cluster's median link: a bad cable, a port of 100 Mbit/s, Wi-Fi
SHOWN: Final = 3
TOOLS: Final = ("pip", "setuptools", "wheel", "uv")  # no training sees them
DYNAMIC: Final = {"Windows": "49152-65535", "Linux": "32768-60999"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a host is and has, as it says."""

    python: str = ""
    lock: str = ""  # digest of the lock that its environment was made from; "" where an interpreter was given
    packages: Annotated[Mapping[str, str], 2_000] = field(default_factory=dict)  # name -> version
    folders: Mapping[str, tuple[str, bool]] = field(
        default_factory=dict
    )  # code, data -> (digest, whether it covers the content)
    port: int  # the one of the dynamic range
    host_name: str = ""
    resolves: tuple[str, ...] = ()
    resolve_seconds: float = 0.0
    memory_free_bytes: int | None = None

    @classmethod
    def parse(cls, values: object) -> Facts | None:
        """Reads what came from a host; None where it is nothing of the kind."""
        return Reader(text=80).read_or_none(cls, values)


def _text(value: object) -> str:
    return " ".join(plain(value, 80).split()) if isinstance(value, str) else ""


def number(value: object, most: float) -> float:
    """A host's number between 0 and `most`; 0 for anything else."""
    return float(value) if isinstance(value, int | float) and 0.0 <= value <= most else 0.0


# -- what must be reached


def needed_ports(plan: Plan) -> dict[str, list[int]]:
    """Host -> ports on which it listens in the rehearsal, beside its own of the dynamic range."""
    everywhere = [STATUS_PORT, SWARM_PORT]
    return {
        host.name: [*everywhere, *([RANKS_PORT, AGENTS_PORT] if host.machine_rank == 0 else [])] for host in plan.hosts
    }


def needed_targets(plan: Plan, dynamic: Mapping[str, int]) -> dict[str, list[Target]]:
    """Host -> what it must reach: every other host's dynamic port, as gloo does, its files, and the first host's two stores."""
    found = {}
    for source in plan.hosts:
        others = [host for host in plan.hosts if host is not source]
        ports = [(host, port) for host in others for port in (dynamic[host.name], SWARM_PORT)]
        ports += [(host, port) for host in others if host.machine_rank == 0 for port in (RANKS_PORT, AGENTS_PORT)]
        found[source.name] = [Target(host=host.name, address=host.address, port=port) for host, port in ports]
    return found


def as_closed(source: str, values: object, targets: Sequence[Target]) -> list[tuple[str, Target, str]]:
    """What a host says that it cannot reach, of what it was asked to; (source, target, why)."""
    known = {(target.host, target.port): target for target in targets}
    entries = [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []
    found = []
    for entry in entries[: len(targets)]:
        host, port = entry.get("host"), entry.get("port")
        if isinstance(host, str) and isinstance(port, int) and (host, port) in known:
            found.append((source, known[host, port], _text(entry.get("why"))))
    return found


def check_reached(closed: Iterable[tuple[str, Target, str]], plan: Plan) -> list[Problem]:
    """One line for each host and kind of port that cannot be reached, with the direction."""
    systems = {host.name: host.os for host in plan.hosts}
    grouped: dict[tuple[str, int, str], list[tuple[str, Target]]] = collections.defaultdict(list)
    for source, target, why in closed:
        named = target.port if str(target.port) in PORT_MEANINGS else 0
        grouped[target.host, named, why].append((source, target))
    problems = []
    for (host, named, why), pairs in grouped.items():
        target, sources = pairs[0][1], ", ".join(source for source, _ in pairs)
        kind = PORT_MEANINGS[str(named)] if named else "of the dynamic range, as gloo takes"
        ports = str(named) if named else DYNAMIC[systems[host]]
        firewall = "worker_setup.yml opens" if systems[host] == "Windows" else "open"
        problems.append(Problem(
            where=f"{sources} -> {host}", check="links",
            what=f"TCP port {target.port} ({kind}) of {target.address} cannot be reached: {why}",
            hint=f"{firewall} TCP {ports} in the firewall of {host} for {sources}; look for other rules and for a VPN between them",
        ))  # fmt: skip
    return problems


def check_ports(refused: Mapping[str, Mapping[str, str]], plan: Plan) -> list[Problem]:
    """Ports that a host could not listen on; host -> port -> why."""
    addresses = {host.name: host.address for host in plan.hosts}
    return [
        Problem(where=name, what=f"port {port} ({PORT_MEANINGS.get(port, 'of the rehearsal')}) on {addresses[name]} cannot be had: {why}",
                hint="end the process that has it, or wait for its end", check="ports")
        for name, ports in refused.items() for port, why in ports.items()
    ]  # fmt: skip


# -- what must be the same


def check_versions(facts: Mapping[str, Facts]) -> list[Problem]:
    """The same Python and packages everywhere; a local part, as +cu129 or +cu130, tells builds of one version apart."""
    pythons = {name: found.python for name, found in facts.items()}
    problems = name_odd(
        {name: minor(python) for name, python in pythons.items()}, shown=pythons, check="versions", thing="Python",
        hint="let uv make the environment: leave uv_env_python empty",
    )  # fmt: skip
    shared = set.intersection(*(set(found.packages) for found in facts.values())) - set(TOOLS) if facts else set()
    has = {package: {name: found.packages[package] for name, found in facts.items()} for package in shared}
    public = {package: {name: each.partition("+")[0] for name, each in has[package].items()} for package in shared}
    different = [package for package in shared if len(set(public[package].values())) > 1]
    hint = "remove the newest folder below env/ of fleet_home there and deploy again; it is made anew from the lock"
    hint += f" ({len(different)} packages differ)" if len(different) > SHOWN else ""
    for package in sorted(different, key=lambda package: (package != "torch", package))[:SHOWN]:
        problems += name_odd(public[package], shown=has[package], check="versions", thing=package, hint=hint)
    return problems


def check_locks(facts: Mapping[str, Facts], plan: Plan) -> list[Problem]:
    """Each environment was made from the plan's lock."""
    return [
        Problem(
            where=name, check="versions",
            what=f"its environment is of the lock {found.lock[:SHORT]}, this controller's lock is {plan.environment}",
            hint=f"deploy again without fleet_skip_deploy; env/{plan.environment} below fleet_home of {name} is made anew",
        )
        for name, found in facts.items()
        if plan.environment and found.lock and not found.lock.startswith(plan.environment)
    ]  # fmt: skip


def check_folders(facts: Mapping[str, Facts], plan: Plan) -> list[Problem]:
    """The code and data that a host really has are those of the plan; large folders are compared with the others'."""
    problems = []
    for kind, expected in (("code", plan.code), ("data", plan.data)):
        if expected is None:
            continue
        place = f"{kind}/{expected}"
        found = {name: host.folders.get(kind, ("", True)) for name, host in facts.items()}
        for name, (value, whole) in found.items():
            if whole and not value.startswith(expected):
                has = f"the digest {value[:SHORT]}" if value else "nothing"
                problems.append(Problem(
                    where=name, what=f"{place} there has {has}, not what was sent", check="data",
                    hint=f"remove {place} below fleet_home of {name} and deploy again; runs never write there",
                ))  # fmt: skip
        problems += name_odd(
            {name: value[:SHORT] for name, (value, whole) in found.items() if not whole}, check="data",
            thing=f"{place} with names and sizes", hint=f"remove {place} below fleet_home there and deploy again",
        )  # fmt: skip
    return problems


def check_clocks(skews: Mapping[str, float]) -> list[Problem]:
    """Clocks near the controller's (seconds ahead of it); where all hosts agree on another time, it is the controller's."""
    odd = {name: skew for name, skew in skews.items() if abs(skew) > SKEW_SECONDS}
    if len(odd) == len(skews) > 1 and max(skews.values()) - min(skews.values()) < SKEW_SECONDS:
        return [say_skew("controller", -statistics.median(skews.values()), "the hosts'")]
    return [say_skew(name, skew, "the controller's") for name, skew in odd.items()]


# -- what does not keep a cluster from training, but should be known


def note_names(facts: Mapping[str, Facts], plan: Plan) -> list[str]:
    """Host names that would lead a program astray which asks for its own; winfleet's ranks go by the plan's address."""
    notes = []
    for host in plan.hosts:
        found = facts.get(host.name)
        if found is not None and found.resolve_seconds > SLOW_NAME_SECONDS:
            notes.append(
                f"{host.name}: to look up its own name {found.host_name} takes {found.resolve_seconds:.0f} s; "
                "a line for it in the hosts file makes starts faster"
            )
    return notes


def note_builds(facts: Mapping[str, Facts]) -> list[str]:
    """Builds of torch that differ in their local part alone."""
    builds: dict[str, list[str]] = collections.defaultdict(list)
    for name, found in facts.items():
        builds[found.packages.get("torch", "")].append(name)
    if len(builds) < 2:
        return []
    listed = "; ".join(f"{build} on {', '.join(names)}" for build, names in builds.items())
    return [f"torch comes in several builds: {listed}"]


def note_slow_links(links: Sequence[Link]) -> list[str]:
    """Links that are much slower than the others, with the direction."""
    if len(links) < 4:
        return []
    usual = statistics.median(link.bytes_per_second for link in links)
    return [
        f"{link.name}: {mbits(link.bytes_per_second)} Mbit/s, half of the links have {mbits(usual)} or more; "
        "look at its cable, its switch port, or whether it is Wi-Fi"
        for link in links
        if link.bytes_per_second < SLOW_LINK * usual
    ]


def check_links(links: Sequence[Link]) -> list[Problem]:
    """Links on which small packets pass and large ones do not."""
    return [
        Problem(where=link.name, what="small packets get through, large ones do not", check="links",
                hint=f"give the adapter of {link.source} the MTU of the network (a VPN or jumbo frames), or take another adapter")
        for link in links if link.bytes_per_second <= 0
    ]  # fmt: skip


def check_devices(answers: Mapping[str, Any], plan: Plan) -> list[Problem]:
    """What the ranks said of their devices."""
    problems = []
    for host in plan.hosts:
        values = answers.get(host.name)
        entries = values if isinstance(values, list) else []
        for local_rank, entry in enumerate(entries[: host.processes]):
            error = _text(entry.get("error")) if isinstance(entry, dict) else "no answer"
            if error:
                problems.append(Problem(
                    where=host.name, what=f"{error} (rank {host.first_rank + local_rank})", check="gpu",
                    hint="run nvidia-smi there; a torch without CUDA, or a driver too old for it, is made good by uv_env_torch_backend=auto",
                ))  # fmt: skip
    return problems


def check_memory(plan: Plan, gradient_bytes: int, free: Mapping[str, int]) -> list[Problem]:
    """What averaging keeps in a host's memory; `free`: host -> bytes, before its ranks have started."""
    found = []
    for host in plan.hosts:
        needed = plan.sending.memory_bytes(gradient_bytes, host.processes, len(plan.hosts))
        if needed > free.get(host.name, needed):
            found.append(Problem(
                where=host.name, check="memory",
                what=f"averaging keeps {needed / GIB:.1f} GiB in the host's memory, and {free[host.name] / GIB:.1f} GiB are free",
                hint="fleet_average_every: 0, fewer processes there, or end what else takes its memory",
            ))  # fmt: skip
    return found


def check_trials(lacking: Sequence[tuple[str, str]]) -> list[Problem]:
    """What the command lacked on a host (name, exception) when it was tried: every rank of the run would end with it."""
    named: dict[str, list[str]] = {}
    for name, exception in lacking:
        named.setdefault(exception, []).append(name)
    return [
        Problem(
            where=", ".join(names), check="command", what=f"the command was tried, and ended with {exception}",
            hint=LACKS_PACKAGE if exception.startswith(("ModuleNotFoundError", "ImportError")) else LACKS_FILE,
        )
        for exception, names in named.items()
    ]  # fmt: skip


def mbits(bytes_per_second: float) -> str:
    """94, or 9400: Mbit/s with two or three digits that count."""
    value = bytes_per_second * 8 / 1e6
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
