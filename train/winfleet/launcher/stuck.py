"""Notices ranks that do not move, has every rank of the run tell its stack, and says where they stand."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from winfleet.core.files import write_atomic
from winfleet.core.status import Rank, name_ranks
from winfleet.rank.stacks import REQUEST

FIRST_STEP_FACTOR: Final = 5  # before its first step a rank may read data and compile for so much longer
TELL_SECONDS: Final = 5.0  # within which a rank that is asked answers: it looks for a request twice a second
ALARM_SECONDS: Final = 2.0  # how often a host looks whether another one has a rank that is stuck


class Store(Protocol):
    """What is needed of the agents' store: a counter that all hosts share."""

    def add(self, key: str, amount: int, /) -> int:
        """Adds to the counter and returns it."""


@dataclasses.dataclass(slots=True)
class _Seen:
    """What a rank had done when it last moved."""

    moves: int
    at: float  # monotonic seconds
    stuck: bool = False


class Lookout:
    """Watches the ranks of one host. `limit` (seconds) 0: nobody is ever called stuck."""

    def __init__(self, folder: Path, host: str, limit: float) -> None:
        self.folder, self.host, self.limit = folder, host, limit
        self.alarms = 0  # how often ranks of this host got stuck; other hosts learn it, see agent.py
        self._seen: dict[int, _Seen] = {}
        self._asked_at: float | None = None
        self._unsaid: set[int] = set()  # ranks that are stuck, which no event has told yet

    def begin_generation(self) -> None:
        """All ranks are new."""
        self._seen.clear()
        self._unsaid.clear()
        self._asked_at = None

    def ask(self) -> None:
        """Asks every rank of this host for its stack, once for all that get stuck within TELL_SECONDS."""
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > TELL_SECONDS:
            self._asked_at = now
            write_atomic(self.folder / REQUEST, f"{time.time()}")

    def judge(self, ranks: Sequence[Rank]) -> tuple[tuple[Rank, ...], list[str]]:
        """The ranks, those that stand still with the state "stuck", and what is new, in words."""
        if self.limit <= 0:
            return tuple(ranks), []
        now, judged, texts = time.monotonic(), [], []
        for rank in ranks:
            seen = self._seen.setdefault(rank.rank, _Seen(rank.moves, now))
            if rank.moves != seen.moves or rank.state not in ("joined", "training"):
                if seen.stuck and rank.state != "ended":
                    texts.append(f"rank {rank.rank} on {self.host} moves again after {now - seen.at:.0f} s")
                self._seen[rank.rank] = _Seen(rank.moves, now)
                self._unsaid.discard(rank.rank)
            elif now - seen.at >= self.limit * (1 if rank.count else FIRST_STEP_FACTOR) and not seen.stuck:
                seen.stuck = True
                self.alarms += 1
                self._unsaid.add(rank.rank)
                self.ask()
            stuck = self._seen[rank.rank].stuck
            judged.append(dataclasses.replace(rank, state="stuck") if stuck else rank)
        return tuple(judged), texts + self._tell(judged, now)

    def _tell(self, ranks: Sequence[Rank], now: float) -> list[str]:
        """A line for all ranks that stand at the same place, once their stacks are there or were waited for."""
        unsaid = [rank for rank in ranks if rank.rank in self._unsaid]
        waited = self._asked_at is not None and now - self._asked_at >= TELL_SECONDS
        if not unsaid or not (waited or all(rank.place for rank in unsaid)):
            return []
        self._unsaid.clear()
        groups: dict[str, list[int]] = {}
        for rank in unsaid:
            waits = ", where it waits for other ranks" if rank.waits else ""
            place = f"{rank.place}{waits}" if rank.place else "its process does not answer"
            groups.setdefault(place, []).append(rank.rank)
        return [
            f"{name_ranks(numbers)} on {self.host} {'has' if len(numbers) == 1 else 'have'} not moved for "
            f"{self._still(numbers, now):.0f} s: {place}"
            for place, numbers in groups.items()
        ]

    def _still(self, numbers: Sequence[int], now: float) -> float:
        return now - max(self._seen[number].at for number in numbers)


class Alarm:
    """Has the ranks of all hosts tell their stacks when one is stuck anywhere: those of the others say whom they wait for."""

    def __init__(self, lookout: Lookout) -> None:
        self.lookout = lookout
        self._told = 0
        self._heard: int | None = None
        self._looked_at = 0.0

    def look(self, store: Store) -> None:
        """Called at each look of the agent; asks the agents' store every ALARM_SECONDS alone."""
        now = time.monotonic()
        if now - self._looked_at < ALARM_SECONDS:
            return
        self._looked_at = now
        alarms = self.lookout.alarms
        heard = store.add("stuck", alarms - self._told)
        if self._heard is not None and heard > self._heard:
            self.lookout.ask()
        self._told, self._heard = alarms, heard
