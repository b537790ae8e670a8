"""Counts what a script does with plain torch and with Accelerate, and asks between steps whether it is to stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import wrapt
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper


def watch_torch(meter: Meter, stopper: Stopper) -> None:
    """Counts batches, backward passes and optimizer steps of plain torch."""
    backward: Any = torch.Tensor.backward

    def watched_backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not stopper.accelerators:
            if meter.between_steps():
                stopper.look()
            meter.backward(self)
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = watched_backward  # type: ignore[method-assign]
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: meter.step(optimizer))

    following = _BaseDataLoaderIter.__next__

    def watched_next(self: Any) -> Any:
        begin = time.perf_counter()
        batch = following(self)
        meter.batch(batch_size(batch), time.perf_counter() - begin)
        return batch

    _BaseDataLoaderIter.__next__ = watched_next  # type: ignore[method-assign]


def watch_accelerate(meter: Meter, stopper: Stopper) -> None:
    """Once the script imports Accelerate: losses before they are divided, what it logs, and where it saves."""

    def after(method: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            with contextlib.suppress(Exception):  # a note must never end a training
                note(self, *args, **kwargs)
            return result

        return wrapper

    def hook(module: Any) -> None:
        accelerator = module.Accelerator
        plain_backward = accelerator.backward

        def watched_backward(self: Any, loss: torch.Tensor, **kwargs: Any) -> None:
            if meter.between_steps():
                stopper.look()
            meter.backward(loss)
            plain_backward(self, loss, **kwargs)

        def saved(_: Any, output_dir: str | None = None, **_kwargs: Any) -> None:
            meter.saved = True
            if output_dir is not None:
                stopper.checkpoints = Path(output_dir).parent

        accelerator.backward = watched_backward
        accelerator.__init__ = after(accelerator.__init__, lambda self, **_: stopper.accelerators.append(self))
        accelerator.log = after(accelerator.log, lambda _, values, step=None, **__: meter.logged(values, step))
        accelerator.init_trackers = after(
            accelerator.init_trackers, lambda _, __=None, config=None, **___: meter.configured(config or {})
        )
        accelerator.save_state = after(accelerator.save_state, saved)
        accelerator.load_state = after(accelerator.load_state, lambda *_, **__: setattr(meter, "saved", True))

    wrapt.register_post_import_hook(hook, "accelerate.accelerator")


def batch_size(batch: Any) -> int:
    """Length of the first dimension of the first tensor found in a batch; 0 where there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((size for size in map(batch_size, batch) if size), 0)
    return 0
