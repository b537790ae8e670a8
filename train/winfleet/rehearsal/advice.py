"""Which setting would make a run faster, and by how much: the same prediction again, with that setting."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from winfleet.core.sending import MUCH_MOMENTUM, SHORT_ROUND
from winfleet.rank.batch_settings import ACCUMULATION, Setting, find
from winfleet.rehearsal.allreduce import RingLink
from winfleet.rehearsal.choices import choices
from winfleet.rehearsal.prediction import (
    GRID,
    Advice,
    Forecast,
    HostSpeed,
    Measured,
    Prediction,
    averaging_seconds,
    least_every,
    predict,
    without_samples,
)

BORNE_WASTE: Final = (
    0.2  # of a step for sending gradients, up to which averages are not worth what they cost of the loss
)
WORTH_A_LOSS: Final = 1.1  # times faster than with half the bytes of gradients, from which they are
LEAST_GAIN: Final = 1.02  # smaller ones are within what a prediction errs
ACCUMULATIONS: Final = (2, 4)  # times as many micro-batches
CABLES: Final = (1.0, 2.5, 10.0)  # Gbit/s
FRAME_SHARE: Final = 1448 / 1538  # a full Ethernet frame's TCP payload and its time on the cable, in bytes (IEEE 802.3)
WORKERS: Final = 4
WORKER_NAMES: Final = (
    "dataloader_num_workers",
    "num_workers",
)  # Hugging Face's Trainer; Lightning, timm, Accelerate's examples
FP16: Final = "fleet_gradients: fp16, gradients are sent in 16 bits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the user sets something, as a text in which `{}` stands for the value."""

    accumulation: str = "gradient accumulation over {} micro-batches in the script"
    workers: str = "{} processes for each DataLoader of the script (num_workers)"


ANYWHERE: Final = Places()


def find_places(command: Sequence[str], config: str | None) -> Places:
    """The options of the command, or keys of the configuration that is sent with it, that the user has for both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(config or "", encoding="utf-8")
        words = [word.replace("{config}", str(path)) for word in command]
        places = {"accumulation": find(words, ACCUMULATION), "workers": find(words, WORKER_NAMES)}
    return Places(**{name: place_of(setting, words) for name, setting in places.items() if setting is not None})


def place_of(setting: Setting, words: Sequence[str]) -> str:
    """`--gradient-accumulation-steps {} in the command`, or `training.num_workers: {} in the configuration`."""
    if setting.keys:
        return f"{'.'.join(setting.keys)}: {{}} in the configuration"
    name, joined, _ = words[setting.word].partition("=")
    option = f"{name}={{}}" if joined else f"{words[setting.word - 1]} {{}}"
    return f"{option} in the command"


def predict_run(measured: Measured, places: Places = ANYWHERE) -> Prediction:
    """Everything that prediction.json holds."""
    reach = math.inf if measured.link is not None else max(host.ranks for host in measured.hosts)
    known = [predict(measured, ranks) for ranks in sorted({*GRID, measured.ranks}) if ranks <= reach]
    return Prediction(
        planned=without_samples(measured, predict(measured)),
        grid=tuple(without_samples(measured, row) for row in known), advice=advise(measured, places), measured=measured,
        choices=choices(measured),
    )  # fmt: skip


def choose_every(measured: Measured, momentum: float = 0.0) -> tuple[int, str]:
    """What fleet_average_every: auto is for these links and steps, and why; 0: gradients on each step.

    `momentum` is that of fleet_average_outer: much of it needs rounds that are not short.
    """
    if measured.link is None or len(measured.hosts) < 2:
        return 0, "one host has nobody to average with; gradients are sent on each step"
    every = max(least_every(measured), SHORT_ROUND if momentum >= MUCH_MOMENTUM else 0)
    plain, half = (predict(dataclasses.replace(measured, average_every=0, gradients=kind)) for kind in ("fp32", "fp16"))
    averaged = predict(dataclasses.replace(measured, average_every=every))
    wasted = plain.network_seconds / plain.step_seconds
    if wasted <= BORNE_WASTE or averaged.step_seconds * LEAST_GAIN > plain.step_seconds:
        return 0, f"gradients are sent on each step, as they take {wasted:.0%} of it on this network"
    if averaged.step_seconds * WORTH_A_LOSS > half.step_seconds:
        return (
            0,
            "gradients are sent on each step; fleet_gradients: fp16 is as fast as averages here, and costs less of the loss",
        )
    exchange = averaging_seconds(measured, len(measured.hosts))
    share = exchange / every / averaged.step_seconds
    return every, (
        f"{every}, as an exchange takes {exchange:.2g} s, {share:.0%} of {every} steps; "
        f"{plain.step_seconds / averaged.step_seconds:.1f} times the speed of gradients on each step"
    )


def advise(measured: Measured, places: Places = ANYWHERE) -> tuple[Advice, ...]:
    """Settings that gain 2 % or more on the plan's ranks, the largest gain first."""
    now = predict(measured).samples_per_second
    found = [
        Advice(name=name, setting=setting, gain=then.samples_per_second / now,
               samples_per_second=without_samples(measured, then).samples_per_second)
        for name, setting, then in _candidates(measured, places)
    ]  # fmt: skip
    return tuple(
        sorted((advice for advice in found if advice.gain >= LEAST_GAIN), key=lambda advice: advice.gain, reverse=True)
    )


def _candidates(measured: Measured, places: Places) -> Iterator[tuple[str, str, Forecast]]:
    """Name, setting, and the plan's step with it."""
    now = measured.accumulation
    for times in ACCUMULATIONS:
        setting = f"{places.accumulation.format(times * now)}, now {now}; the batch of a step grows"
        yield "accumulation", setting, predict(dataclasses.replace(measured, accumulation=times * now))
    yield "fp16", FP16, predict(dataclasses.replace(measured, gradients="fp16", average_every=0))
    every = max(least_every(measured), SHORT_ROUND)
    average = f"fleet_average_every: {every}, hosts average their weights every {every} steps; look at the loss, too"
    yield "averaging", average, predict(dataclasses.replace(measured, average_every=every))
    for gbit in CABLES:
        if (cabled := with_cable(measured, gbit)) is not None:
            yield "cable", f"cables, adapters and a switch for {gbit:g} Gbit/s between the hosts", predict(cabled)
    if any(host.data_seconds for host in measured.hosts):
        workers = max(WORKERS, 2 * measured.num_workers)
        setting = f"{places.workers.format(workers)}, now {measured.num_workers}; if the PCs have the cores"
        yield "num_workers", setting, predict(with_workers(measured, workers))
    if (fewer := without_slowest(measured)) is not None:
        kept = {host.name for host in fewer.hosts}
        left_out = ", ".join(host.name for host in measured.hosts if host.name not in kept)
        yield "hosts", f"train without {left_out}: --limit '!{left_out.replace(', ', ',!')}'", predict(fewer)


def with_cable(measured: Measured, gbit: float) -> Measured | None:
    """The hosts on another cable, filled as well as now; None where that is no faster.

    No faster than gloo on one host's own loopback, where that was measured.
    """
    link = measured.effective(measured.link, one_host=False)
    if measured.link is None or link is None or len(measured.hosts) < 2:
        return None
    filled = link.bytes_per_second / measured.link.bytes_per_second
    local = measured.effective(measured.local, one_host=True)
    bandwidth = min(gbit * 1e9 / 8 * FRAME_SHARE * filled, local.bytes_per_second if local else float("inf"))
    if bandwidth <= link.bytes_per_second:
        return None
    faster = RingLink(bytes_per_second=bandwidth, latency_seconds=link.latency_seconds)
    own = tuple(done for done in measured.all_reduces if done.hosts == 1)  # the others are in `filled` already
    return dataclasses.replace(measured, link=faster, all_reduces=own)


def with_workers(measured: Measured, workers: int) -> Measured:
    """Data loaded by so many processes for each rank, beside the computation.

    Without any the wait is the loading itself; with w that cannot keep up, w * (compute + wait).
    """

    def waiting(host: HostSpeed) -> float:
        now = measured.num_workers
        loading = now * (host.micro_batch_seconds + host.data_seconds) if now else host.data_seconds
        return max(0.0, loading / workers - host.micro_batch_seconds) if host.data_seconds else 0.0

    hosts = tuple(dataclasses.replace(host, data_seconds=waiting(host)) for host in measured.hosts)
    return dataclasses.replace(measured, hosts=hosts, num_workers=workers)


def without_slowest(measured: Measured) -> Measured | None:
    """The plan without hosts of the slowest kind; None where all are of one kind."""
    slowest = max(measured.hosts, key=lambda host: host.alone_seconds(measured.accumulation))
    kept = tuple(host for host in measured.hosts if host.kind != slowest.kind)
    return dataclasses.replace(measured, hosts=kept) if kept else None
