"""Where a rank's time goes, seen from outside the script: loading data, waiting for other ranks, and the rest, computing."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

SAMPLE_SECONDS: Final = 2.0  # how often DDP is to note its times; with a GPU each note waits for its events
SAMPLES: Final = 5  # whose mean counts
FIRST_ITERATIONS: Final = 10  # DDP notes each of these


class Mark(NamedTuple):
    """What a rank has done when an optimizer step ends, all since its start."""

    time: float  # unix seconds
    samples: int
    data: float  # seconds in the DataLoader's __next__
    waiting: float  # seconds in collectives that Python waits for; those of DDP's backward pass are not among them


class Clock:
    """What the hooks of this process add up."""

    def __init__(self) -> None:
        self.data = 0.0
        self.waiting = 0.0
        self.moves = 0  # batches drawn, backward passes, collectives and steps: a rank that stands still adds none
        self.exchanges: list[GradientExchange] = []
        self._main = threading.get_ident()

    def exposed(self, steps: int, steps_per_second: float | None) -> float:
        """Seconds per optimizer step in which the backward passes of all DDP modules are done and wait for their gradients."""
        return sum(exchange.seconds(steps, steps_per_second) for exchange in self.exchanges)

    @contextlib.contextmanager
    def one_wait(self) -> Iterator[None]:
        """All of it is communication, what is computed for it, too."""
        begin, before = time.perf_counter(), self.waiting
        try:
            yield
        finally:
            self.waiting = before + time.perf_counter() - begin

    def waited(self, seconds: float) -> None:
        """A collective has ended; in other threads none holds the training up."""
        self.moves += 1
        if threading.get_ident() == self._main:
            self.waiting += seconds


def split(begin: Mark, end: Mark, steps: int, exposed: float) -> dict[str, float | None]:
    """Mean seconds of one optimizer step between two marks that are `steps` apart: loading data, communication, the rest.

    All are of the thread that runs the script, but for `exposed` on a GPU: loading that goes on while the GPU still works
    through its queue counts as loading. Validation and checkpoints in between are part of the rest.
    """
    if steps < 1 or end.time <= begin.time:
        return dict.fromkeys(("data_seconds", "communication_seconds", "compute_seconds"))
    step = (end.time - begin.time) / steps
    data = min(step, (end.data - begin.data) / steps)
    communication = min(step - data, (end.waiting - begin.waiting) / steps + exposed)
    compute = step - data - communication
    return {
        "data_seconds": round(data, 6),
        "communication_seconds": round(communication, 6),
        "compute_seconds": round(compute, 6),
    }


class GradientExchange:
    """The time that one DistributedDataParallel waits for its gradients: from the end of the rank's own backward pass on.

    Its C++ side notes when backward pass and all-reduce begin and end, by the host's clock for CPU tensors and by CUDA
    events for GPUs, so what overlaps is not counted. It does so in its first ten iterations and then every n-th
    (torch.nn.parallel.DistributedDataParallel._set_ddp_runtime_logging_sample_rate); iteration i is told in i + 1.
    """

    def __init__(self, module: Any) -> None:
        self._module = weakref.ref(module)
        self._samples: collections.deque[float] = collections.deque(maxlen=SAMPLES)
        self._iteration = 0  # of the newest sample
        self._count = 0  # optimizer steps when it was seen
        self._passes = (
            1.0  # iterations for each optimizer step: more than one where a script accumulates without no_sync
        )
        self._every = 1  # iterations from sample to sample

    def seconds(self, steps: int, steps_per_second: float | None) -> float:
        """Mean seconds per optimizer step, where `steps` of them are done; 0 where gradients are not exchanged any more."""
        module = self._module()
        if module is None:
            return 0.0
        times = module._get_ddp_logging_data()
        iteration = int(times.get("iteration", 0))
        if iteration != self._iteration:
            exposed = times.get("backward_comm_time", 0) - times.get("backward_compute_comm_overlap_time", 0)
            self._samples.append(max(0.0, exposed * 1e-9))  # told in nanoseconds
            if steps > self._count:
                self._passes = (iteration - self._iteration) / (steps - self._count)
            self._iteration, self._count = iteration, steps
        if steps_per_second:
            self._every = max(1, round(steps_per_second * self._passes * SAMPLE_SECONDS))
            module._set_ddp_runtime_logging_sample_rate(self._every)
        if not self._samples or steps - self._count > 3 * self._every + FIRST_ITERATIONS:
            return 0.0  # as where LocalSGD keeps the gradients to itself
        return self._passes * sum(self._samples) / len(self._samples)


def watch_waits(clock: Clock) -> None:
    """Adds up the time of collectives that Python waits for, and keeps an eye on each DistributedDataParallel."""
    wait: Any = dist.Work.wait
    made: Any = torch.nn.parallel.DistributedDataParallel.__init__

    def watched_wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return wait(self, *args, **kwargs)
        finally:
            clock.waited(time.perf_counter() - begin)

    @functools.wraps(made)
    def watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        with contextlib.suppress(TypeError):  # a module of which no weak reference can be had
            clock.exchanges.append(GradientExchange(self))

    dist.Work.wait = watched_wait  # type: ignore[method-assign]
    torch.nn.parallel.DistributedDataParallel.__init__ = watched_init  # type: ignore[method-assign]
