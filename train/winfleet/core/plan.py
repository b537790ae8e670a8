"""The plan: the only description of a run. Made once on the controller, the same file on every host."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winfleet.core.sending import Sending, SendingError

# Each port has one meaning, the same on every host (the users' guide opens 29500-29504).
RANKS_PORT, AGENTS_PORT, STATUS_PORT, SWARM_PORT, PROBE_PORT = range(29500, 29505)

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HOST_NAME = re.compile(r"[\w][\w.-]{0,253}")  # \w takes Korean names too


class PlanError(ValueError):
    """A plan that cannot be run; the text names the host, the value and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One machine of the run. Its ranks are first_rank … first_rank + processes - 1."""

    name: str  # as in the inventory
    address: str  # IPv4 address that the other hosts reach; ranks bind it
    machine_rank: int
    processes: int  # one a GPU, or as many as asked for on a CPU
    first_rank: int
    adapter: str = ""  # the network adapter that has the address, "" where unknown
    os: str = "Linux"
    gpus: tuple[str, ...] = ()  # their names, in local_rank order

    def __post_init__(self) -> None:
        if not HOST_NAME.fullmatch(self.name):
            raise PlanError(f"host {self.name!r}: not a host name\nhint: letters, digits, '.', '_' and '-' alone")
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError:
            raise PlanError(
                f"host {self.name}: address {self.address!r} is not an IPv4 address\n"
                f"hint: set fleet_address of {self.name} to the address that the other hosts reach"
            ) from None
        if self.processes < 1:
            raise PlanError(
                f"host {self.name}: {self.processes} processes\nhint: set fleet_processes of {self.name} to 1 or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole run."""

    run: str  # its name; the folder's name on every host and in logs/
    command: tuple[str, ...]  # the trainer and its arguments; {data} and {config} are filled in on the host
    hosts: tuple[Host, ...]  # in machine_rank order
    code: str | None = None  # digests of what the run uses, 12 hex digits; None: nothing was sent
    data: str | None = None
    environment: str | None = None
    config: str | None = None  # text of the training configuration, written beside the plan as config.yaml
    backend: str = "gloo"  # nccl where every host is a Linux host with GPUs
    mixed_precision: str = "no"
    max_restarts: int = 0  # new attempts after a rank has failed
    start_timeout_seconds: int = 600  # from the launcher's start to the first step's process group
    stuck_seconds: int = 120  # a rank that does not move for so long is called stuck; 0: none ever is
    resume: bool = (
        True  # whether a library's trainer goes on from this run's newest checkpoint where its script gives none
    )
    sending: Sending = dataclasses.field(default_factory=Sending)
    variables: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)  # host -> extra environment

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.run):
            raise PlanError(
                f"run {self.run!r}: not a run name\nhint: fleet_run takes letters, digits, '.', '_' and '-', 64 at most"
            )
        if not self.command:
            raise PlanError('no command to run\nhint: set fleet_command, for example "train.py --epochs 3"')
        if not self.hosts:
            raise PlanError("no hosts\nhint: put at least one host into the group `workers` of the inventory")
        _check_ranks(self.hosts)
        check_addresses([(host.name, host.address) for host in self.hosts])
        systems = {host.os for host in self.hosts}
        if "Windows" in systems and len(systems) > 1:
            others = ", ".join(f"{host.name} ({host.os})" for host in self.hosts if host.os != "Windows")
            raise PlanError(
                f"Windows and other hosts cannot train in one group: {others}\n"
                "hint: gloo does not connect them; leave one kind out of the group `workers`"
            )

    @property
    def world_size(self) -> int:
        """Number of ranks of the whole run."""
        return sum(host.processes for host in self.hosts)

    def host(self, machine_rank: int) -> Host:
        """The host of that machine_rank; IndexError if there is none."""
        return self.hosts[machine_rank]

    def to_json(self) -> str:
        """The plan as it is written to plan.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads plan.json again. Raises PlanError where it is not one."""
        try:
            values: dict[str, Any] = json.loads(text)
            values["hosts"] = tuple(Host(**{**host, "gpus": tuple(host["gpus"])}) for host in values["hosts"])
            values["command"] = tuple(values["command"])
            values["sending"] = Sending.of_plan(values.get("sending"))
            return cls(**values)
        except (KeyError, TypeError, SendingError, json.JSONDecodeError) as error:
            raise PlanError(f"plan.json cannot be read: {error}\nhint: deploy again") from None

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads the file. Raises PlanError where it is missing or is no plan."""
        try:
            return cls.from_json(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{path}: {getattr(error, 'strerror', error)}\nhint: deploy again") from None


def lay_out_hosts(hosts: Iterable[Mapping[str, Any]]) -> tuple[Host, ...]:
    """Gives hosts their machine_rank (the order they come in) and first_rank (the sum of processes before them).

    Nothing else in winfleet computes a rank. Hosts may have unequal numbers of processes.
    """
    laid: list[Host] = []
    first_rank = 0
    for machine_rank, values in enumerate(hosts):
        host = Host(machine_rank=machine_rank, first_rank=first_rank, **values)
        first_rank += host.processes
        laid.append(host)
    return tuple(laid)


def choose_backend(hosts: Sequence[Host]) -> str:
    """Nccl where all hosts are Linux hosts with GPUs, gloo everywhere else (torch on Windows has gloo alone)."""
    return "nccl" if all(host.os == "Linux" and host.gpus for host in hosts) else "gloo"


def check_script(command: Sequence[str]) -> None:
    """Raises PlanError where the command's script is not there."""
    if command[0] != "-m" and not Path(command[0]).is_file():
        raise PlanError(f"no script {command[0]} in {Path.cwd()}\nhint: give its path, or -m for a module")


def newest_run(logs: Path) -> Path | None:
    """The folder in `logs` with the newest plan; None where there is none."""
    plans = list(logs.glob("*/plan.json"))
    return max(plans, key=lambda path: path.stat().st_mtime).parent if plans else None


def check_addresses(pairs: Sequence[tuple[str, str]]) -> None:
    """Raises PlanError where two hosts, given as (name, address), share an address."""
    seen: dict[str, str] = {}
    for name, address in pairs:
        if address in seen:
            raise PlanError(
                f"hosts {seen[address]} and {name} have the same address {address}\n"
                f"hint: give {name} its own fleet_address, or remove one of the two from the inventory"
            )
        seen[address] = name


def _check_ranks(hosts: Sequence[Host]) -> None:
    first_rank = 0
    for machine_rank, host in enumerate(hosts):
        if (host.machine_rank, host.first_rank) != (machine_rank, first_rank):
            raise PlanError(
                f"host {host.name}: machine_rank {host.machine_rank} and first rank {host.first_rank}, "
                f"expected {machine_rank} and {first_rank}\nhint: make the plan with lay_out_hosts()"
            )
        first_rank += host.processes
