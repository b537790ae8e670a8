"""Counts what a script does with plain torch, and asks between steps whether it is to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from winfleet.rank.losses import watch_scalers
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper


def watch_torch(meter: Meter, stopper: Stopper) -> None:
    """Counts batches, backward passes and optimizer steps of plain torch."""
    backward: Any = torch.Tensor.backward
    made: Any = torch.optim.Optimizer.__init__

    def watched_backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not meter.inside:
            if meter.between_steps():
                stopper.look()
            meter.backward(self)
        return backward(self, *args, **kwargs)

    def watched_init(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        meter.turns.made(self)

    torch.Tensor.backward = watched_backward  # type: ignore[method-assign]
    torch.optim.Optimizer.__init__ = watched_init  # type: ignore[method-assign]
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: meter.step(optimizer))
    watch_scalers()

    following = _BaseDataLoaderIter.__next__

    def watched_next(self: Any) -> Any:
        begin = time.perf_counter()
        batch = following(self)
        meter.batch(batch_size(batch), time.perf_counter() - begin, self)
        return batch

    _BaseDataLoaderIter.__next__ = watched_next  # type: ignore[method-assign]


def batch_size(batch: Any) -> int:
    """Length of the first dimension of the first tensor found in a batch; 0 where there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((size for size in map(batch_size, batch) if size), 0)
    return 0
