"""Lets each host train alone for some steps and then brings the weights of all hosts together."""

from __future__ import annotations

import enum
import weakref
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from winfleet.averaging.segments import Segments
from winfleet.core.sending import Sending
from winfleet.rank.meter import Meter


class AveragingError(RuntimeError):
    """A script that cannot be trained so; the text says what it has and what to do."""


class Why(enum.IntEnum):
    """Why a rank exchanges."""

    STARTS = 0  # its weights came from elsewhere, and all must have the same
    ROUND = 1  # it has done its steps
    WAITS = 2  # it goes no further without the others: a barrier, a checkpoint, its end


class Layout(NamedTuple):
    """Which ranks share a host."""

    processes: tuple[int, ...]  # of each host, in the order of ranks

    def ranks(self) -> list[list[int]]:
        """Those of each host."""
        firsts = [sum(self.processes[:host]) for host in range(len(self.processes))]
        return [list(range(first, first + count)) for first, count in zip(firsts, self.processes, strict=True)]


HINT: Final = "hint: fleet_average_every: 0, or DistributedDataParallel of all ranks in the script"
LEAST_NORM: Final = 1e-30


class Averager:
    """All DistributedDataParallel models of this process as one vector of their trained weights.

    Within a host DDP sends gradients as always; between hosts nothing is sent for `every` optimizer steps. Then each host's
    change since the anchor (the weights that all hosts agreed on) is averaged, by its steps and ranks.
    """

    def __init__(self, sending: Sending, layout: Layout, meter: Meter) -> None:
        self.sending, self.layout, self.meter = sending, layout, meter
        self.models: list[DistributedDataParallel] = []
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # since the last exchange
        self.seen = 0  # optimizer steps of any kind
        self._anchors: dict[Tensor, Tensor] = {}  # weights -> fp32 on the CPU
        self._fresh = True  # no anchors yet
        self.everyone: Any = None  # groups of our own, so that nothing of the script's comes in between
        self.inside: Any = None  # the host's, of the script's own backend, for DDP
        self._segments: Segments | None = None  # on each host's first rank
        self._beside: Any = None  # the host's, for the CPU
        self._own: list[int] = []  # the host's ranks

    # -- groups and models

    def form_groups(self) -> None:
        """Every rank must call it, once its process group stands. Raises AveragingError where the plan's ranks are others."""
        hosts, rank = self.layout.ranks(), dist.get_rank()
        if dist.get_world_size() != sum(self.layout.processes):
            raise AveragingError(
                f"the script's process group has {dist.get_world_size()} ranks, and the run {sum(self.layout.processes)}\n"
                f"{HINT}"
            )
        self.everyone = dist.new_group(backend="gloo")
        leaders = dist.new_group([ranks[0] for ranks in hosts], backend="gloo")
        for ranks in hosts:
            inside, beside = dist.new_group(ranks), dist.new_group(ranks, backend="gloo")
            if rank in ranks:
                self.inside, self._beside = inside, beside
        if rank in [ranks[0] for ranks in hosts]:
            self._segments = Segments(group=leaders, bits=self.sending.average_bits, outer=self.sending.average_outer)
        self._own = next(ranks for ranks in hosts if rank in ranks)

    @property
    def alone(self) -> bool:
        """Whether this rank is its host's only one, so that it sends no gradient at all."""
        return len(self._own) == 1

    def add(self, model: DistributedDataParallel) -> None:
        """A model that DDP has made."""
        self._share([*model.module.parameters(), *model.module.buffers()])
        self.models.append(model)
        model.module.register_load_state_dict_post_hook(lambda *_: self.forget())
        self.forget()

    @torch.no_grad()
    def _share(self, states: Sequence[Tensor]) -> None:
        """All begin with rank 0's, as DDP of all ranks would have it."""
        for kind in sorted({state.dtype for state in states}, key=str):
            ours = [state for state in states if state.dtype == kind]
            flat = torch.cat([state.detach().reshape(-1).cpu() for state in ours])
            dist.broadcast(flat, 0, group=self.everyone)
            for state, new in zip(ours, _cut(flat, ours), strict=True):
                state.copy_(new)

    def forget(self) -> None:
        """Weights came from elsewhere: the next step begins a round from them."""
        self._anchors.clear()
        self._fresh = True
        if self._segments is not None:
            self._segments.forget()
        self.steps.clear()

    def weights(self) -> list[Tensor]:
        """Those of the current round: what is trained now, and what was when it began."""
        return [
            weights for model in self.models for weights in model.module.parameters()
            if weights.requires_grad or weights in self._anchors
        ]  # fmt: skip

    def trains(self, optimizer: Any) -> bool:
        """Whether the optimizer has weights of our models."""
        known = {id(weights) for model in self.models for weights in model.module.parameters()}
        return any(id(weights) in known for group in optimizer.param_groups for weights in group["params"])

    # -- steps

    def before_step(self, optimizer: Any) -> None:
        """Takes the anchor of what is about to be changed for the first time in this round."""
        if not self.models or any(
            hasattr(one, "device_mesh") for group in optimizer.param_groups for one in group["params"]
        ):
            raise AveragingError(f"{type(optimizer).__name__} trains no model of DistributedDataParallel\n{HINT}")
        if not self.trains(optimizer):
            return
        self._anchor()
        if self._fresh:
            self._fresh = False
            while not self._exchange(Why.STARTS).over:
                pass

    def after_step(self, optimizer: Any) -> None:
        """Exchanges once the round's steps are done; where several optimizers take turns, after the last one's."""
        self.seen += 1
        if not self.models or not self.trains(optimizer):
            return
        self.steps[optimizer] = self.steps.get(optimizer, 0) + 1
        done = max(self.steps.values())
        if done >= self.sending.average_every and not any(count == done - 1 for count in self.steps.values()):
            while not self._exchange(Why.ROUND).over:
                pass

    def flush(self) -> None:
        """This rank goes no further without all others: it takes part in their rounds until they wait, too.

        Where all ranks stand at the same place, what they have then is the plain mean.
        """
        if self._anchors and dist.is_initialized():
            while not self._exchange(Why.WAITS).over:
                pass

    # -- an exchange

    def _anchor(self) -> None:
        for weights in self.weights():
            if weights not in self._anchors:
                self._anchors[weights] = weights.detach().to("cpu", torch.float32, copy=True).reshape(-1)

    def _exchange(self, why: Why) -> Met:
        with self.meter.clock.one_wait(), torch.no_grad():
            return self._exchange_now(why)

    def _exchange_now(self, why: Why) -> Met:
        steps = max(self.steps.values(), default=0)
        everything = self.weights()
        anchor = torch.cat([self._anchors[weights] for weights in everything])
        met = self._meet(why, steps, anchor)
        if met.starts:
            if met.differ:
                self._take_first(everything, anchor, why)
        elif met.total:
            now = torch.cat([weights.detach().reshape(-1).to("cpu", torch.float32) for weights in everything])
            sent = self._segments.sent_bytes if self._segments else 0
            anchor.sub_(self._update((anchor - now).mul_(steps * len(self._own) / met.total), plain=met.all_wait))
            self._write(everything, anchor)
            self._average_buffers()
            sent = (self._segments.sent_bytes if self._segments else 0) - sent
            self.meter.exchanged(sent, float((anchor - now).norm() / now.norm().clamp_min(LEAST_NORM)))
        if not met.starts:
            self.steps.clear()
        return met

    def _meet(self, why: Why, steps: int, anchor: Tensor) -> Met:
        """What every rank is here for. Raises AveragingError where they train different weights."""
        checksum = int(anchor.view(torch.int32).to(torch.int64).sum())  # whole numbers: the same on every processor
        own = torch.tensor([int(why), steps, len(anchor), checksum])
        said = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(said, own, group=self.everyone)
        reasons, counts, lengths, sums = torch.stack(said).unbind(1)
        if (lengths != lengths[0]).any():
            told = ", ".join(f"rank {rank} {length}" for rank, length in enumerate(lengths.tolist()))
            raise AveragingError(
                f"ranks train different numbers of weights: {told}\n"
                "hint: freeze and free layers after the same step on every rank, or fleet_average_every: 0"
            )
        starts = bool((reasons == Why.STARTS).any())
        return Met(
            starts=starts, differ=bool((sums != sums[0]).any()), total=int(counts.sum()),
            all_wait=bool((reasons == Why.WAITS).all()),
            over=(why == Why.STARTS) if starts else why == Why.ROUND or bool((reasons == Why.WAITS).all()),
        )  # fmt: skip

    def _take_first(self, everything: Sequence[Tensor], anchor: Tensor, why: Why) -> None:
        """Ranks begin with different weights: rank 0's are taken."""
        first = dist.get_rank() == 0
        if first:
            print("winfleet: ranks began a round with different weights; those of rank 0 are taken", flush=True)
        dist.broadcast(anchor, 0, group=self.everyone)
        if first or why != Why.STARTS:  # its steps since the anchor stay
            return
        self._write(everything, anchor)

    def _update(self, change: Tensor, *, plain: bool) -> Tensor:
        """The host's first rank speaks for all of its host, whose ranks have the same weights."""
        if self._segments is not None:
            change = self._segments.exchange(change, plain=plain)
        if len(self._own) > 1:
            dist.broadcast(change, self._own[0], group=self._beside)
        return change

    def _write(self, everything: Sequence[Tensor], flat: Tensor) -> None:
        for weights, new in zip(everything, _cut(flat, everything), strict=True):
            self._anchors[weights] = new.reshape(-1).clone()
            weights.copy_(new)
        for weights in [weights for weights in self._anchors if not weights.requires_grad]:
            del self._anchors[weights]  # frozen: it does not change any more

    def _average_buffers(self) -> None:
        """Running means and variances, by fp32."""
        floats = [b for model in self.models for b in model.module.buffers() if b.is_floating_point()]
        if not floats:
            return
        flat = torch.cat([buffer.detach().reshape(-1).to("cpu", torch.float32) for buffer in floats])
        dist.all_reduce(flat, group=self.everyone)
        flat.div_(dist.get_world_size())
        for buffer, new in zip(floats, _cut(flat, floats), strict=True):
            buffer.copy_(new)


def check_layers(model: torch.nn.Module) -> None:
    """Raises AveragingError where a layer needs all ranks."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.SyncBatchNorm):
            raise AveragingError(
                f"{name or 'the model'} is a SyncBatchNorm, which needs all ranks in every forward pass\n"
                "hint: fleet_average_every: 0, or BatchNorm without convert_sync_batchnorm"
            )


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The flat vector in the shapes of those."""
    parts = torch.split(flat, [one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


class Met(NamedTuple):
    """What all ranks said as an exchange began."""

    starts: bool  # somebody's weights came from elsewhere, so nothing is averaged yet
    differ: bool  # their anchors
    total: int  # steps of all ranks
    all_wait: bool
    over: bool  # whether this rank got what it came for
