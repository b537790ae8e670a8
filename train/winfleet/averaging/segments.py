"""The exchange between hosts: each takes the mean of one segment and the outer step there, then all get all segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from winfleet.averaging.bits import decode, encode


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

    def exchange(self, change: Tensor, *, plain: bool) -> None:
        """Replaces this host's weighted share of the mean change, fp32 (n,), by what all take off their anchors.

        n is a multiple of BLOCK times the hosts, so that each host's segment has whole blocks.
        `plain`: the mean alone, and the momentum stays. Else Nesterov's step, as DiLoCo has it (Douillard et al.,
        arXiv 2311.08105): momentum = mu * momentum + mean, and lr * (mean + mu * momentum) is taken off.
        """
        own, segments = dist.get_rank(self.group), change.view(len(self._ranks), -1)
        mine = [encode(segment, self.bits) for segment in segments]
        mean = segments[own]
        for theirs in self._send({host: mine[host] for host in self._others()}).values():
            decode(theirs, self.bits, mean, add=True)
        update = encode(mean if plain else self._step(mean), self.bits)
        parts = self._send(dict.fromkeys(self._others(), update)) | {own: update}
        for host, part in parts.items():
            decode(part, self.bits, segments[host])

    def _step(self, mean: Tensor) -> Tensor:
        lr, mu = self.outer
        if mu:
            if self.momentum is None or len(self.momentum) != len(mean):
                self.momentum = torch.zeros_like(mean)
            self.momentum.mul_(mu).add_(mean)
            mean.add_(self.momentum, alpha=mu)
        return mean.mul_(lr)

    def _others(self) -> list[int]:
        """The next host first, so that no host is everybody's first."""
        hosts, own = len(self._ranks), dist.get_rank(self.group)
        return [(own + distance) % hosts for distance in range(1, hosts)]

    def _send(self, out: dict[int, Tensor]) -> dict[int, Tensor]:
        """Sends each host its bytes, and gives what comes from each, which is as much."""
        into = {host: torch.empty_like(data) for host, data in out.items()}
        works = [dist.irecv(data, self._ranks[host], group=self.group) for host, data in into.items()]
        works += [dist.isend(data, self._ranks[host], group=self.group) for host, data in out.items()]
        for work in works:
            if work is not None:
                work.wait()
        self.sent_bytes += sum(map(len, out.values()))
        return into
