"""The runs below a worker's fleet_home, as their files tell. Standard library alone on Linux."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..core.files import read_object

GOING_ON = ("starting", "running")


def read_status(folder: Path) -> dict[str, Any]:
    """status.json of a run's folder; {} where there is none or it cannot be read."""
    return read_object(folder / "status.json")


def step_of(folder: Path) -> int:
    """The furthest step of this host's ranks, as the run's status tells; 0 where none is known."""
    ranks = read_status(folder).get("ranks")
    steps = [rank.get("step", 0) for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []
    return max((step for step in steps if isinstance(step, int)), default=0)


def launcher_pid(folder: Path) -> int | None:
    """Process id of the run's launcher, None where it does not live."""
    pid = read_status(folder).get("launcher_pid")
    return pid if isinstance(pid, int) and "winfleet.launch" in command_line(pid) else None


def command_line(pid: int) -> str:
    """A process's command line, "" where it is gone: from /proc, or by psutil, which the agent's Python has on Windows."""
    if os.name == "nt":
        import psutil

        try:
            return " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            return ""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def state_of(folder: Path) -> str:
    """The run's state here: what its status says, "lost" where its launcher is gone, "none" where it never began."""
    state = str(read_status(folder).get("state", "none"))
    return "lost" if state in GOING_ON and launcher_pid(folder) is None else state


def going_on(home: Path) -> list[Path]:
    """Folders of the runs whose launcher lives."""
    return [path.parent for path in sorted(home.glob("runs/*/status.json")) if launcher_pid(path.parent)]
