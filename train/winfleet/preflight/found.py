"""What a host says of itself, read as data: wrong types count as unknown, texts are cut, lists end. Pure.

It comes from train/winfleet/host/facts.py on Linux and from plugins/windows/winfleet_host.ps1 on Windows, but whoever is at that
address may say anything. None, "" and () mean that the host could not tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from winfleet.core.reading import plain

MAX_TEXT: Final = 120
MAX_ITEMS: Final = 64

# Words in an adapter's name or description, by what it is then. Looked for in this order, in lower case.
ADAPTER_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "WSL": ("vethernet (wsl",),
    "Docker": ("docker", "br-", "podman", "cni", "flannel"),
    "VPN": ("vpn", "tap-windows", "tap0", "wintun", "wireguard", "wg0", "tun0", "tailscale", "zerotier", "anyconnect", "pangp", "fortinet",
            "nordlynx", "hamachi", "juniper", "sonicwall", "check point virtual", "softether", "wan miniport", "openconnect"),
    "virtual": ("vethernet (default switch", "vethernet (nat", "virtualbox", "vmware", "vmnet", "virbr", "hyper-v virtual switch"),
    "Hyper-V": ("vethernet", "hyper-v"),
    "Bluetooth": ("bluetooth",),
    "Wi-Fi": ("wi-fi", "wifi", "wireless", "wlan", "802.11"),
}  # fmt: skip
# What the system itself calls it: .NET's NetworkInterfaceType, or the kind that `ip -details link` shows.
ADAPTER_TYPES: Final[Mapping[str, str]] = {
    "loopback": "loopback", "wireless80211": "Wi-Fi", "wlan": "Wi-Fi", "ppp": "VPN", "tunnel": "VPN", "tun": "VPN",
    "wireguard": "VPN", "wwanpp": "mobile", "wwanpp2": "mobile",
}  # fmt: skip
# Windows' own power plans; their names are localised, so powercfg's GUIDs are told.
POWER_PLANS: Final[Mapping[str, str]] = {
    "381b4222-f694-41f0-9685-ff5bb260df2e": "Balanced", "8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c": "High performance",
    "a1841308-3541-4fab-bc81-f71556f20b4a": "Power saver", "e9a42b02-d5df-448d-aa00-03f14749eb61": "Ultimate performance",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU. MiB."""

    name: str
    driver: str
    memory_mib: int | None
    free_mib: int | None
    capability: tuple[int, int] | None
    processes: tuple[Process, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process that computes on a GPU; `mib` is None where the driver does not tell, as on most Windows PCs."""

    name: str
    pid: int | None
    mib: int | None

    def __str__(self) -> str:
        told = [f"pid {self.pid}"] if self.pid is not None else []
        told += [f"{self.mib} MiB"] if self.mib is not None else []
        return f"{self.name} ({', '.join(told)})" if told else self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A network adapter; `kind` is cable, Wi-Fi, VPN, WSL, Hyper-V, virtual, Docker, Bluetooth, mobile or loopback."""

    name: str
    kind: str
    mbit: int | None
    addresses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRule:
    """An enabled inbound rule of Windows' firewall that blocks."""

    name: str
    title: str
    program: str  # "" or "Any": every program
    protocol: str
    ports: str  # as Windows shows them: "29500-29504,80", "Any"


@dataclass(frozen=True, kw_only=True, slots=True)
class FirewallProfile:
    """A profile of Windows' firewall that is on and in use; None: not told."""

    name: str
    inbound_rules: bool | None  # AllowInboundRules
    local_rules: bool | None  # AllowLocalFirewallRules


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All that one host told."""

    os: str = ""
    release: str = ""
    python: str = ""  # of the interpreter that will train, where there is one already
    memory_gib: float | None = None
    memory_free_gib: float | None = None
    disk_free_gb: float | None = None
    home: str = ""
    writable: bool | None = None
    name: str = ""
    resolves: tuple[str, ...] = ()  # what its own name resolves to there
    address: str = ""  # what fleet_address resolves to there
    address_error: str = ""  # why it cannot be listened on
    adapters: tuple[Adapter, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    skew_seconds: float | None = None  # its clock less the controller's
    skew_error_seconds: float = 0.0  # how far that may be off: half the time from question to answer
    power_plan: str = ""
    sleep_seconds: int | None = None  # on mains; 0: never
    reboot: tuple[str, ...] = ()  # why a restart is pending
    active_hours: tuple[int, int] | None = None  # from when to when Windows Update does not restart it by itself
    blocks: tuple[BlockRule, ...] = ()
    profiles: tuple[FirewallProfile, ...] = ()
    app_control: int | None = None  # VerifiedAndReputablePolicyState: 0 off, 1 on, 2 evaluation
    long_paths: bool | None = None
    dynamic_ports: tuple[int, int] | None = None  # first, last
    excluded_ports: tuple[tuple[int, int], ...] = ()
    ports_taken: Mapping[str, str] = field(default_factory=dict)  # port -> owner
    going_on: tuple[str, ...] = ()
    run_state: str = "none"
    there: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # kind -> digests, 12 hex digits

    @property
    def adapter(self) -> Adapter | None:
        """The one that has the address; None where that is not known. All of 127/8 is the loopback's."""
        if self.loopback:
            return next((adapter for adapter in self.adapters if adapter.kind == "loopback"), None)
        return next((adapter for adapter in self.adapters if self.address and self.address in adapter.addresses), None)

    @property
    def loopback(self) -> bool:
        """Whether its address reaches nobody but itself."""
        return self.address.startswith("127.")


def read(told: object) -> Found:
    """What a host told. Never raises: what is not as it should be is left out."""
    given: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    firewall, power = given.get("firewall"), given.get("power")
    firewall = firewall if isinstance(firewall, Mapping) else {}
    power = power if isinstance(power, Mapping) else {}
    sleep = number(power.get("sleep_seconds"))
    return Found(
        os=text(given.get("os")), release=text(given.get("release")), python=text(given.get("python")),
        memory_gib=number(given.get("memory_gib")), memory_free_gib=number(given.get("memory_free_gib")),
        disk_free_gb=number(given.get("disk_free_gb")), home=text(given.get("home"), 400), writable=truth(given.get("writable")),
        name=text(given.get("name")), resolves=texts(given.get("resolves")), address=text(given.get("address")),
        address_error=text(given.get("address_error")),
        adapters=tuple(_adapter(each) for each in mappings(given.get("adapters"))),
        gpus=tuple(_gpu(each) for each in mappings(given.get("gpus"))),
        skew_seconds=number(given.get("skew_seconds")), skew_error_seconds=number(given.get("skew_error_seconds")) or 0.0,
        power_plan=POWER_PLANS.get(plan := text(power.get("plan")), plan), sleep_seconds=None if sleep is None else int(sleep),
        reboot=texts(given.get("reboot")), active_hours=hours(given.get("active_hours")),
        blocks=tuple(_block(each) for each in mappings(firewall.get("blocks"))),
        profiles=tuple(_profile(each) for each in mappings(firewall.get("profiles"))),
        app_control=whole(given.get("app_control")), long_paths=truth(given.get("long_paths")),
        dynamic_ports=port_range(given.get("dynamic_ports")),
        excluded_ports=tuple(found for each in items(given.get("excluded_ports")) if (found := port_range(each))),
        ports_taken=_named_texts(given.get("ports_taken")), going_on=texts(given.get("going_on")),
        run_state=text(given.get("run_state")) or "none",
        there={text(kind): texts(names) for kind, names in _pairs(given.get("there"))},
    )  # fmt: skip


def adapter_kind(name: str, description: str, system: str) -> str:
    """What an adapter is, by its name, its description and what its system calls it."""
    if known := ADAPTER_TYPES.get(system.lower()):
        return known
    words = f"{name} {description}".lower()
    return next((kind for kind, known in ADAPTER_WORDS.items() if any(word in words for word in known)), "cable")


def text(value: object, limit: int = MAX_TEXT) -> str:
    """One line without control characters; a number as it is written; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return plain(str(value)[: 4 * limit], limit).replace("\n", " ").strip()


def number(value: object) -> float | None:
    """A finite number that is not negative nonsense; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and abs(found) < 1e15 else None


def whole(value: object) -> int | None:
    """A whole number."""
    found = number(value)
    return None if found is None else int(found)


def truth(value: object) -> bool | None:
    """True or false; None for anything else."""
    return value if isinstance(value, bool) else None


def items(value: object) -> list[Any]:
    """A list, cut; a lone value as PowerShell writes a list of one; nothing for None."""
    if isinstance(value, list | tuple):
        return list(value[:MAX_ITEMS])
    return [] if value is None else [value]


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list, without empty ones."""
    return tuple(found for each in items(value) if (found := text(each)))


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [each for each in items(value) if isinstance(each, Mapping)]


def port_range(value: object) -> tuple[int, int] | None:
    """First and last port."""
    ports = [whole(each) for each in items(value)]
    if len(ports) != 2 or any(port is None or not 0 <= port <= 65535 for port in ports):
        return None
    return int(ports[0] or 0), int(ports[1] or 0)


def hours(value: object) -> tuple[int, int] | None:
    """From which full hour to which one of a day."""
    found = [whole(each) for each in items(value)]
    if len(found) != 2 or any(hour is None or not 0 <= hour < 24 for hour in found):
        return None
    return int(found[0] or 0), int(found[1] or 0)


def _pairs(value: object) -> Iterable[tuple[object, object]]:
    return list(value.items())[:MAX_ITEMS] if isinstance(value, Mapping) else []


def _named_texts(value: object) -> dict[str, str]:
    return {text(key): text(each) or "another process" for key, each in _pairs(value)}


def _adapter(told: Mapping[str, Any]) -> Adapter:
    name, speed = text(told.get("name")), whole(told.get("mbit"))
    return Adapter(
        name=name, kind=adapter_kind(name, text(told.get("description")), text(told.get("type"))),
        mbit=speed if speed and speed > 0 else None, addresses=texts(told.get("addresses")),
    )  # fmt: skip


def _gpu(told: Mapping[str, Any]) -> Gpu:
    major, _, minor = text(told.get("capability")).partition(".")
    return Gpu(
        name=text(told.get("name")), driver=text(told.get("driver")), memory_mib=whole(told.get("memory_mib")) or None,
        free_mib=whole(told.get("free_mib")),
        capability=(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
        processes=tuple(
            Process(name=text(each.get("name")) or "a process", pid=whole(each.get("pid")), mib=whole(each.get("mib")))
            for each in mappings(told.get("processes"))
        ),
    )  # fmt: skip


def _block(told: Mapping[str, Any]) -> BlockRule:
    return BlockRule(
        name=text(told.get("name")), title=text(told.get("title")), program=text(told.get("program"), 400),
        protocol=text(told.get("protocol")), ports=text(told.get("ports"), 400),
    )  # fmt: skip


def _profile(told: Mapping[str, Any]) -> FirewallProfile:
    return FirewallProfile(
        name=text(told.get("name")), inbound_rules=truth(told.get("inbound_rules")), local_rules=truth(told.get("local_rules"))
    )  # fmt: skip
