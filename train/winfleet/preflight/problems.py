"""What a check found wrong: where, what, the fix, and the check's name. Named checks can be turned into warnings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# The names that fleet_warnings takes, each with what the check asks.
CHECKS: Final[Mapping[str, str]] = {
    "address": "fleet_address is one of the host's own, and of no other host",
    "adapter": "the adapter of that address is a cable's, not one of a VPN, WSL, Hyper-V or Docker",
    "clock": "the host's clock is that of the controller",
    "command": "the command finds its packages and files",
    "data": "code and data on the hosts are those of the controller",
    "disk": "free space below fleet_home",
    "driver": "the GPU's driver is new enough for torch's CUDA build",
    "firewall": "no rule or policy keeps the cluster out",
    "gpu": "the GPUs are free and alike",
    "links": "every pair of hosts connects, fast enough",
    "memory": "free memory",
    "name": "the host's own name resolves to an address of the cluster",
    "paths": "fleet_home is short enough for Windows' limit of 260 characters",
    "ports": "the ports 29500 to 29504 are free and stay so",
    "power": "the PC does not go to sleep",
    "processes": "no more ranks than GPUs",
    "reboot": "no restart is pending",
    "runtime": "the Visual C++ runtime that torch needs is there",
    "security": "Smart App Control lets unsigned programs run",
    "system": "the hosts have one operating system",
    "versions": "the hosts have one Python, one torch",
}
# Without these there is nothing to run, so they stay errors: files and settings, a host that answers, a home that can be written.
FIRM: Final = ("settings", "reachable", "home")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why no training was started, or with `warning` what may slow or end it: where, what, and the fix."""

    where: str  # a host, "pc1 -> pc2", "inventory" or "controller"
    what: str
    hint: str
    check: str  # one of CHECKS or FIRM
    warning: bool = False  # worth a line, and no reason to stop

    def __post_init__(self) -> None:
        if self.check not in CHECKS and self.check not in FIRM:
            raise ValueError(f"no check {self.check!r}")

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n  hint: {self.hint}"


def read_names(value: object) -> list[str]:
    """fleet_warnings as a list of names: it may be a list, or a text with commas as -e gives it."""
    parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
    return [name for part in parts if (name := str(part).strip())]


def check_names(allowed: Iterable[str]) -> list[Problem]:
    """A problem for each name in fleet_warnings that is no check's, or one of a check that stays an error."""
    return [
        Problem(
            where="controller", check="settings",
            what=f"fleet_warnings: the check {name!r} stays an error" if name in FIRM else f"fleet_warnings: no check {name!r}",
            hint=f"the names are {', '.join(CHECKS)}",
        )
        for name in allowed if name not in CHECKS
    ]  # fmt: skip


def sort_out(problems: Sequence[Problem], allowed: Sequence[str]) -> tuple[list[Problem], list[str]]:
    """(problems that stop, lines of the warnings). What is only let pass by fleet_warnings says so."""
    stopping = [problem for problem in problems if not problem.warning and problem.check not in allowed]
    lines = []
    for problem in problems:
        if problem.warning:
            lines.append(f"warning: {problem}")
        elif problem.check in allowed:
            lines.append(
                f"warning: {problem.where}: {problem.what} (fleet_warnings lets `{problem.check}` pass)\n  hint: {problem.hint}"
            )
    return stopping, lines


def error_text(problems: Sequence[Problem]) -> str:
    """One text of all that stops: a paragraph each, and at the end how those that may be let pass are let pass."""
    lines = [str(problem) for problem in problems]
    if names := sorted({problem.check for problem in problems} & set(CHECKS)):
        lines.append(f"To go on in spite of that: -e fleet_warnings={','.join(names)}")
    return "\n".join(lines)
