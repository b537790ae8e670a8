"""What a run came to: its speed, in samples or where its ranks knew of none in steps, and how a course began and ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from winfleet.view.records import RunData, Track


class Speed(NamedTuple):
    """A run's speed in the mean, None where it is not known."""

    value: float | None
    unit: str  # samples/s, or steps/s
    of: str  # what it is of

    @property
    def name(self) -> str:
        """Samples per second, or Steps per second."""
        return f"{self.unit.partition('/')[0].capitalize()} per second"

    @property
    def column(self) -> int:
        """Of a run's metrics."""
        return 1 if self.unit == "samples/s" else 6


def speed_of(run: RunData) -> Speed:
    """The run's speed: the sum of its ranks' samples, unless they trained models of their own; or the slowest one's steps."""
    samples = [rate for track in run.attempt.metrics if (rate := track.mean[1])]
    steps = [rate for track in run.attempt.metrics if (rate := track.mean[6])]
    if samples and run.apart:
        return Speed(sum(samples) / len(samples), "samples/s", "of each process, as they trained apart")
    if samples or not steps:
        return Speed(sum(samples) or None, "samples/s", "all ranks together")
    return Speed(min(steps), "steps/s", "as no DataLoader told samples")


def ends(tracks: Sequence[Track]) -> tuple[float, float] | None:
    """First and last value of column 0, each the mean of the ranks that took part then; None without values."""
    courses = [[(s.segment, v) for s in track.samples if (v := s.values[0]) is not None] for track in tracks]
    firsts, lasts = ([course[index] for course in courses if course] for index in (0, -1))
    if not firsts:
        return None
    first = [value for segment, value in firsts if segment == min(firsts)[0]]
    last = [value for segment, value in lasts if segment == max(lasts)[0]]
    return sum(first) / len(first), sum(last) / len(last)
