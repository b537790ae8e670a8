"""Shows a run in the terminal while it goes on: `python -m winfleet.status [--run FOLDER | --inventory PATH] [--once]`.

All of it comes from the launchers' status.json, by HTTP or, where none answers, as it lies in the run's folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from winfleet.core.plan import Plan, PlanError, newest_run
from winfleet.core.reading import plain
from winfleet.core.status import (
    ENDED,
    SILENT_SECONDS,
    Event,
    Status,
    StatusError,
    fetch,
    progress_line,
    read_file,
)
from winfleet.view.table import cells, describe_host, table
from winfleet.view.verdict import verdicts

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOK_SECONDS: Final = 1.0
MAX_LINE: Final = 300  # characters of an event
EVENTS: Final = 8  # the newest
INVENTORY_SECONDS: Final = 60.0


class WatchError(ValueError):
    """Nothing can be shown; the text ends in a hint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A launcher to ask."""

    name: str
    address: str
    run: str = ""  # which run it should serve; "" for any
    folder: Path | None = None  # where its status.json lies when it does not answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the launchers said."""

    statuses: tuple[Status, ...]
    silent: tuple[str, ...]  # a line for each host of which nothing is known

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return bool(self.statuses) and not self.silent and all(status.state in ENDED for status in self.statuses)


def targets_of_run(folder: Path) -> list[Target]:
    """The hosts of a run's plan. Raises WatchError where it cannot be read."""
    try:
        plan = Plan.load(folder / "plan.json")
    except PlanError as error:
        raise WatchError(f"`{folder}` has no readable plan\nhint: give the folder of one run") from error
    return [
        Target(name=host.name, address=host.address, run=plan.run, folder=folder / host.name) for host in plan.hosts
    ]


def targets_of_inventory(path: str) -> list[Target]:
    """The hosts of the group `workers`. Raises WatchError where Ansible cannot read the inventory."""
    command = ["ansible-inventory", "-i", path, "--list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INVENTORY_SECONDS, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = plain(getattr(error, "stderr", None) or error, MAX_LINE).strip()
        raise WatchError(
            f"the inventory `{path}` cannot be read: {said}\nhint: ansible-inventory -i {path} --list"
        ) from None
    values = found.get("_meta", {}).get("hostvars", {})
    names = hosts_below(found, "workers")
    if not names:
        raise WatchError(
            f"the inventory `{path}` has no hosts in the group `workers`\nhint: ansible-inventory -i {path} --graph"
        )
    return [Target(name=name, address=address_of(name, values.get(name, {}))) for name in names]


def hosts_below(groups: dict[str, Any], group: str) -> list[str]:
    """Hosts of a group and of its children, each once, in their order."""
    own = groups.get(group, {})
    names = [*own.get("hosts", []), *(name for child in own.get("children", []) for name in hosts_below(groups, child))]
    return list(dict.fromkeys(names))


def address_of(name: str, values: dict[str, Any]) -> str:
    """A host's fleet_address where it is one, else how Ansible reaches it, as group_vars/all.yml says."""
    given = str(values.get("fleet_address", "{{"))
    return str(values.get("ansible_host", name)) if "{{" in given else given


def ask(target: Target) -> Status | str:
    """The launcher's status, else the one in its folder, else why there is none."""
    where = f"{target.address}:29502"
    try:
        status = fetch(socket.gethostbyname(target.address))
        if status.run == target.run or not target.run:
            return status
        trouble = f"{target.name}: {where} serves run {plain(status.run, 64)}"
    except (OSError, StatusError) as error:
        trouble = f"{target.name}: no launcher answers at {where} ({plain(error, MAX_LINE)})"
    return _read(target.folder / "status.json" if target.folder else None) or trouble


def _read(path: Path | None) -> Status | None:
    """A status that lies here; its launcher is lost where its last word is old."""
    status = None
    with contextlib.suppress(OSError):
        status = read_file(path) if path else None
    if status is None:
        return None
    silent = status.state not in ENDED and time.time() - status.time > SILENT_SECONDS
    return dataclasses.replace(status, state="lost") if silent else status


def look(targets: Sequence[Target]) -> Seen:
    """Asks all launchers at once."""
    with ThreadPoolExecutor(max_workers=min(32, len(targets))) as pool:
        found = list(pool.map(ask, targets))
    return Seen(
        statuses=tuple(one for one in found if isinstance(one, Status)),
        silent=tuple(one for one in found if isinstance(one, str)),
    )


def runs_of(statuses: Sequence[Status]) -> list[list[Status]]:
    """The statuses of each run."""
    return [[status for status in statuses if status.run == run] for run in sorted({status.run for status in statuses})]


def newest_events(statuses: Sequence[Status]) -> list[tuple[str, str]]:
    """Time of day and text of the newest events; what all hosts say is said once."""
    said: dict[str, Event] = {}
    for event in sorted((event for status in statuses for event in status.events), key=lambda event: event.time):
        said.setdefault(event.text, event)
    return [(_time_of_day(event.time), plain(event.text, MAX_LINE)) for event in list(said.values())[-EVENTS:]]


def _time_of_day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "--:--:--"


def heading(statuses: Sequence[Status]) -> str:
    """The run's name and its progress."""
    return f"Run {plain(statuses[0].run, 64)}: {progress_line(statuses)}"


def as_text(seen: Seen, width: int | None = None) -> str:
    """All that is known, as plain lines."""
    parts = [] if seen.statuses else ["no run is going on"]
    for statuses in runs_of(seen.statuses):
        parts += [heading(statuses), *verdicts(statuses), "", table(statuses, width=width), ""]
        parts += [describe_host(status) for status in statuses]
        parts += [f"{at}  {text}" for at, text in newest_events(statuses)]
    return "\n".join([*parts, *seen.silent])


def as_screen(seen: Seen, width: int) -> RenderableType:
    """The same for a terminal, in colours. Texts are never read as rich's markup."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [] if seen.statuses else [Text("no run is going on", style="bold")]
    for statuses in runs_of(seen.statuses):
        shown = cells(statuses, time.time(), width)
        grid = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        for column in shown.columns:
            grid.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=True)
        for row in shown.rows:
            grid.add_row(
                *(Text(cell) for cell in row), style="bold red" if {"stuck", "failed", "lost"} & set(row) else ""
            )
        parts += [Text(heading(statuses), style="bold"), *(Text(text, style="yellow") for text in verdicts(statuses))]
        parts += [Text(), grid, Text(), *(Text(describe_host(status), style="dim") for status in statuses)]
        parts += [Text(f"{at}  {text}") for at, text in newest_events(statuses)]
    return Group(*parts, *(Text(text, style="red") for text in seen.silent))


def follow(targets: Sequence[Target]) -> None:
    """Shows the run until its end, or until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    seen = look(targets)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not seen.ended:
            live.update(as_screen(seen, console.width), refresh=True)
            time.sleep(LOOK_SECONDS)
            seen = look(targets)
    console.print(as_screen(seen, console.width))  # what stays, once the terminal is as it was


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.status", description="Shows a run while it goes on.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--run", type=Path, help="the run's folder (default: the newest one in logs/)")
    which.add_argument("--inventory", help="all launchers of an inventory's workers, whatever they run")
    parser.add_argument("--once", action="store_true", help="print it once, as plain lines")
    found = parser.parse_args(words)
    try:
        if found.inventory:
            targets = targets_of_inventory(found.inventory)
        elif folder := found.run or newest_run(Path("logs")):
            targets = targets_of_run(folder)
        else:
            raise WatchError("no run in `logs`\nhint: give --run FOLDER or --inventory PATH")
        if not found.once and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            follow(targets)
        else:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print(as_text(look(targets), width))
    except WatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"error: {error}\nhint: watch from the control node, with winfleet[control], or use --once", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
