"""What the numbers of a run mean, in a sentence: which rank holds the others up, and why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from winfleet.core.status import APART_FIXES, ENDED, Rank, Status, count, name_ranks, trained_apart

SLOWER: Final = 1.1  # a rank is slowest where its own time is so much above the median's
HELD_UP: Final = 0.2  # share of a step that ranks wait for the slowest one, from which a line of progress names it
WAITING: Final = 0.3  # share of a step in communication that is worth a word
LOW_CLOCK: Final = 0.6  # a busy GPU below this share of its highest clock is held back
HOT_CELSIUS: Final = 87.0  # about where GeForce cards begin to lower their clock

Found = tuple[str, Rank]  # host, rank


def pairs(statuses: Sequence[Status]) -> list[Found]:
    """Every rank with its host, by rank."""
    found = [(status.host, rank) for status in statuses for rank in status.ranks]
    return sorted(found, key=lambda pair: pair[1].rank)


def step_seconds(rank: Rank) -> float | None:
    """Seconds of one optimizer step, None where they were not measured."""
    parts = (rank.data_seconds, rank.communication_seconds, rank.compute_seconds)
    return sum(part or 0.0 for part in parts) or None


def share(part: float | None, rank: Rank) -> float | None:
    """A part of the rank's step, 0 to 1."""
    whole = step_seconds(rank)
    return None if part is None or not whole else part / whole


def own_seconds(rank: Rank) -> float:
    """Seconds of a step in which the rank waits for no other one."""
    return (rank.data_seconds or 0.0) + (rank.compute_seconds or 0.0)


def find_slowest(statuses: Sequence[Status]) -> str | None:
    """`rank 3 on pc2 is slowest: 42 % of its step is data loading`; None where no rank stands out.

    Ranks of one group take their steps together, so the slowest is the one that works longest and waits least.
    """
    found = _slowest(statuses)
    if found is None or own_seconds(found[0][1]) < _usual(found[1]) * SLOWER:
        return None
    (host, slowest), others = found
    return f"rank {slowest.rank} on {host} is slowest: {_why(slowest, others)}"


def find_brake(statuses: Sequence[Status]) -> str | None:
    """What find_slowest() says, where the others wait much of each step for that rank."""
    found = _slowest(statuses)
    if found is None:
        return None
    (_, slowest), others = found
    waited = own_seconds(slowest) - _usual(others)
    return find_slowest(statuses) if waited >= HELD_UP * (step_seconds(slowest) or 0.0) else None


def _slowest(statuses: Sequence[Status]) -> tuple[Found, list[Rank]] | None:
    """The rank that works longest in a step, and the others; None where fewer than two were measured."""
    ranks = [(host, rank) for host, rank in pairs(statuses) if step_seconds(rank)]
    if len(ranks) < 2:
        return None
    slowest = max(ranks, key=lambda pair: own_seconds(pair[1]))
    return slowest, [rank for _, rank in ranks if rank is not slowest[1]]


def _usual(ranks: Sequence[Rank]) -> float:
    return statistics.median(own_seconds(rank) for rank in ranks)


def _why(slowest: Rank, others: Sequence[Rank]) -> str:
    usual = _usual(others)
    data = (slowest.data_seconds or 0.0) - statistics.median(rank.data_seconds or 0.0 for rank in others)
    loading = share(slowest.data_seconds, slowest) or 0.0
    if data > (own_seconds(slowest) - usual) / 2:
        return f"{loading:.0%} of its step is data loading".replace("%", " %")
    if slowest.gpu_celsius is not None and slowest.gpu_celsius >= HOT_CELSIUS:
        return f"its GPU is at {slowest.gpu_celsius:.0f} °C{_clock(slowest)}"
    if slowest.gpu_mhz and slowest.gpu_max_mhz and slowest.gpu_mhz < LOW_CLOCK * slowest.gpu_max_mhz:
        return f"its GPU runs at {slowest.gpu_mhz:.0f} of {slowest.gpu_max_mhz:.0f} MHz"
    compute = statistics.median(rank.compute_seconds or 0.0 for rank in others)
    return f"it computes {slowest.compute_seconds or 0.0:.3g} s a step, the others {compute:.3g} s"


def _clock(rank: Rank) -> str:
    return f" and runs at {rank.gpu_mhz:.0f} MHz" if rank.gpu_mhz else ""


def find_waiting(statuses: Sequence[Status]) -> str | None:
    """`ranks wait 48 % of a step for one another`, the mean of all; None where that is little."""
    shares = [part for _, rank in pairs(statuses) if (part := share(rank.communication_seconds, rank)) is not None]
    mean = statistics.mean(shares) if shares else 0.0
    return f"ranks wait {mean * 100:.0f} % of a step for one another" if mean >= WAITING else None


def find_rounds(statuses: Sequence[Status]) -> str | None:
    """`hosts have averaged their weights 12 times: each sent 3.4 MB and waited 2.1 s, and they were 0.3 % apart`; None where they do not."""
    ranks = [rank for _, rank in pairs(statuses) if rank.rounds]
    if not ranks:
        return None
    sent, apart = max(rank.round_bytes for rank in ranks) / 1e6, max(rank.spread or 0.0 for rank in ranks)
    seconds = max(rank.round_seconds for rank in ranks)
    return (
        f"hosts have averaged their weights {count(min(rank.rounds for rank in ranks), 'time')}: "
        f"each sent {sent:.3g} MB and waited {seconds:.3g} s, and they were {100 * apart:.2g} % apart"
    )


def find_culprit(statuses: Sequence[Status]) -> str | None:
    """Which rank the stuck ones wait for; None where none is stuck, or only one and nobody waits for it."""
    found = pairs(statuses)
    stuck = [(host, rank) for host, rank in found if rank.state == "stuck"]
    waiting = [rank.rank for _, rank in stuck if rank.waits]
    standing = [(host, rank) for host, rank in stuck if not rank.waits]
    going_on = {status.host for status in statuses if status.state not in ENDED}
    ended = [(host, rank) for host, rank in found if rank.state == "ended" and host in going_on]
    if not waiting:
        return None
    wait = f"{name_ranks(waiting)} wait{'s' if len(waiting) == 1 else ''} for"
    if standing:
        named = " and ".join(f"rank {r.rank} on {host} ({r.place or 'does not answer'})" for host, r in standing[:3])
        return f"{wait} {named}"
    if ended:
        return f"{wait} {' and '.join(f'rank {rank.rank} on {host}' for host, rank in ended[:3])}, which has ended"
    meeting = [rank for _, rank in found if rank.meets]
    if meeting and len(waiting) + len(meeting) == len(found):
        return _torn(next(rank for _, rank in stuck), waiting, meeting)
    if len(waiting) < len(found):
        return None
    return f"{wait} one another: the network, or ranks with different numbers of batches"


def _torn(first: Rank, waiting: Sequence[int], meeting: Sequence[Rank]) -> str:
    """Ranks that wait for one another at different places: in a collective of the script's own, and in an exchange of weights."""
    came = sorted({rank.count for rank in meeting})
    if first.place and first.place.endswith("in backward"):
        why = "ranks of one host must take as many steps as one another, as with a DistributedSampler"
    else:
        why = (
            "with fleet_average_every ranks are together after their steps alone; put torch.distributed.barrier() on every rank "
            "before a collective of the script's own"
        )
    return (
        f"{name_ranks(waiting)} wait{'s' if len(waiting) == 1 else ''} for all ranks in {first.place} (optimizer step {first.count}), "
        f"{name_ranks([rank.rank for rank in meeting])} in an exchange of weights (step {' and '.join(map(str, came))}): {why}"
    )


def find_apart(statuses: Sequence[Status]) -> str | None:
    """That ranks train models of their own, and how they would train one together."""
    apart = trained_apart([rank for _, rank in pairs(statuses)])
    return f"not distributed: each rank trains a model of its own, {apart}; {APART_FIXES[apart]}" if apart else None


def verdicts(statuses: Sequence[Status]) -> list[str]:
    """All that there is to say, the most urgent first."""
    found = (
        find_apart(statuses), find_culprit(statuses), find_slowest(statuses), find_waiting(statuses), find_rounds(statuses),
    )  # fmt: skip
    return [text for text in found if text]


class Blame:
    """Names whom the others wait for, once for each: for lines that stay, while a live view may say it anew each second."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._suspect = ""

    def name(self, statuses: Sequence[Status]) -> str | None:
        """What find_culprit() says, else find_brake() where it means the same rank as at the look before: one look is chance."""
        stuck = find_culprit(statuses)
        text = stuck or find_brake(statuses) or ""
        who = text.partition(":")[0]  # behind it are figures, which differ each time
        before, self._suspect = self._suspect, who
        if not who or who in self._named or not (stuck or who == before):
            return None
        self._named.add(who)
        return text
