"""How the ranks of a generation come together: who is too late, and whom the others wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol

from winfleet.core.plan import Host, Plan
from winfleet.core.status import Rank, name_ranks
from winfleet.launcher.stuck import TELL_SECONDS, Lookout

BEFORE: Final = ("starting", "waiting", "joining")  # states of a rank that is in no process group yet


class Store(Protocol):
    """What is needed of the agents' store."""

    def set(self, key: str, value: str, /) -> None:
        """Sets the key."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys are set."""


class Joining:
    """Watches a host's ranks until they have joined.

    A rank may prepare its data for as long as it likes: others wait for it (rank/gate.py). It is late where it was never
    heard of, or where rank 0 listens and it does not get into the process group.
    """

    def __init__(self, host: Host, plan: Plan, lookout: Lookout) -> None:
        self.host, self.plan, self.lookout = host, plan, lookout
        self._generation, self._since = 0, time.monotonic()
        self._open_since: float | None = None  # when this host learnt that rank 0 listens
        self._joining: dict[int, float] = {}  # since when each of our ranks is on its way into the group
        self._asked_at: float | None = None  # when ranks were asked what keeps them
        self._told = False

    def begin(self, generation: int, now: float) -> None:
        """Its ranks start only now: what comes before them has no limit."""
        self._generation, self._since = generation, now
        self._open_since, self._asked_at, self._told = None, None, False
        self._joining.clear()

    def failure(self, store: Store, generation: int, ranks: Sequence[Rank], now: float) -> str:
        """Why the generation cannot go on, a sentence; "" while it may. `now` is monotonic."""
        if generation != self._generation:
            self.begin(
                generation, now if self._generation else self._since
            )  # the first one's launchers had to start too
        if not any(rank.state in BEFORE for rank in ranks):
            return ""
        self._listen(store, ranks, now)
        limit = self.plan.start_timeout_seconds
        silent = [rank.rank for rank in ranks if rank.state == "starting" and rank.pid is None]
        if silent and now - self._since > limit:
            return f"{name_ranks(silent)} on {self.host.name} was not heard of within {limit} s after its start"
        joining = [rank.rank for rank in ranks if rank.state == "joining"]
        self._joining = {rank: self._joining.get(rank, now) for rank in joining}
        begun = self._open_since if self._open_since is not None else now
        late = [rank for rank, since in self._joining.items() if now - max(since, begun) > limit]
        return join_failure(late, self.host, self.plan) if late else ""

    def _listen(self, store: Store, ranks: Sequence[Rank], now: float) -> None:
        """Tells the other hosts that rank 0 listens, or learns it of them."""
        key = f"rank 0 of generation {self._generation} listens"
        if self._open_since is None and self.host.machine_rank == 0:
            if ranks[0].state in ("waiting", "joining"):
                store.set(key, "")
                self._open_since = now
        elif self._open_since is None and store.check([key]):
            self._open_since = now

    def news(self, ranks: Sequence[Rank], now: float) -> str:
        """Once for a generation: which ranks of this host are still before their process group, and where; "" else."""
        late = [rank for rank in ranks if rank.state == "starting" and rank.pid is not None]
        awaited = self._open_since is not None or any(rank.state in ("waiting", "joining") for rank in ranks)
        if self._told or not (late and awaited) or now - self._since <= self.plan.start_timeout_seconds:
            return ""
        if self._asked_at is None:
            self._asked_at = now
            self.lookout.ask()
        if not all(rank.place for rank in late) and now - self._asked_at < TELL_SECONDS:
            return ""
        self._told = True
        places = sorted({rank.place or "its process does not answer" for rank in late})
        return (
            f"{name_ranks([rank.rank for rank in late])} on {self.host.name} {'has' if len(late) == 1 else 'have'} not asked "
            f"to join for {now - self._since:.0f} s, others wait: {'; '.join(places)}"
        )


def join_failure(late: list[int], host: Host, plan: Plan) -> str:
    """The sentence for a start that hangs: which ranks did not join, and what closed port that usually means."""
    ranks = ", ".join(map(str, late))
    first = plan.hosts[0]
    return (
        f"rank {ranks} on {host.name} did not join within {plan.start_timeout_seconds} s: from {host.name} "
        f"({host.address}) to {first.name} ({first.address}) port 29500 or the dynamic ports may be closed"
    )
