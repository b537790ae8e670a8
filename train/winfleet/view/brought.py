"""Which of a run's outputs came home, and which stayed on the hosts, as its folder on the controller tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from winfleet.checkpoints.results import Results, find_results
from winfleet.core.files import read_object
from winfleet.core.plan import Plan
from winfleet.core.reading import Reader
from winfleet.core.status import MAX_BYTES
from winfleet.runs.record import files_below

MOST_SHOWN: Final = 40


class Left(NamedTuple):
    """Outputs that were too large to come home."""

    host: str
    work: str  # the folder they lie in
    files: tuple[tuple[str, int], ...]  # path below it, bytes; the largest
    number: int  # of all of them
    megabytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    path: Annotated[str, 300]
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """What left.json may hold."""

    work: Annotated[str, 300]
    left: tuple[_File, ...]
    left_mb: float


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
        told = Reader().read_or_none(_Told, read_object(path))
        if told is not None and told.left:
            named = tuple((one.path, one.bytes) for one in told.left[:MOST_SHOWN])
            found.append(Left(host, told.work, named, len(told.left), told.left_mb))
    return tuple(found)
