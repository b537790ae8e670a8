"""Compares DDP's gradients in fp16, and averages every few steps, with plain DDP on emulated GPUs; needs root.

    TORCH_CPP_LOG_LEVEL=ERROR .venv/bin/python bench/averaging.py [--gbit 0.1 1] [--hosts 2 4] [--factor 1]

The model has 25 million weights and a step computes for 0.3 s; links are as fast as they would be, bytes and the work of
encoding are real. With more hosts than cores, whose encoding would wait for a core, a factor slows compute and links.
The base is one host's pace, which is that of its sleep. Speed alone: averaging_loss.py has losses. Whatever the figures
say, it exits with 0; with 1 where ranks fail. See bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from emulated import TIMEOUT, Case, Emulated, measure_link, network, on_all_ranks
from frame import goal, measure, need_root, print_machine
from torch import nn
from winfleet import averaging
from winfleet.core.sending import Sending
from winfleet.rank.meter import Meter
from winfleet.rank.timing import watch_waits
from winfleet.rehearsal.allreduce import RingLink, ddp_buckets
from winfleet.rehearsal.prediction import HostSpeed, Measured, predict

WEIGHTS_MIB: Final = 25e6 * 4 / 2**20
COMPUTE: Final = 0.3  # seconds of a step
UNMEASURED: Final = 2  # steps; DDP arranges its buckets anew after the first
PLAIN_STEPS: Final = 6
ROUNDS: Final = 2
GOALS: Final = {
    (0.1, 2): 20.0,
    (1.0, 2): 1.75,
    (1.0, 4): 3.3,
}  # Gbit/s, hosts: times plain DDP below 1, else times one host
GUIDED: Final = ("DDP", "fp16", "every 32, 8 bits", "every 128, 8 bits")
GUIDED_GBIT: Final = (0.1, 1.0, 2.5, 10.0)
GUIDED_WEIGHTS: Final = (25e6, 125e6, 350e6)
USABLE, LATENCY = 0.94, 2e-4  # of a link's bits; seconds one way


class Nothing(torch.optim.Optimizer):
    """Its seconds are the GPU's, so a part of what is slept."""

    def __init__(self, parameters: Iterator[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leaves the weights as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is sent, and how many steps are measured."""

    name: str
    sending: Sending
    steps: int


CHOICES: Final = (
    Choice(name="DDP", sending=Sending(), steps=PLAIN_STEPS),
    Choice(name="fp16", sending=Sending(gradients="fp16"), steps=PLAIN_STEPS),
    *(
        Choice(name=f"every {every}, {bits} bits", sending=Sending(average_every=every, average_bits=bits), steps=ROUNDS * every)
        for every, bits in ((8, 8), (32, 8), (32, 4), (32, 32), (128, 8))
    ),
)  # fmt: skip


def train(case: Case, choice: Choice) -> float:
    """Trains as the rank that the environment says; mean seconds of a measured step, from the end of one round to that of another."""
    torch.set_num_threads(1)
    meter = Meter(None)
    watch_waits(meter.clock)
    if choice.sending != Sending():
        averaging.install(choice.sending, (case.ranks_per_host,) * case.hosts, meter)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    emulated = Emulated(case, case.micro_batch_seconds * case.factor, 1e-4)
    model = nn.parallel.DistributedDataParallel(emulated)
    optimizer = Nothing(model.parameters())
    x = torch.ones(1, requires_grad=True)
    begun, before = 0.0, choice.sending.average_every or UNMEASURED
    for step in range(before + choice.steps):
        if step == before:
            begun = time.monotonic()
        model(x).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    took = time.monotonic() - begun
    dist.destroy_process_group()
    return took / choice.steps


def forecast(case: Case, choice: Choice, link: RingLink) -> float:
    """Seconds of a step, as predicted from the link and the compute."""
    buckets = ddp_buckets([4 * case.layer_floats] * case.layers)
    hosts = [
        HostSpeed(name=f"host{host}", kind="GPU", ranks=1, micro_batch_seconds=COMPUTE) for host in range(case.hosts)
    ]
    sending = choice.sending
    link = RingLink(
        bytes_per_second=link.bytes_per_second * case.factor, latency_seconds=link.latency_seconds / case.factor
    )
    return predict(Measured(
        hosts=tuple(hosts), gradient_bytes=sum(buckets), bucket_bytes=buckets, samples=1, link=link,
        gradients=sending.gradients, average_every=sending.average_every, average_bits=sending.average_bits,
    )).step_seconds  # fmt: skip


def compare(gbit: float, hosts: int, factor: float, choices: Sequence[Choice]) -> None:
    """Prints a table of one link and number of hosts. Raises NetError."""
    case = Case(hosts=hosts, gbit=gbit, gradient_mib=WEIGHTS_MIB, micro_batch_seconds=COMPUTE, factor=factor)
    print(
        f"\n| {hosts} hosts, {gbit:g} Gbit/s | step, s | predicted | times DDP | times one host | load |\n|---|---|---|---|---|---|"
    )
    plain, best = 0.0, 0.0
    for choice in choices:
        with network(case) as nets:
            link = measure_link(nets)
            seconds = max(on_all_ranks(case, nets, train, case, choice)) / factor
        plain = plain or seconds
        ratio, speed_up = plain / seconds, hosts * COMPUTE / seconds
        if choice.name == "every 32, 8 bits":
            best = speed_up if (gbit, hosts) != (0.1, 2) else ratio
        print(
            f"| {choice.name} | {seconds:.3f} | {forecast(case, choice, link) / seconds - 1:+.1%} | {ratio:.2f} |"
            f" {speed_up:.2f} | {os.getloadavg()[0]:.1f} |", flush=True,
        )  # fmt: skip
    if (gbit, hosts) in GOALS:
        print(f"every 32, 8 bits: {goal(best, GOALS[gbit, hosts], sign='≥')}", flush=True)


def print_predicted() -> None:
    """Prints what each choice is predicted to give two hosts whose step computes for COMPUTE, by link and model."""
    print(f"| two hosts, {COMPUTE:g} s a step | " + " | ".join(f"{gbit:g} Gbit/s" for gbit in GUIDED_GBIT) + " |")
    print("|---|" + "---|" * len(GUIDED_GBIT))
    for weights in GUIDED_WEIGHTS:
        row = []
        for gbit in GUIDED_GBIT:
            case = Case(hosts=2, gbit=gbit, gradient_mib=weights * 4 / 2**20, micro_batch_seconds=COMPUTE, factor=1.0)
            link = RingLink(bytes_per_second=USABLE * case.bytes_per_second, latency_seconds=LATENCY)
            paces = [
                (choice.name, 2 * COMPUTE / forecast(case, choice, link)) for choice in CHOICES if choice.name in GUIDED
            ]
            row.append(", ".join(f"{name} {pace:.2f}" for name, pace in paces))
        print(f"| {weights / 1e6:.0f} million weights | {' | '.join(row)} |")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares what ranks may send with plain DDP, on emulated GPUs.")
    parser.add_argument("--gbit", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--hosts", nargs="+", type=int, default=[2])
    parser.add_argument(
        "--factor", type=float, default=1.0, help="how much slower all is emulated; hosts / cores is fair"
    )
    parser.add_argument("--predict", action="store_true", help="measures nothing; needs no root")
    parser.add_argument("--choices", nargs="+", default=[choice.name for choice in CHOICES])
    found = parser.parse_args()
    if found.predict:
        print_predicted()
        return 0
    need_root(parser)
    print_machine()
    choices = [choice for choice in CHOICES if choice.name in ("DDP", *found.choices)]

    def compare_all() -> None:
        for hosts in found.hosts:
            for gbit in found.gbit:
                compare(gbit, hosts, found.factor, choices)

    return measure(compare_all)


if __name__ == "__main__":
    sys.exit(main())
