"""How fast a run trained: samples per second where its ranks knew of samples, steps per second where they did not."""

from __future__ import annotations

from typing import NamedTuple

from winfleet.view.records import RunData


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
