"""What a host says of itself, read as data: what is wrong counts as unknown. Pure.

It comes from train/winfleet/host/facts.py on Linux and from plugins/windows/winfleet_host.ps1 on Windows, but whoever is at that
address may say anything. None, "" and () mean that the host could not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from winfleet.core.reading import Reader

READER: Final = Reader(text=120, items=64, loose=True)
Long = Annotated[str, 400]
Hour = Annotated[int, (0, 24)]
Port = Annotated[int, (0, 65536)]

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
class Process:
    """A process that computes on a GPU; `mib` is None where the driver does not tell, as on most Windows PCs."""

    name: str = ""
    pid: int | None = None
    mib: int | None = None

    def __str__(self) -> str:
        told = [f"pid {self.pid}"] if self.pid is not None else []
        told += [f"{self.mib} MiB"] if self.mib is not None else []
        name = self.name or "a process"
        return f"{name} ({', '.join(told)})" if told else name


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU. MiB."""

    name: str = ""
    driver: str = ""
    memory_mib: int | None = None
    free_mib: int | None = None
    capability: str | None = None  # "8.6"
    processes: tuple[Process, ...] = ()

    @property
    def compute(self) -> tuple[int, int] | None:
        """Its compute capability, major and minor."""
        major, _, minor = (self.capability or "").partition(".")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A network adapter."""

    name: str = ""
    description: str = ""
    type: str = ""  # what its system calls it
    mbit: Annotated[int, (1, 2**31)] | None = None
    addresses: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Cable, Wi-Fi, VPN, WSL, Hyper-V, virtual, Docker, Bluetooth, mobile or loopback."""
        return adapter_kind(self.name, self.description, self.type)


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """When a PC sleeps."""

    plan: str = ""  # of Windows, by its GUID
    sleep_seconds: int | None = None  # on mains; 0: never

    @property
    def name(self) -> str:
        """The plan as Windows calls it in English."""
        return POWER_PLANS.get(self.plan, self.plan)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRule:
    """An enabled inbound rule of Windows' firewall that blocks."""

    name: str = ""
    title: str = ""
    program: Long = ""  # "" or "Any": every program
    protocol: str = ""
    ports: Long = ""  # as Windows shows them: "29500-29504,80", "Any"


@dataclass(frozen=True, kw_only=True, slots=True)
class FirewallProfile:
    """A profile of Windows' firewall that is on and in use; None: not told."""

    name: str = ""
    inbound_rules: bool | None = None  # AllowInboundRules
    local_rules: bool | None = None  # AllowLocalFirewallRules


@dataclass(frozen=True, kw_only=True, slots=True)
class Firewall:
    """What of Windows' firewall may be in the way, and what stands beside it."""

    running: bool | None = None  # its service, mpssvc
    others: tuple[str, ...] = ()  # firewalls of others that registered with the Security Center
    blocks: tuple[BlockRule, ...] = ()
    profiles: tuple[FirewallProfile, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All that one host told."""

    os: str = ""
    release: str = ""
    python: str = ""  # of the interpreter that will train, where there is one already
    python_lacks: tuple[str, ...] = ()  # libraries of the Visual C++ runtime that it looked for and did not find
    # library of it -> version in Windows' own folder, "" where it is not there
    runtime: Mapping[str, str] = field(default_factory=dict)
    memory_gib: float | None = None
    memory_free_gib: float | None = None
    disk_free_gb: float | None = None
    home: Long = ""
    writable: bool | None = None
    name: str = ""
    resolves: tuple[str, ...] = ()  # what its own name resolves to there
    address: str = ""  # what fleet_address resolves to there
    address_error: str = ""  # why it cannot be listened on
    adapters: tuple[Adapter, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    clock: float | None = None  # its own, unix seconds
    skew_seconds: float | None = None  # its clock less the controller's
    skew_error_seconds: float = 0.0  # how far that may be off: half the time from question to answer
    power: Power = field(default_factory=Power)
    reboot: tuple[str, ...] = ()  # why a restart is pending
    active_hours: tuple[Hour, Hour] | None = None  # from when to when Windows Update does not restart it by itself
    firewall: Firewall = field(default_factory=Firewall)
    app_control: int | None = None  # VerifiedAndReputablePolicyState: 0 off, 1 on, 2 evaluation
    long_paths: bool | None = None
    dynamic_ports: tuple[Port, Port] | None = None  # first, last
    excluded_ports: tuple[tuple[Port, Port], ...] = ()
    ports_taken: Mapping[str, str] = field(default_factory=dict)  # port -> owner, "" where the system does not tell
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
    return READER.read_or_none(Found, told) or Found()


def adapter_kind(name: str, description: str, system: str) -> str:
    """What an adapter is, by its name, its description and what its system calls it."""
    if known := ADAPTER_TYPES.get(system.lower()):
        return known
    words = f"{name} {description}".lower()
    return next((kind for kind, known in ADAPTER_WORDS.items() if any(word in words for word in known)), "cable")
