"""Lets each host train alone for some steps and then brings the weights of all hosts together."""

from __future__ import annotations

import enum
import math
import time
import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from winfleet.averaging.bits import BLOCK
from winfleet.averaging.keeping import Keeper
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
LOOK_SECONDS: Final = 0.005
PATIENCE: Final = timedelta(days=1)  # of our groups: who waits here waits for a whole round; a lost host ends it before


class Averager:
    """All DistributedDataParallel models of this process as one vector of their trained weights.

    Within a host DDP sends gradients as always; between hosts nothing is sent for `every` optimizer steps. Then each host's
    change since the anchor (the weights that all hosts agreed on) is averaged, by its steps and ranks.
    """

    def __init__(self, sending: Sending, layout: Layout, meter: Meter, keeper: Keeper) -> None:
        self.sending, self.layout, self.meter, self.keeper = sending, layout, meter, keeper
        self.models: list[DistributedDataParallel] = []
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # since the last exchange
        self.seen = 0  # optimizer steps of any kind
        self._places: dict[Tensor, slice] = {}  # weights of this round, and where they stand in the vectors
        self._anchor = self._change = torch.empty(0)  # fp32 on the CPU: what all agreed on, and what is exchanged
        self._fresh = True  # no anchors yet
        self.everyone: Any = None  # groups of our own, so that nothing of the script's comes in between
        self.inside: Any = None  # the host's, of the script's own backend, for DDP
        self.segments: Segments | None = None  # on each host's first rank
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
        self.everyone = dist.new_group(backend="gloo", timeout=PATIENCE)
        leaders = dist.new_group([ranks[0] for ranks in hosts], backend="gloo", timeout=PATIENCE)
        for ranks in hosts:
            inside, beside = dist.new_group(ranks), dist.new_group(ranks, backend="gloo", timeout=PATIENCE)
            if rank in ranks:
                self.inside, self._beside = inside, beside
        if rank in [ranks[0] for ranks in hosts]:
            self.segments = Segments(group=leaders, bits=self.sending.average_bits, outer=self.sending.average_outer)
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
        self._places = {}
        self._fresh = True
        if self.segments is not None:
            self.segments.forget()
        self.steps.clear()

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
        self._begin()

    def _begin(self) -> None:
        """A round begins, or goes on with what is trained now."""
        self._lay_out(keep=True)
        if self._fresh:
            self._fresh = False
            while not self._exchange(Why.STARTS).over:
                pass
            self.keeper.restore(self.segments, len(self._anchor) // len(self.layout.processes))

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
        if self.models and dist.is_initialized():
            self._begin()
            while not self._exchange(Why.WAITS).over:
                pass

    # -- an exchange

    @torch.no_grad()
    def _lay_out(self, *, keep: bool) -> None:
        """Gives the weights that are trained now their places, those that are new with their anchor.

        Frozen ones leave between rounds; `keep`: in the middle of one they stay, as they may have changed before.
        """
        wanted = [
            weights for model in self.models for weights in model.module.parameters()
            if weights.requires_grad or (keep and weights in self._places)
        ]  # fmt: skip
        if list(map(id, wanted)) == list(map(id, self._places)):
            return
        places, before, known = dict[Tensor, slice](), self._anchor, self._places
        for weights in wanted:
            begin = next(reversed(places.values())).stop if places else 0
            places[weights] = slice(begin, begin + weights.numel())
        whole = len(self.layout.processes) * BLOCK  # as the hosts' segments have it, also on ranks that send nothing
        length = -(-sum(weights.numel() for weights in wanted) // whole) * whole
        self._anchor, self._change, self._places = torch.zeros(length), torch.zeros(length), places
        for weights, place in places.items():
            if weights in known:
                self._anchor[place] = before[known[weights]]
            else:
                self._anchor[place].view(weights.shape).copy_(weights.detach())

    def _exchange(self, why: Why) -> Met:
        with self.meter.clock.one_wait(), torch.no_grad():
            return self._exchange_now(why)

    def _exchange_now(self, why: Why) -> Met:
        begun, steps = time.monotonic(), max(self.steps.values(), default=0)
        met = self._meet(why, steps)
        if met.starts:
            if met.differ:
                self._take_first(why)
            return met
        if met.total:
            for weights, place in self._places.items():
                self._change[place].view(weights.shape).copy_(weights.detach())
            torch.sub(self._anchor, self._change, out=self._change).mul_(steps * len(self._own) / met.total)
            sent = self.segments.sent_bytes if self.segments else 0
            self._update(plain=met.all_wait)
            self._anchor.sub_(self._change)
            spread = self._write()
            self._average_buffers()
            sent = (self.segments.sent_bytes if self.segments else 0) - sent
            self.meter.exchanged(sent, time.monotonic() - begun, spread)
        self.steps.clear()
        return met

    def _meet(self, why: Why, steps: int) -> Met:
        """What every rank is here for. Raises AveragingError where they train different weights."""
        checksum = 0
        if why == Why.STARTS:  # in whole numbers: the same on every processor
            checksum = int(self._anchor.view(torch.int32).sum(dtype=torch.int64))
        numbers = sum(weights.numel() for weights in self._places)
        own = torch.tensor([int(why), steps, numbers, checksum])
        said = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        work: Any = dist.all_gather(said, own, group=self.everyone, async_op=True)
        while not work.is_completed():
            self.meter.clock.moves += 1  # others may have many steps to go: who does not move among them is stuck
            self.meter.values["meets"] = True
            time.sleep(LOOK_SECONDS)
        self.meter.values["meets"] = False
        work.wait()
        reasons, counts, lengths, sums = torch.stack(said).unbind(1)
        if (lengths != lengths[0]).any():
            told = ", ".join(f"rank {rank} {length}" for rank, length in enumerate(lengths.tolist()))
            raise AveragingError(
                f"ranks train different numbers of weights: {told}\n"
                "hint: freeze and free layers after the same step on every rank, or fleet_average_every: 0"
            )
        starting, all_wait = reasons == Why.STARTS, bool((reasons == Why.WAITS).all())
        starts = bool(starting.any())
        return Met(
            starts=starts, differ=len(set(sums[starting].tolist())) > 1 or not bool(starting.all()), total=int(counts.sum()),
            all_wait=all_wait, over=why == Why.STARTS if starts else why == Why.ROUND or all_wait,
        )  # fmt: skip

    def _take_first(self, why: Why) -> None:
        """Ranks begin with different weights: rank 0's are taken."""
        first = dist.get_rank() == 0
        if first:
            print("winfleet: ranks began a round with different weights; those of rank 0 are taken", flush=True)
        taken = self._anchor if first or why == Why.STARTS else self._anchor.clone()  # its steps since the anchor stay
        dist.broadcast(taken, 0, group=self.everyone)
        if not first and why == Why.STARTS:
            self._write()

    def _update(self, *, plain: bool) -> None:
        """The host's first rank speaks for all of its host, whose ranks have the same weights."""
        if self.segments is not None:
            self.segments.exchange(self._change, plain=plain)
        if len(self._own) > 1:
            dist.broadcast(self._change, self._own[0], group=self._beside)

    def _write(self) -> float:
        """All weights become the anchor; how far they were from it, as a share of their norm."""
        apart, whole = 0.0, 0.0
        for weights, place in self._places.items():
            new = self._anchor[place].view(weights.shape).to(weights.device, weights.dtype)
            apart += float(torch.dist(weights, new)) ** 2
            whole += float(new.norm()) ** 2
            weights.copy_(new)
        self._lay_out(keep=False)
        return math.sqrt(apart / max(whole, LEAST_NORM))

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
