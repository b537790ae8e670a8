"""Gradients in 16 bits: as many steps, half the bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

SCALED_PEAK: Final = 16.0  # of a bucket's mean: the next may be 4,000 times as large, and numbers to 260,000 times smaller keep their digits
LARGEST_EXPONENT: Final = 100  # of a scale


class Half:
    """The state of the hook of one DistributedDataParallel.

    Each bucket is scaled by a power of two from the size of its mean in the step before, which all ranks know alike, so
    that small gradients keep their digits (fp16's smallest normal number is 6e-5). Where a sum overflows all the same,
    which every rank sees in the same bits, the bucket is sent again in fp32.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._scales: dict[int, float] = {}  # of each bucket
        self._flying: list[tuple[Tensor, Any]] = []  # the rank's own gradients, and the mean's future
        self._again: list[Tensor] = []
        self._told = False

    def __call__(self, bucket: Any, group: Any) -> Any:
        """DDP's communication hook, called for its buckets in the same order on every rank."""
        own, index = bucket.buffer(), bucket.index()
        world = dist.get_world_size(group)
        if own.dtype not in (torch.float32, torch.float64):
            future = (
                dist.all_reduce(own.div_(world), group=group, async_op=True)
                .get_future()
                .then(lambda done: done.value()[0])
            )
        else:
            scale = self._scales.get(index, 1.0)
            small = own.mul(scale / world).half()
            future = dist.all_reduce(small, group=group, async_op=True).get_future()
            future = future.then(lambda done: self._arrived(done.value()[0], own, index, scale))
        self._flying.append((own, future))
        if bucket.is_last():
            self._finish(group, world)
        return future

    def _arrived(self, mean: Tensor, own: Tensor, index: int, scale: float) -> Tensor:
        peak = float(mean.abs().amax())  # NaN where one is
        if not math.isfinite(peak):
            self._again.append(own)
            self._scales[index] = 1.0
            return own
        own.copy_(mean).div_(scale)
        if peak:
            exponent = math.floor(math.log2(SCALED_PEAK * scale / peak))
            self._scales[index] = 2.0 ** max(-LARGEST_EXPONENT, min(LARGEST_EXPONENT, exponent))
        return own

    def _finish(self, group: Any, world: int) -> None:
        """The backward pass is over: what did not fit is sent again, in the order of buckets."""
        torch.futures.wait_all([future for _, future in self._flying])
        again = [own for own, _ in self._flying if any(own is one for one in self._again)]
        self._flying, self._again = [], []
        for own in again:
            dist.all_reduce(own.div_(world), group=group)
        if again and not self._told and all(bool(own.isfinite().all()) for own in again):
            self._told = True
            self.say("gradients of a step were too large for 16 bits and were sent in 32; said once")


def compress(model: DistributedDataParallel, say: Callable[[str], None]) -> None:
    """Has the model's gradients sent so, unless the script has its own hook by its first forward pass."""

    def first(ddp: DistributedDataParallel, _inputs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        handle.remove()
        if ddp._comm_hooks:
            say("the script has a communication hook of its own, so fleet_gradients has no effect")
            return
        half = Half(say)
        ddp.register_comm_hook(ddp.process_group, lambda group, bucket: half(bucket, group))

    handle = model.register_forward_pre_hook(first)
