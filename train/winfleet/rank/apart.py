"""Whether the ranks train one model: as copies that never join, or never speak to one another, they do not."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import torch
import torch.distributed as dist

from winfleet.core.status import APART_ALONE, APART_SILENT

PATIENCE: Final = 10  # optimizer steps without an exchange, after which ranks are said not to speak
LEAST_NUMBERS: Final = 8  # a tensor of fewer is a loss or a metric, and no gradient
EXCHANGES: Final = re.compile(r"_?(all|reduce|broadcast|gather|scatter|send|recv)\w*")  # methods of a process group


class Togetherness:
    """Looks, at each optimizer step, whether the process group is there and whether gradients or weights are exchanged in it.

    DistributedDataParallel exchanges them in C++, so that such a module was made is enough. All else (FSDP, DeepSpeed,
    a script's own all_reduce) goes through the group's methods in Python.
    """

    def __init__(self) -> None:
        self._world = int(os.environ.get("WORLD_SIZE", "1"))
        self._spoken = False  # since the first optimizer step, or in C++
        self._began: int | None = None  # steps at the first look

    def look(self, count: int, optimizer: torch.optim.Optimizer, *, wrapped: bool) -> str:
        """How the ranks train apart after so many optimizer steps, "" where they do not, or it is not known yet."""
        if self._world == 1 or self.alone():
            return self.alone()
        if self._began is None:
            self._began, self._spoken = count, wrapped or _is_sharded(optimizer)
        self._spoken = self._spoken or wrapped
        return "" if self._spoken or count - self._began < PATIENCE else APART_SILENT

    def alone(self) -> str:
        """APART_ALONE where this rank is in no process group with the others, else ""."""
        joined = self._world == 1 or (dist.is_initialized() and dist.get_world_size() >= self._world)
        return "" if joined else APART_ALONE

    def watch(self) -> None:
        """Has the group's methods tell of tensors that may be gradients or weights."""

        def listened(method: Any) -> Any:
            def exchange(group: Any, *args: Any, **kwargs: Any) -> Any:
                self._spoken = self._spoken or (self._began is not None and any(map(_is_large, args)))
                return method(group, *args, **kwargs)

            return exchange

        if self._world > 1:
            for name in filter(EXCHANGES.fullmatch, dir(dist.ProcessGroup)):
                setattr(dist.ProcessGroup, name, listened(getattr(dist.ProcessGroup, name)))


def _is_large(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.numel() >= LEAST_NUMBERS
    return isinstance(value, list | tuple) and any(map(_is_large, value))


def _is_sharded(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its weights are DTensors, whose collectives are C++."""
    return any(hasattr(weights, "device_mesh") for group in optimizer.param_groups for weights in group["params"])
