"""Predicts how fast a run will be from what was measured: one rank's compute, the links, and one all-reduce.

A step is accumulation * (compute + data loading) of the slowest host, and what backward does not hide of the gradient's
all-reduces (winfleet.rehearsal.allreduce). Seconds, bytes and samples throughout.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from winfleet.core.reading import Reader, plain
from winfleet.core.status import MAX_BYTES
from winfleet.rehearsal.allreduce import (
    PredictionError,
    RingLink,
    check_number,
    even_buckets,
    exchange_seconds,
    overlapped,
    ring_seconds,
    wire_seconds,
)

GRID: Final = (1, 2, 4, 8, 16)
BACKWARD_SHARE: Final = 2 / 3  # of forward and backward: twice forward's operations (Kaplan et al., arXiv 2001.08361)
READER: Final = Reader(strict=True)
FP32: Final = "fp32"
FP32_BYTES: Final = 4
AVERAGE_EVERY: Final = (8, 16, 32, 64, 128)  # steps
AVERAGE_SHARE: Final = 0.05  # of a round's time
LOSS_SHARE: Final = 0.1  # of a step; smaller losses limit nothing

COMPUTE, NETWORK, SLOWEST_HOST, DATA = LIMITS = ("compute", "network", "slowest host", "data loading")


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduce:
    """An all-reduce that was really done."""

    size_bytes: int  # of the tensor
    ranks: int
    hosts: int
    seconds: float

    def __post_init__(self) -> None:
        check_number(self, "size_bytes", 1)
        check_number(self, "ranks", 1)
        check_number(self, "hosts", 1)
        check_number(self, "seconds", 0, above=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSpeed:
    """A host's ranks, and what one of them takes alone. Hosts of one kind have the same figures."""

    name: str
    kind: str  # the GPU's name, or "CPU"
    ranks: int
    micro_batch_seconds: float  # forward and backward of one micro-batch
    backward_seconds: float | None = None  # of it; None: not known apart
    optimizer_seconds: float = 0.0  # the rest of a step, once
    data_seconds: float = 0.0  # waiting for the data loader, for one micro-batch

    def __post_init__(self) -> None:
        check_number(self, "ranks", 1)
        check_number(self, "micro_batch_seconds", 0, above=True)
        check_number(self, "optimizer_seconds", 0)
        check_number(self, "data_seconds", 0)
        if self.backward_seconds is not None:
            check_number(self, "backward_seconds", 0)
            if self.backward_seconds > self.micro_batch_seconds:
                raise PredictionError(f"HostSpeed.backward_seconds of {self.name} is more than its whole micro-batch")

    @property
    def backward(self) -> float:
        """Seconds of one backward pass."""
        known = self.backward_seconds
        return BACKWARD_SHARE * self.micro_batch_seconds if known is None else known

    def own_seconds(self, accumulation: int) -> float:
        """Seconds of a step without data loading and network."""
        return accumulation * self.micro_batch_seconds + self.optimizer_seconds

    def alone_seconds(self, accumulation: int) -> float:
        """Seconds of a step of one rank that trains alone."""
        return self.own_seconds(accumulation) + accumulation * self.data_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All that a prediction is made from. Hosts are in the plan's order."""

    hosts: tuple[HostSpeed, ...]
    gradient_bytes: int  # of the parameters that are trained, as they are computed
    samples: int  # of one rank in one micro-batch; 1 where none are told
    told: bool = True  # whether a DataLoader told them; else rates are of steps
    accumulation: int = 1  # micro-batches in a step
    num_workers: int = 0  # that load data, for each rank
    bucket_bytes: tuple[int, ...] = ()  # as DDP fills them (ddp_buckets); empty: evenly
    link: RingLink | None = None  # the slowest between two hosts; None: there is one host
    local: RingLink | None = None  # between two ranks of one host; None: not measured, taken for free
    all_reduces: tuple[AllReduce, ...] = ()
    gradients: str = FP32  # as they are sent, fp32 or fp16
    average_every: int = 0  # steps after which hosts average their weights in place of gradients; 0: they do not
    average_bits: int = 8

    def __post_init__(self) -> None:
        if not self.hosts:
            raise PredictionError("Measured.hosts is empty, expected one host at least")
        check_number(self, "gradient_bytes", 0)
        check_number(self, "samples", 1)
        check_number(self, "accumulation", 1)
        check_number(self, "num_workers", 0)
        check_number(self, "average_every", 0)
        check_number(self, "average_bits", 1)
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.bucket_bytes):
            raise PredictionError("Measured.bucket_bytes has a bucket that is no positive number of bytes")

    @property
    def ranks(self) -> int:
        """World size of the plan."""
        return sum(host.ranks for host in self.hosts)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Sizes of the gradient's buckets in bytes as they are sent, in the order in which they become ready."""
        buckets = self.bucket_bytes or even_buckets(self.gradient_bytes)
        return buckets if self.gradients == FP32 else tuple(max(1, size // 2) for size in buckets)

    def effective(self, link: RingLink | None, *, one_host: bool) -> RingLink | None:
        """The link as a real all-reduce over it found it: slower where gloo does not fill it.

        Efficiency is what ring_seconds() says for that all-reduce, divided by what it took.
        """
        found = [done for done in self.all_reduces if (done.hosts == 1) == one_host and done.ranks > 1]
        if link is None or not found:
            return link
        largest = max(found, key=lambda done: done.size_bytes)
        efficiency = ring_seconds(largest.size_bytes, largest.ranks, link) / largest.seconds
        return RingLink(
            bytes_per_second=link.bytes_per_second * efficiency, latency_seconds=link.latency_seconds / efficiency
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A step on some number of ranks. The four parts in seconds make up step_seconds."""

    ranks: int
    hosts: int
    compute_seconds: float  # of the fastest host
    waiting_seconds: float  # what the slowest host takes more
    data_seconds: float
    network_seconds: float  # communication that nothing hides
    step_seconds: float
    samples_per_second: float  # of all ranks; 0 where no DataLoader told samples
    speed_up: float  # against one rank alone on the fastest host
    limit: str  # one of LIMITS

    def __post_init__(self) -> None:
        if self.limit not in LIMITS:
            raise PredictionError(f"Forecast.limit is {self.limit!r}, expected one of {', '.join(LIMITS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A setting that would make the plan's run faster."""

    name: str  # accumulation, fp16, averaging, cable, num_workers or hosts
    setting: str  # what to set, and where
    gain: float  # samples/s divided by those without it
    samples_per_second: float  # 0 as in a Forecast


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The plan's step with another way of sending between hosts."""

    setting: str
    forecast: Forecast
    gain: float  # times the speed of DDP's gradients on each step
    loss_above: float | None = None  # share above DDP's loss that the bench measured; None: it was not


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """prediction.json of a run: the plan's own step, the same for other numbers of GPUs, advice, and its grounds."""

    planned: Forecast
    grid: tuple[Forecast, ...]
    advice: tuple[Advice, ...]  # the largest gain first
    measured: Measured
    choices: tuple[Choice, ...] = ()  # of what is sent between hosts; older versions wrote none

    def to_json(self) -> str:
        """The prediction as it is written to prediction.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Prediction:
        """Reads prediction.json again, as data: types checked, texts cut. Raises PredictionError where it is none."""
        if len(text) > MAX_BYTES:
            raise PredictionError(f"a prediction of {len(text)} bytes")
        try:
            return READER.read(cls, json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise PredictionError(f"a prediction that cannot be read: {plain(error, 200)}") from None


# -- a step


def lay_out(measured: Measured, ranks: int, ranks_per_host: int | None = None) -> tuple[HostSpeed, ...]:
    """The hosts of a run with so many ranks: the fastest first, and the same again where there are not enough.

    Raises PredictionError where that takes several hosts and no link between hosts was measured.
    """
    fastest_first = sorted(measured.hosts, key=lambda host: host.alone_seconds(measured.accumulation))
    hosts: list[HostSpeed] = []
    for host in itertools.cycle(fastest_first):
        free = min(ranks - sum(taken.ranks for taken in hosts), ranks_per_host or host.ranks)
        if free <= 0:
            break
        hosts.append(dataclasses.replace(host, ranks=free))
    if len(hosts) > 1 and measured.link is None:
        raise PredictionError(f"{ranks} ranks need {len(hosts)} hosts, and no link between hosts was measured")
    return tuple(hosts)


def predict(measured: Measured, ranks: int | None = None, ranks_per_host: int | None = None) -> Forecast:
    """The step of a run with so many ranks (default: the plan's). Raises PredictionError as lay_out() does.

    Where hosts average their weights gradients stay in a host. Nothing hides the exchange, of which one step bears its
    share. Whether the training still converges as well is not predicted.
    """
    hosts = lay_out(measured, measured.ranks if ranks is None else ranks, ranks_per_host)
    slowest = max(hosts, key=lambda host: host.alone_seconds(measured.accumulation))
    every = measured.average_every
    ended = _all_reduces(measured, hosts, slowest.backward, between=not every)
    share = averaging_seconds(measured, len(hosts)) / every if every else 0.0
    return _forecast(measured, hosts, max(0.0, ended - slowest.backward) + share)


def averaging_seconds(measured: Measured, hosts: int) -> float:
    """Seconds of one exchange of all weights between so many hosts; there are as many as gradients of fp32."""
    link = measured.effective(measured.link, one_host=False)
    if link is None:
        return 0.0
    return exchange_seconds(measured.gradient_bytes // FP32_BYTES, measured.average_bits, hosts, link)


def least_every(measured: Measured) -> int:
    """The fewest steps between averages whose exchange takes 5 % of a round at most; AVERAGE_EVERY has what may be had."""
    step = max(host.alone_seconds(measured.accumulation) for host in measured.hosts)
    exchange = averaging_seconds(measured, len(measured.hosts))
    enough = (every for every in AVERAGE_EVERY if exchange <= AVERAGE_SHARE * (exchange + every * step))
    return next(enough, AVERAGE_EVERY[-1])


def _all_reduces(measured: Measured, hosts: Sequence[HostSpeed], backward: float, *, between: bool = True) -> float:
    """When the last bucket's all-reduce ends, in seconds from the begin of a backward pass of so many seconds.

    `between`: of all hosts' ranks, else of each host's own.
    """
    buckets = measured.buckets
    ranks = sum(host.ranks for host in hosts) if between else max(host.ranks for host in hosts)
    links = [measured.effective(measured.link, one_host=False)] if between and len(hosts) > 1 else []
    links += [measured.effective(measured.local, one_host=True)] if any(host.ranks > 1 for host in hosts) else []

    def slowest(seconds: Callable[[int, int, RingLink], float], size: int) -> float:
        return max((seconds(size, ranks, link) for link in links if link is not None), default=0.0)

    alone = [slowest(ring_seconds, size) for size in buckets]
    wire = [slowest(wire_seconds, size) for size in buckets]
    whole = sum(buckets)
    ready = [backward * (filled / whole) for filled in itertools.accumulate(buckets)]
    return overlapped(ready, alone, wire)


def _forecast(measured: Measured, hosts: Sequence[HostSpeed], network: float) -> Forecast:
    accumulation = measured.accumulation
    by_speed = sorted(hosts, key=lambda host: host.alone_seconds(accumulation))
    fastest, slowest = by_speed[0], by_speed[-1]
    compute = min(fastest.own_seconds(accumulation), slowest.own_seconds(accumulation))
    parts = {
        COMPUTE: compute, SLOWEST_HOST: slowest.own_seconds(accumulation) - compute,
        DATA: accumulation * slowest.data_seconds, NETWORK: network,
    }  # fmt: skip
    step_seconds, ranks = sum(parts.values()), sum(host.ranks for host in hosts)
    loss = max((NETWORK, SLOWEST_HOST, DATA), key=lambda part: parts[part])
    alone = min(host.alone_seconds(accumulation) for host in measured.hosts)
    return Forecast(
        ranks=ranks, hosts=len(hosts), compute_seconds=compute, waiting_seconds=parts[SLOWEST_HOST],
        data_seconds=parts[DATA], network_seconds=network, step_seconds=step_seconds,
        samples_per_second=ranks * accumulation * measured.samples / step_seconds,
        speed_up=ranks * alone / step_seconds,
        limit=loss if parts[loss] >= LOSS_SHARE * step_seconds else COMPUTE,
    )  # fmt: skip


def without_samples(measured: Measured, row: Forecast) -> Forecast:
    """The forecast as it may be shown: without samples/s where nothing told how many samples a micro-batch has."""
    return row if measured.told else dataclasses.replace(row, samples_per_second=0.0)


def rate(row: Forecast) -> tuple[float, str]:
    """Samples per second, or steps where samples are not known; with the unit."""
    return (row.samples_per_second, "samples/s") if row.samples_per_second else (1 / row.step_seconds, "steps/s")


def table(rows: Sequence[Forecast], noun: str = "GPUs") -> str:
    """The rows for a terminal, one a line under a heading; `noun` is what a rank runs on."""
    unit = next((unit for _, unit in map(rate, rows)), "samples/s")
    lines = [f"{noun:>4}  {'hosts':>5}  {unit:>9}  {'speed-up':>8}  {'step':>9}  {'of it network':>13}  limited by"]
    lines += [
        f"{row.ranks:>{max(4, len(noun))}}  {row.hosts:>5}  {rate(row)[0]:>9.1f}  {row.speed_up:>7.2f}x  {row.step_seconds:>7.3f} s"
        f"  {row.network_seconds / row.step_seconds:>13.0%}  {row.limit}"
        for row in rows
    ]
    return "\n".join(lines)
