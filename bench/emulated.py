"""Emulated GPUs: ranks whose compute is a sleep, and whose gradients are real, between network namespaces with real limits.

A layer sleeps in forward and in backward as long as a GPU would compute, and its backward yields a real gradient. The
ranks are plain torch.distributed: gloo, DistributedDataParallel with its own buckets, no_sync() while accumulating. Each
host is a network namespace behind a link with a limit (tbf) at both ends, or at its own end where frames are delayed, too
(bench/far_switch.py). Two cores cannot move what 16 hosts at 10 Gbit/s do, so links, delays and compute are slowed by one
common factor; bytes are not changed.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from far_switch import MTU, hardware_address, open_tap, switching
from frame import BenchError
from namespaces import Net, apart, in_namespaces, join, run, switch_on
from torch import Tensor, nn
from winfleet.core.plan import PROBE_PORT, RANKS_PORT
from winfleet.rank.process import bind_gloo
from winfleet.rehearsal import links
from winfleet.rehearsal.allreduce import RingLink

NETWORK: Final = "10.71.7"
TIMEOUT: Final = timedelta(minutes=10)
NICE: Final = -15  # ranks sleep nearly always; woken late beside other work, they would look like a slower network
UNMEASURED_STEPS: Final = 2  # DDP arranges its buckets anew after the first
FORWARD_SHARE: Final = 1 / 3
BURST: Final = 65_536  # bytes of the token bucket
OWN_QUEUE, SWITCH_QUEUE = 4 * 2**20, 2**18  # bytes that may wait: a sender's own card makes it wait, a switch drops


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A cluster and a training on it, as it would really be; `factor` is how much slower it is emulated."""

    hosts: int
    gbit: float  # of each host's link, in both directions
    gradient_mib: float
    ranks_per_host: int = 1
    micro_batch_seconds: float = 0.3
    accumulation: int = 1
    data_seconds: float = 0.0  # for each micro-batch
    slowest: float = 1.0  # times as long the last host computes
    latency_seconds: float = 0.0  # one way; 0: as this machine's own is, which is small against what is slowed
    layers: int = 48
    factor: float = 50.0
    steps: int = 3  # that are measured, after two that are not

    @property
    def ranks(self) -> int:
        """World size."""
        return self.hosts * self.ranks_per_host

    @property
    def layer_floats(self) -> int:
        """Parameters of one layer."""
        return round(self.gradient_mib * 2**20 / 4 / self.layers)

    @property
    def bytes_per_second(self) -> float:
        """What the emulated link carries, headers included."""
        return self.gbit * 1e9 / 8 / self.factor


# -- the network


def address(host: int) -> str:
    """Of a host, from 0 on."""
    return f"{NETWORK}.{host + 1}"


@contextlib.contextmanager
def network(case: Case) -> Iterator[list[Net]]:
    """Namespaces of the hosts, each behind a link to one switch. Needs root. Raises NetError.

    TCP is Reno, whatever this machine prefers: CUBIC, the default of Linux and Windows, does the same on short ways
    (RFC 9438, Reno-friendly region), and a namespace may always choose Reno.
    """
    limit = ("tbf", "rate", f"{case.bytes_per_second * 8:.0f}bit", "burst", str(BURST), "limit")
    with contextlib.ExitStack() as stack:
        hub, nets = stack.enter_context(apart(case.hosts, NETWORK))
        if case.latency_seconds:
            stack.enter_context(switching(_plug_taps(nets), case.latency_seconds * case.factor))
        else:
            join(hub, nets, [*limit, str(SWITCH_QUEUE)])
        for net in nets:
            switch_on(net)
            run(*net.command("sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"))
            net.limit(*limit, str(OWN_QUEUE))
        yield nets


def _plug_taps(nets: Sequence[Net]) -> list[int]:
    taps = []
    for host, net in enumerate(nets):
        tap = f"wftap{host}"
        taps.append(open_tap(tap))
        run("ip", "link", "set", tap, "netns", net.name, "name", "eth0")
        run("ip", "-n", net.name, "link", "set", "eth0", "address", hardware_address(host).hex(":"), "mtu", str(MTU))
    return taps


# -- a rank


class Clock:
    """Sleeps until the moments at which a GPU would be done, so that this machine's own delays do not add up."""

    def __init__(self) -> None:
        self.now = 0.0

    def begin(self) -> None:
        """A pass begins."""
        self.now = time.monotonic()

    def work(self, seconds: float) -> None:
        """So much of the pass is done when this returns."""
        self.now += seconds
        if (left := self.now - time.monotonic()) > 0:
            time.sleep(left)


class _Work(torch.autograd.Function):
    """A layer's compute: sleeps, and a gradient that is the rank's number plus one everywhere."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, clock: Clock, seconds: tuple[float, float], value: float
    ) -> Tensor:
        ctx.clock, ctx.seconds, ctx.value, ctx.shape = clock, seconds[1], value, weight.shape
        clock.work(seconds[0])
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.clock.work(ctx.seconds)
        return gradients[0], torch.full(ctx.shape, ctx.value), None, None, None


class _BackwardBegins(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clock: Clock) -> Tensor:
        ctx.clock = clock
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.clock.begin()
        return gradients[0], None


class Emulated(nn.Module):
    """Layers of equal size; a forward takes a third of a micro-batch's seconds, a backward two."""

    def __init__(self, case: Case, seconds: float, value: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.zeros(case.layer_floats) for _ in range(case.layers)])
        self.clock, self.value = Clock(), value
        self.seconds = (FORWARD_SHARE * seconds / case.layers, (1 - FORWARD_SHARE) * seconds / case.layers)

    def forward(self, x: Tensor) -> Tensor:
        """One number in, one number out."""
        self.clock.begin()
        for weight in self.weights:
            x = _Work.apply(x, weight, self.clock, self.seconds, self.value)  # type: ignore[no-untyped-call]
        out: Tensor = _BackwardBegins.apply(x, self.clock)  # type: ignore[no-untyped-call]
        return out


def train(case: Case, unmeasured: int = UNMEASURED_STEPS) -> list[float]:
    """Trains as the rank that the environment says; gives the seconds of each measured step, as emulated.

    Raises BenchError where a gradient is not the mean of all ranks' gradients.
    """
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    slow = case.slowest if rank >= case.ranks - case.ranks_per_host else 1.0
    emulated = Emulated(case, case.micro_batch_seconds * slow * case.factor, rank + 1.0)
    if ranks > 1:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    model: Any = nn.parallel.DistributedDataParallel(emulated) if ranks > 1 else emulated
    x = torch.ones(1, requires_grad=True)
    took = []
    for _ in range(unmeasured + case.steps):
        begin = time.monotonic()
        for micro_batch in range(case.accumulation):
            sends = micro_batch == case.accumulation - 1 or ranks == 1
            with contextlib.nullcontext() if sends else model.no_sync():
                if case.data_seconds:
                    time.sleep(case.data_seconds * case.factor)
                model(x).backward()
        took.append(time.monotonic() - begin)
        mean = case.accumulation * (ranks + 1) / 2
        if any(
            abs(float(weight.grad[0]) - mean) > 1e-3 * mean for weight in emulated.weights if weight.grad is not None
        ):
            raise BenchError(f"rank {rank}: a gradient is not the mean of all ranks")
        emulated.zero_grad(set_to_none=True)
    if ranks > 1:
        dist.destroy_process_group()
    return took[unmeasured:]


def as_rank(rank: int, case: Case, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function as that rank of the case, with gloo on its host's address, as winfleet's runner does it."""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    own = address(rank // case.ranks_per_host)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(case.ranks), "MASTER_ADDR": address(0), "MASTER_PORT": str(RANKS_PORT),
    }  # fmt: skip
    bind_gloo(own)
    return function(*arguments)


def on_all_ranks(case: Case, nets: Sequence[Net], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What the function answers on each rank. Raises NetError."""
    places = [nets[rank // case.ranks_per_host] for rank in range(case.ranks)]
    return in_namespaces(places, as_rank, [(rank, case, function, *arguments) for rank in range(case.ranks)])


# -- a link


def measure_link(nets: Sequence[Net], seconds: float = 2.0) -> RingLink:
    """The link from the second host to the first, as a rehearsal measures it (winfleet.rehearsal.links). Raises NetError."""
    fork = multiprocessing.get_context("fork")
    listens, measured, token = fork.Event(), fork.Event(), secrets.token_hex(8)
    _, link = in_namespaces(nets[:2], _link_end, [(host, token, seconds, listens, measured) for host in range(2)])
    assert isinstance(link, RingLink)
    return link


def _link_end(host: int, token: str, seconds: float, listens: Event, measured: Event) -> RingLink | None:
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    if host == 0:
        listener = links.Listener(address(0), PROBE_PORT, token, [address(1)])
        listens.set()
        measured.wait(TIMEOUT.total_seconds())
        listener.close()
        return None
    try:
        listens.wait(TIMEOUT.total_seconds())
        target = (address(0), PROBE_PORT, token)
        latency = links.round_trip(*target) / 2
        return RingLink(bytes_per_second=links.bandwidth(*target, seconds), latency_seconds=latency)
    finally:
        measured.set()


def main() -> None:
    """`emulated.py CASE.json FOLDER`, started for each rank by any launcher: trains, and leaves its seconds in the folder."""
    case = Case(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    took = train(case)
    Path(sys.argv[2], f"rank{os.environ['RANK']}.seconds").write_text(json.dumps(took), "utf-8")


if __name__ == "__main__":
    main()
