"""What the hosts of a run do about their checkpoints before ranks start, worked out by one of them from what all of them have.

Of each family the newest member is taken that is whole on all hosts together; newer ones are set aside. Each host gets what
it lacks of it. What a host wrote itself is never replaced, only what it was brought earlier and has not touched.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from winfleet.checkpoints.find import Checkpoint, find, newest_of_each, pointers, to_resume
from winfleet.checkpoints.whole import lacking

SPARE_BYTES: Final = 256 * 2**20  # that a checkpoint must leave free


class ExchangeError(RuntimeError):
    """Why a checkpoint cannot be made whole; a sentence that names the host, and a hint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """A file of a host: its size, its time of change at whom it comes from (ns), and whether this host was brought it."""

    size: int
    mtime_ns: int
    brought: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What a host has of checkpoints. Paths are posix, below work/."""

    host: str
    free_bytes: int
    files: Mapping[str, Holding] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)  # path -> why it cannot be whole
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # index of shards -> paths that it names

    def to_json(self) -> str:
        """As it goes through the agents' store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Inventory:
        """Reads it again. Raises ExchangeError."""
        try:
            values: dict[str, Any] = json.loads(text)
            files = {path: Holding(**holding) for path, holding in values.pop("files").items()}
            return cls(files=files, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExchangeError(f"what a host has of checkpoints cannot be read: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """Files that go from one host to another, by their machine ranks, with the token of this transfer."""

    source: int
    target: int
    token: str
    files: Mapping[str, tuple[int, int]]  # path -> size, mtime_ns

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The same for all hosts."""

    resume: str = ""  # the newest whole checkpoint, "" where there is none
    aside: Mapping[str, Sequence[int]] = field(
        default_factory=dict
    )  # file or folder -> machine ranks that rename theirs
    transfers: tuple[Transfer, ...] = ()
    said: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it goes through the agents' store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Decision:
        """Reads it again. Raises ExchangeError."""
        try:
            values: dict[str, Any] = json.loads(text)
            moved = [
                {**one, "files": {path: tuple(pair) for path, pair in one["files"].items()}}
                for one in values["transfers"]
            ]
            transfers, said = tuple(Transfer(**one) for one in moved), tuple(values["said"])
            return cls(resume=values["resume"], aside=values["aside"], transfers=transfers, said=said)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExchangeError(f"what to do about checkpoints cannot be read: {error}") from None


def decide(have: Mapping[int, Inventory], tokens: Mapping[tuple[int, int], str]) -> Decision:
    """Works it out; `have` is by machine rank, `tokens` by source and target. Raises ExchangeError where a disk lacks room."""
    paths = {path for one in have.values() for path in one.files}
    found = find(paths)
    aside: dict[str, Sequence[int]] = {}
    said, kept = list[str](), list[Checkpoint]()
    for family in families(found):
        newer, whole = judge(family, have, paths)
        kept += [whole] if whole else []
        for one, why in newer:
            aside.update({place: list(have) for place in ([one.place] if one.is_folder else one.files)})
            said.append(say_aside(one, why, whole))
    bad = {path for one in have.values() for path in one.bad}
    for one in kept:
        if not one.family and bad.intersection(one.files):
            (path,) = one.files
            aside[path] = [rank for rank, host in have.items() if path in host.bad]
            said += [
                f"{path} is not whole on {host.host} (it {host.bad[path]}); it is called {PurePosixPath(path).name}.incomplete there now"
                for host in have.values() if path in host.bad
            ]  # fmt: skip
    wanted = [path for one in kept for path in one.files]
    moves = plan_moves([*wanted, *pointers(sorted(paths), kept)], have)
    transfers = tuple(
        Transfer(source=pair[0], target=pair[1], token=tokens[pair], files=files)
        for pair, files in sorted(moves.items())
    )
    check_room(transfers, have)
    good = [
        one
        for one in kept
        if one.family or any(one.place in host.files and one.place not in host.bad for host in have.values())
    ]
    times = {path: float(file.mtime_ns) for host in have.values() for path, file in host.files.items()}
    resume = to_resume(good, times)
    return Decision(
        resume=resume.place if resume else "", aside=aside, transfers=transfers,
        said=(*said, *(say_transfer(one, have, good) for one in transfers)),
    )  # fmt: skip


def families(found: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """Members of each family from the newest on; a single file is a family of its own."""
    grouped: dict[str, list[Checkpoint]] = {}
    for one in found:
        grouped.setdefault(one.family or one.place, []).insert(0, one)
    return list(grouped.values())


def judge(
    family: Sequence[Checkpoint], have: Mapping[int, Inventory], paths: set[str]
) -> tuple[list[tuple[Checkpoint, str]], Checkpoint | None]:
    """The members that are not whole, each with why, before the first that is; and that one."""
    if not family[0].family:
        return [], family[0]
    newer = list[tuple[Checkpoint, str]]()
    for one, before in zip(family, [*family[1:], None], strict=True):
        if not (why := why_incomplete(one, before, have, paths)):
            return newer, one
        newer.append((one, why))
    return newer, None


def why_incomplete(one: Checkpoint, before: Checkpoint | None, have: Mapping[int, Inventory], paths: set[str]) -> str:
    """Why the checkpoint is not whole on all hosts together; "" where it is."""
    for host in have.values():
        for path in one.files:
            if path in host.bad:
                return f"{PurePosixPath(path).name} {host.bad[path]} on {host.host}"
            if gone := [name for name in host.needs.get(path, ()) if name not in paths]:
                return f"it has no {PurePosixPath(gone[0]).name}"
    why = lacking(one, before)
    return f"it {why}" if why else ""


def plan_moves(
    wanted: Sequence[str], have: Mapping[int, Inventory]
) -> dict[tuple[int, int], dict[str, tuple[int, int]]]:
    """(source, target) -> what goes there. Of several hosts that wrote a file the first one gives it to those that lack it."""
    moves: dict[tuple[int, int], dict[str, tuple[int, int]]] = {}
    for path in wanted:
        holders = {
            rank: host.files[path] for rank, host in sorted(have.items()) if path in host.files and path not in host.bad
        }
        writers = [rank for rank, holding in holders.items() if not holding.brought]
        if not holders:
            continue
        source = writers[0] if writers else max(holders, key=lambda rank: (holders[rank].mtime_ns, -rank))
        version = holders[source].size, holders[source].mtime_ns
        current = {(holding.size, holding.mtime_ns) for rank, holding in holders.items() if rank in writers} or {
            version
        }
        for rank in have:
            holding = holders.get(rank)
            if holding is None or (holding.brought and (holding.size, holding.mtime_ns) not in current):
                moves.setdefault((source, rank), {})[path] = version
    return moves


def check_room(transfers: Sequence[Transfer], have: Mapping[int, Inventory]) -> None:
    """Raises ExchangeError naming a host whose disk would be full."""
    for rank, host in have.items():
        needed = sum(one.bytes for one in transfers if one.target == rank)
        if needed and needed + SPARE_BYTES > host.free_bytes:
            raise ExchangeError(
                f"{host.host} has no room for the newest checkpoint: it lacks {say_size(needed)} of it, and "
                f"{say_size(host.free_bytes)} are free\nhint: make room on the disk of its fleet_home, then continue the run"
            )


def say_aside(one: Checkpoint, why: str, whole: Checkpoint | None) -> str:
    """What is set aside, why, and what is taken in its place."""
    taken = f"{whole.place} is taken" if whole else "there is none that is"
    return f"Checkpoint {one.place} is not whole ({why}): {taken}; it is called {PurePosixPath(one.place).name}.incomplete now"


def say_transfer(one: Transfer, have: Mapping[int, Inventory], kept: Sequence[Checkpoint]) -> str:
    """What goes where."""
    target, source = have[one.target].host, have[one.source].host
    if len(one.files) == 1:
        return f"{target} lacks {next(iter(one.files))}, which {source} has: {say_size(one.bytes)} are brought"
    named = [each.place for each in newest_of_each(kept) if set(each.files) & set(one.files)] or sorted(one.files)
    return f"{target} lacks {len(one.files)} files of {', '.join(named[:3])} that {source} has: {say_size(one.bytes)} are brought"


def say_size(size: int) -> str:
    """12 KB, 3.4 MB, 17 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.{0 if size >= 10 * scale else 1}f} {unit}"
    return f"{max(size > 0, round(size / 1e3))} KB"
