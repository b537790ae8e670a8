"""The exchange between hosts: each takes the mean of one segment and the outer step there, then all get all segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from winfleet.averaging.bits import BLOCK, decode, encode


@dataclass(kw_only=True, slots=True)
class Segments:
    """One host's part, by a process group of the hosts' first ranks. As many bytes are sent as by a ring's all-reduce.

    A host keeps the momentum of its own segment alone. All apply the bytes that they got, the sender too, so that
    weights are the same on every host, bit for bit, whatever its processor makes of a longer sum.
    """

    group: Any
    bits: int
    outer: tuple[float, float]  # learning rate and momentum
    momentum: Tensor | None = None
    sent_bytes: int = 0
    _ranks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ranks = dist.get_process_group_ranks(self.group)

    def forget(self) -> None:
        """The weights came from elsewhere."""
        self.momentum = None

    def exchange(self, change: Tensor, *, plain: bool) -> Tensor:
        """What all take off their anchors: a flat fp32 vector as long as `change`, this host's weighted share of the mean.

        `plain`: the mean alone, and the momentum stays. Else Nesterov's step, as DiLoCo has it (Douillard et al.,
        arXiv 2311.08105): momentum = mu * momentum + mean, and lr * (mean + mu * momentum) is taken off.
        """
        hosts, own = len(self._ranks), dist.get_rank(self.group)
        n = -(-len(change) // (hosts * BLOCK)) * BLOCK
        rows = torch.nn.functional.pad(change, (0, hosts * n - len(change))).view(hosts, n)
        theirs = self._swap(encode(rows, self.bits))
        mean = decode(theirs, self.bits, n).sum(0)
        update = encode((mean if plain else self._step(mean)).view(1, n), self.bits)
        return decode(self._spread(update, own), self.bits, n).view(-1)[: len(change)]

    def _step(self, mean: Tensor) -> Tensor:
        lr, mu = self.outer
        if not mu:
            return mean * lr
        if self.momentum is None or len(self.momentum) != len(mean):
            self.momentum = torch.zeros_like(mean)
        self.momentum.mul_(mu).add_(mean)
        return (mean + mu * self.momentum) * lr

    def _swap(self, mine: Tensor) -> Tensor:
        """Row i goes to host i; what comes from each host is its row."""
        theirs, own = torch.empty_like(mine), dist.get_rank(self.group)
        theirs[own] = mine[own]
        self._send([(mine[other], theirs[other], other) for other in self._others()])
        return theirs

    def _spread(self, own_part: Tensor, own: int) -> Tensor:
        """Every host's row."""
        parts = own_part.new_empty(len(self._ranks), own_part.shape[1])
        parts[own] = own_part[0]
        self._send([(own_part[0], parts[other], other) for other in self._others()])
        return parts

    def _others(self) -> list[int]:
        """The next host first, so that no host is everybody's first."""
        hosts, own = len(self._ranks), dist.get_rank(self.group)
        return [(own + distance) % hosts for distance in range(1, hosts)]

    def _send(self, pairs: list[tuple[Tensor, Tensor, int]]) -> None:
        works = []
        for out, into, other in pairs:
            works += [
                dist.irecv(into, self._ranks[other], group=self.group),
                dist.isend(out, self._ranks[other], group=self.group),
            ]
            self.sent_bytes += out.numel()
        for work in works:
            if work is not None:
                work.wait()
