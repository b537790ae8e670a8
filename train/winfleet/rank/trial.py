"""One process of a user's training for a few steps: how long a micro-batch takes, and how large the gradients are.

The rehearsal starts the runner with WINFLEET_TRIAL=<steps> and WINFLEET_TRIAL_FILE=<path>. The process ends itself once it
has timed the steps; the file has what was measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from winfleet.core.files import write_atomic
from winfleet.core.reading import Reader

if TYPE_CHECKING:
    import torch

MOST_TENSORS: Final = 10_000
Seconds = Annotated[float, (0.0, 1e6)]
Count = Annotated[int, (0, 2**31)]
ENOUGH_SECONDS: Final = 20.0  # after the first step; slow steps are timed less often
LEAST_SECONDS: Final = 1.5  # and fast ones more often: hosts that share a machine begin at slightly different moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What one process by itself needs. A micro-batch is one backward pass; several of them may make a step."""

    micro_batch_seconds: Annotated[float, (1e-9, 1e6)]  # forward and backward of a micro-batch
    backward_seconds: Seconds = 0.0  # of it
    optimizer_seconds: Seconds = 0.0  # of a step
    data_seconds: Seconds = 0.0  # of a micro-batch: waiting for the DataLoader
    tensor_bytes: Annotated[
        tuple[Annotated[int, (1, 2**40)], ...], MOST_TENSORS
    ] = ()  # of the gradients of the optimizer's parameters, in their order
    samples: Count = 0  # in a micro-batch; 0 where no DataLoader tells
    num_workers: Count = 0  # of the DataLoader
    accumulation: Annotated[int, (1, 2**31)]  # micro-batches in a step
    memory_mib: float = 0.0  # most that tensors took of the GPU; 0 without one
    steps: Annotated[int, (1, 2**31)]  # that were timed

    @property
    def gradient_bytes(self) -> int:
        """Bytes of all gradients that the ranks exchange."""
        return sum(self.tensor_bytes)

    @classmethod
    def parse(cls, values: object) -> Trial | None:
        """Reads what a host measured; None where it is no trial."""
        return Reader().read_or_none(cls, values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimizer step of the trial, in seconds."""

    seconds: float
    data_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    micro_batches: int


class Stopwatch:
    """Times a trial's steps; the hooks of watch() call it."""

    def __init__(self, steps: int, path: Path) -> None:
        self.wanted, self.path = steps, path
        self.steps: list[Step] = []
        self.samples = self.num_workers = 0
        self.tensor_bytes: tuple[int, ...] = ()
        self._optimizer: int | None = None
        self._first = self._begin = 0.0  # of the first step that counts, and of the one under way
        self._data = self._backward = self._stepping = 0.0
        self._micro_batches = 0

    def fetched(self, seconds: float, samples: int, num_workers: int) -> None:
        """The DataLoader gave a batch."""
        self._data += seconds
        self.samples, self.num_workers = samples or self.samples, num_workers

    def backward(self, seconds: float) -> None:
        """A backward pass is done."""
        self._backward += seconds
        self._micro_batches += 1

    def begin_step(self) -> None:
        """An optimizer begins to step."""
        _wait_for_gpu()
        self._stepping = time.perf_counter()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer has stepped: the first one is warm-up, the last one ends the process."""
        if self._optimizer not in (None, id(optimizer)):
            return
        _wait_for_gpu()
        now = time.perf_counter()
        if self._optimizer is None:
            self._optimizer, self._first = id(optimizer), now
            self.tensor_bytes = tensor_bytes(optimizer)
        elif self._micro_batches:
            self.steps.append(Step(
                seconds=now - self._begin, data_seconds=self._data, backward_seconds=self._backward,
                optimizer_seconds=now - self._stepping, micro_batches=self._micro_batches,
            ))  # fmt: skip
        self._begin, self._data, self._backward, self._micro_batches = now, 0.0, 0.0, 0
        least = LEAST_SECONDS if len(self.steps) >= self.wanted else ENOUGH_SECONDS
        if self.steps and now - self._first > least:
            self.write()
            sys.stdout.flush()
            os._exit(0)  # no end of a training: no model is saved, nobody is told

    def write(self) -> None:
        """What was measured so far; nothing where no step was."""
        if self.steps:
            measured = dataclasses.replace(
                summarize(self.steps), tensor_bytes=self.tensor_bytes, samples=self.samples, num_workers=self.num_workers,
                memory_mib=_peak_mib(),
            )  # fmt: skip
            write_atomic(self.path, json.dumps(dataclasses.asdict(measured)))


def summarize(steps: Sequence[Step]) -> Trial:
    """Medians over the steps, so that a step with a checkpoint or a validation in it does not count."""

    def median(seconds: Callable[[Step], float]) -> float:
        return statistics.median(map(seconds, steps))

    return Trial(
        micro_batch_seconds=median(
            lambda step: (step.seconds - step.data_seconds - step.optimizer_seconds) / step.micro_batches
        ),
        backward_seconds=median(lambda step: step.backward_seconds / step.micro_batches),
        optimizer_seconds=median(lambda step: step.optimizer_seconds),
        data_seconds=median(lambda step: step.data_seconds / step.micro_batches),
        accumulation=round(median(lambda step: step.micro_batches)),
        steps=len(steps),
    )


def tensor_bytes(optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    """Bytes of each gradient that the ranks would exchange."""
    return tuple(
        weights.numel() * weights.element_size()
        for group in optimizer.param_groups
        for weights in group["params"]
        if weights.requires_grad
    )


def _uses_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _wait_for_gpu() -> None:
    import torch

    if _uses_gpu():
        torch.cuda.synchronize()


def _peak_mib() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if _uses_gpu() else 0.0


def watch(stopwatch: Stopwatch, batch_size: Callable[[Any], int]) -> None:
    """Hooks the stopwatch into plain torch; `batch_size` tells the samples of what a DataLoader gives."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    backward: Any = torch.Tensor.backward
    following = _BaseDataLoaderIter.__next__

    def timed_backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        _wait_for_gpu()
        begin = time.perf_counter()
        backward(self, *args, **kwargs)
        _wait_for_gpu()
        stopwatch.backward(time.perf_counter() - begin)

    def timed_next(self: Any) -> Any:
        begin = time.perf_counter()
        batch = following(self)
        samples = batch_size(batch) if torch.is_grad_enabled() else 0  # else it is a validation's
        stopwatch.fetched(time.perf_counter() - begin, samples, self._num_workers)
        return batch

    torch.Tensor.backward = timed_backward  # type: ignore[method-assign]
    _BaseDataLoaderIter.__next__ = timed_next  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(lambda _optimizer, _args, _kwargs: stopwatch.begin_step())
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: stopwatch.step(optimizer))
