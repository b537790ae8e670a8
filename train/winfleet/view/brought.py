"""Which of a run's outputs came home, and which stayed on the hosts, as its folder on the controller tells."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from winfleet.checkpoints.results import Results, find_results
from winfleet.core.plan import Plan
from winfleet.core.status import MAX_BYTES, plain
from winfleet.runs.record import files_below

MOST_SHOWN: Final = 40


class Left(NamedTuple):
    """Outputs that were too large to come home."""

    host: str
    work: str  # the folder they lie in
    files: tuple[tuple[str, int], ...]  # path below it, bytes; the largest
    number: int  # of all of them
    megabytes: float


def results_of(folder: Path, plan: Plan) -> Results:
    """The final model and the newest checkpoint among what came home: all in the run's folder that is no host's."""
    hosts = {host.name for host in plan.hosts}
    paths = {path.relative_to(folder): path for path in files_below(folder)}
    return find_results(
        {name.as_posix(): path.stat().st_mtime for name, path in paths.items() if name.parts[0] not in hosts}
    )


def find_left(files: Iterable[tuple[str, Path | None]]) -> tuple[Left, ...]:
    """What each host's left.json says; those that are missing or something else are left out."""
    found = []
    for host, path in files:
        if path is None or path.stat().st_size > MAX_BYTES:
            continue
        try:
            values = json.loads(path.read_text("utf-8"))
            named = tuple((plain(one["path"], 300), int(one["bytes"])) for one in values["left"][:MOST_SHOWN])
            left = Left(host, plain(values["work"], 300), named, len(values["left"]), float(values["left_mb"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        found += [left] if left.number else []
    return tuple(found)
