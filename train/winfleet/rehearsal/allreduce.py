"""How long gloo's all-reduces take, and what of them backward hides.

A step of DistributedDataParallel (Li et al., VLDB 2020, arXiv 2006.15704; torch 2.13 nn/parallel/distributed.py and
torch/csrc/distributed/c10d/reducer.hpp): k micro-batches, of which the first k - 1 send nothing (no_sync). In the last
one's backward gradients fill buckets, the first of 1 MiB, the others of 25 MiB, and a full bucket is all-reduced while
backward goes on with the next. What is still on its way when backward ends is seen; the last bucket always is.

gloo's all-reduce is a ring (gloo/allreduce.cc): of G bytes each of R ranks sends 2(R-1)/R * G to its neighbour, in
segments of 1 MiB at most, two under way at a time. Ranks are in the hosts' order, so the ring leaves each host once, and
a network card carries the same bytes whether its host has one rank or several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20
FIRST_BUCKET, BUCKET = MIB, 25 * MIB  # bytes; kDefaultFirstBucketBytes, kDefaultBucketBytesCap in reducer.hpp
SEGMENT: Final = MIB  # bytes; kMaxSegmentSize in gloo/allreduce.h
BLOCK: Final = 1024  # numbers that share a scale; winfleet.averaging.bits
CODING_SECONDS: Final = 2e-8  # for each weight: read, encoded, decoded and written by one core; bench/averaging.py
GLOO_THREADS: Final = 2  # all-reduces under way at a time; ProcessGroupGloo::Options in ProcessGroupGloo.hpp


class PredictionError(ValueError):
    """Measurements from which nothing can be predicted, or a prediction that cannot be read."""


def check_number(values: object, name: str, least: float, *, above: bool = False) -> None:
    """Raises PredictionError where the member is no finite number, or less than allowed."""
    value = getattr(values, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise PredictionError(f"{type(values).__name__}.{name} is {value!r}, expected a number from {least:g} on")
    if above and value == least:
        raise PredictionError(f"{type(values).__name__}.{name} is {value!r}, expected a number above {least:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RingLink:
    """The way from one rank to the next while nothing else is sent there."""

    bytes_per_second: float  # of one TCP stream in one direction, as the program sees them
    latency_seconds: float = 0.0  # one way: half a round trip of a few bytes

    def __post_init__(self) -> None:
        check_number(self, "bytes_per_second", 0, above=True)
        check_number(self, "latency_seconds", 0)


def ddp_buckets(tensor_bytes: Iterable[int]) -> tuple[int, ...]:
    """Sizes in bytes of DDP's buckets for gradients of these sizes, in the order in which backward yields them.

    A bucket is closed by the gradient that fills it; none is split (compute_bucket_assignment_by_size in reducer.cpp).
    For a model it is its parameters' order reversed.
    """
    buckets: list[int] = []
    open_bucket = 0
    for size in tensor_bytes:
        open_bucket += size
        if open_bucket >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(open_bucket)
            open_bucket = 0
    return (*buckets, open_bucket) if open_bucket else tuple(buckets)


def even_buckets(gradient_bytes: int) -> tuple[int, ...]:
    """Buckets of a gradient in bytes whose tensors are small: 1 MiB, 25 MiB each, and what is left."""
    first = min(FIRST_BUCKET, gradient_bytes)
    full, rest = divmod(gradient_bytes - first, BUCKET)
    return tuple(size for size in (first, *[BUCKET] * full, rest) if size)


def ring_seconds(size_bytes: int, ranks: int, link: RingLink) -> float:
    """Seconds of gloo's all-reduce of so many bytes, alone on a ring whose slowest link this is. 0 for one rank.

    Each half of it (reduce-scatter, all-gather) sends R - 1 of R chunks in segments, two at a time. A segment goes out once
    its receiver has asked for it (gloo/transport/tcp/pair.cc: NOTIFY_RECV_READY), so two of them take a round trip and one
    segment's own time, or their own time, whichever is longer. Between two ranks the question waits behind the data
    that flows the same way, and each segment takes its own time and the latency. Measured by bench/scaling.py. For large
    sizes this is 2(R-1)/R * size / bandwidth, for small ones 2(R-1) round trips.
    """
    segments, segment_bytes = _segments(size_bytes, ranks)
    if not segments:
        return 0.0
    own, latency = segment_bytes / link.bytes_per_second, link.latency_seconds
    if ranks == 2:
        return 2 * segments * (own + latency)
    return 2 * max(segments * own + 2 * latency, segments / 2 * (own + 2 * latency) + own)


def wire_seconds(size_bytes: int, ranks: int, link: RingLink) -> float:
    """Seconds for which an all-reduce occupies the link: 2(R-1)/R * size / bandwidth."""
    segments, segment_bytes = _segments(size_bytes, ranks)
    return 2 * segments * segment_bytes / link.bytes_per_second


def exchange_seconds(numbers: int, bits: int, hosts: int, link: RingLink) -> float:
    """Seconds in which hosts average so many weights (winfleet.averaging.segments); 0 for one host.

    Each host sends H - 1 of H segments to the others at once, then its own to each; all wait for who comes last, and
    encoding is not hidden. A block of 8- or 4-bit numbers has a scale besides.
    """
    if hosts < 2 or not numbers:
        return 0.0
    size_bytes = numbers * (bits / 8 + (4 / BLOCK if bits < 16 else 0))
    sent = 2 * ((hosts - 1) / hosts * size_bytes / link.bytes_per_second + 2 * link.latency_seconds)
    return sent + 2 * link.latency_seconds + numbers * CODING_SECONDS


def _segments(size_bytes: int, ranks: int) -> tuple[int, float]:
    """How many segments a rank sends in one half of an all-reduce, and their size in bytes; two a chunk at least."""
    if ranks < 2 or not size_bytes:
        return 0, 0.0
    a_chunk = max(2, math.ceil(size_bytes / SEGMENT / ranks))
    return (ranks - 1) * a_chunk, size_bytes / (ranks * a_chunk)


def overlapped(ready: Sequence[float], alone: Sequence[float], wire: Sequence[float]) -> float:
    """When the last of several all-reduces ends, in seconds.

    They begin in order, each when its bucket is `ready` and one of gloo's two threads is free. Each takes the seconds it
    takes `alone`, or longer while an earlier one still occupies the `wire`.
    """
    threads, wire_free = [0.0] * GLOO_THREADS, 0.0
    for at, alone_seconds, wire_seconds_ in zip(ready, alone, wire, strict=True):
        begin = max(at, threads.pop(0))
        wire_free = max(begin, wire_free) + wire_seconds_
        threads = sorted([*threads, max(begin + alone_seconds, wire_free)])
    return threads[-1]
