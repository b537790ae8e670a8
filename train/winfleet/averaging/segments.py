"""The exchange between hosts: each takes the mean of one segment and the outer step there, then all get all segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from winfleet.averaging.bits import PART, decode, encode, size_of

SENT_PART: Final = 4 * PART  # numbers that are sent at a time: 1 MB in 8 bits


class Parcel(NamedTuple):
    """Bytes that are on their way."""

    work: Any
    data: Tensor

    def come(self) -> Tensor:
        """The bytes, once they are there, or gone."""
        self.work.wait()
        return self.data


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

        n is a multiple of BLOCK times the hosts, so that each host's segment has whole blocks. A segment goes in parts: while
        one is on its way the next is worked on.
        `plain`: the mean alone, and the momentum stays. Else Nesterov's step, as DiLoCo has it (Douillard et al.,
        arXiv 2311.08105): momentum = mu * momentum + mean, and lr * (mean + mu * momentum) is taken off.
        """
        own, others, segments = dist.get_rank(self.group), self._others(), change.view(len(self._ranks), -1)
        length = segments.shape[1]
        parts = [slice(begin, min(begin + SENT_PART, length)) for begin in range(0, length, SENT_PART)]
        shares, updates = (
            [self._expect(part, tag) for tag, part in enumerate(parts, first)] for first in (0, len(parts))
        )
        sent = []
        for tag, part in enumerate(parts):
            sent += [self._send(encode(segments[host, part], self.bits), host, tag) for host in others]
        for tag, part in enumerate(parts):
            mean = segments[own, part]
            for host in others:
                decode(shares[tag][host].come(), self.bits, mean, add=True)
            if not plain:
                self._step(mean, part, length)
            update = encode(mean, self.bits)
            sent += [self._send(update, host, len(parts) + tag) for host in others]
            decode(update, self.bits, mean)
        for tag, part in enumerate(parts):
            for host in others:
                decode(updates[tag][host].come(), self.bits, segments[host, part])
        self.sent_bytes += sum(len(parcel.come()) for parcel in sent)

    def _step(self, mean: Tensor, part: slice, length: int) -> None:
        lr, mu = self.outer
        if mu:
            if self.momentum is None or len(self.momentum) != length:
                self.momentum = torch.zeros(length)
            momentum = self.momentum[part].mul_(mu).add_(mean)
            mean.add_(momentum, alpha=mu)
        mean.mul_(lr)

    def _others(self) -> list[int]:
        """The next host first, so that no host is everybody's first."""
        hosts, own = len(self._ranks), dist.get_rank(self.group)
        return [(own + distance) % hosts for distance in range(1, hosts)]

    def _expect(self, part: slice, tag: int) -> dict[int, Parcel]:
        """A part of a segment from each other host."""
        size = size_of(part.stop - part.start, self.bits)
        into = {host: torch.empty(size, dtype=torch.uint8) for host in self._others()}
        return {
            host: Parcel(dist.irecv(data, self._ranks[host], group=self.group, tag=tag), data)
            for host, data in into.items()
        }

    def _send(self, data: Tensor, host: int, tag: int) -> Parcel:
        return Parcel(dist.isend(data, self._ranks[host], group=self.group, tag=tag), data)
