"""Compares the predicted step with a measured one, on emulated GPUs from 1 to 16 ranks; needs root.

    TORCH_CPP_LOG_LEVEL=ERROR .venv/bin/python bench/scaling.py [--case hosts=2 gbit=1 gradient_mib=25 …]

The prediction knows the link (one TCP stream, and round trips) and one rank's compute alone. Whatever the figures say,
it exits with 0; with 1 where ranks fail. See bench/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import emulated
from emulated import Case, address, measure_link, network, on_all_ranks, train
from frame import BenchError, children_seconds, goal, measure, need_root, print_machine, programs
from namespaces import Net
from winfleet.core.plan import RANKS_PORT, Plan, lay_out_hosts
from winfleet.rehearsal.allreduce import ddp_buckets
from winfleet.rehearsal.prediction import HostSpeed, Measured, predict

GOAL: Final = 0.1  # of the measured step
# factor: so that all links together carry about 40 MB/s, a quarter of a core here
CASES: Final = (
    Case(hosts=2, gbit=1, gradient_mib=25, factor=6),
    Case(hosts=2, gbit=1, gradient_mib=100, factor=6),
    Case(hosts=2, gbit=1, gradient_mib=100, factor=6, micro_batch_seconds=2.0),
    Case(hosts=2, gbit=10, gradient_mib=100, factor=50, steps=2),
    Case(hosts=2, gbit=1, gradient_mib=25, factor=6, slowest=1.5),
    Case(hosts=2, gbit=1, gradient_mib=25, factor=6, data_seconds=0.2),
    Case(hosts=4, gbit=1, gradient_mib=25, factor=12),
    Case(hosts=4, gbit=1, gradient_mib=100, factor=12, accumulation=4, steps=2),
    Case(hosts=4, gbit=2.5, gradient_mib=50, factor=30),
    Case(hosts=8, gbit=1, gradient_mib=25, factor=24, steps=2),
    Case(hosts=8, gbit=10, gradient_mib=50, factor=200, micro_batch_seconds=0.1, steps=2),
    Case(hosts=16, gbit=1, gradient_mib=25, factor=50, steps=2),
    Case(hosts=16, gbit=2.5, gradient_mib=25, factor=80, accumulation=2, steps=2),
    Case(hosts=16, gbit=10, gradient_mib=50, factor=300, micro_batch_seconds=0.1, steps=2),
    Case(hosts=1, ranks_per_host=4, gbit=1, gradient_mib=25, factor=12),
    Case(hosts=2, ranks_per_host=4, gbit=1, gradient_mib=50, factor=24, steps=2),
    Case(hosts=4, ranks_per_host=4, gbit=2.5, gradient_mib=50, factor=100, steps=2),
    Case(hosts=2, gbit=1, gradient_mib=25, factor=12, latency_seconds=0.002),
    Case(hosts=2, gbit=1, gradient_mib=100, factor=8, latency_seconds=0.0005, steps=2),
    Case(hosts=4, gbit=1, gradient_mib=25, factor=16, latency_seconds=0.001, steps=2),
    Case(hosts=4, gbit=10, gradient_mib=25, factor=150, latency_seconds=0.0002, micro_batch_seconds=0.05, steps=2),
)
PEER_CASE: Final = Case(hosts=2, gbit=1, gradient_mib=50, factor=6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A case, with seconds of its step as it would really be."""

    case: Case
    measured: float
    predicted: float
    naive: float
    speed_up: float  # predicted
    limit: str
    cores: float  # that the ranks kept busy

    @property
    def error(self) -> float:
        """Of the prediction, as a part of what was measured."""
        return self.predicted / self.measured - 1


def look(case: Case, nets: Sequence[Net]) -> Measured:
    """What a prediction may know, as emulated: the link, and for each kind of host a micro-batch of one rank alone."""
    link = measure_link(nets) if case.hosts > 1 else None
    hosts: list[HostSpeed] = []
    for host in range(case.hosts):
        kind = "slow" if case.slowest != 1 and host == case.hosts - 1 else "fast"
        known = next((other for other in hosts if other.kind == kind), None)
        seconds = known.micro_batch_seconds if known else alone(case, nets[host], kind == "slow")
        hosts.append(HostSpeed(
            name=f"host{host}", kind=kind, ranks=case.ranks_per_host, micro_batch_seconds=seconds,
            data_seconds=case.data_seconds * case.factor,
        ))  # fmt: skip
    buckets = ddp_buckets([4 * case.layer_floats] * case.layers)
    return Measured(
        hosts=tuple(hosts), gradient_bytes=sum(buckets), bucket_bytes=buckets, samples=1, link=link,
        accumulation=case.accumulation,
    )  # fmt: skip


def alone(case: Case, net: Net, slow: bool) -> float:
    """Seconds of a micro-batch of one rank that trains alone, without DistributedDataParallel."""
    seconds = case.micro_batch_seconds * (case.slowest if slow else 1.0)
    single = Case(hosts=1, gbit=case.gbit, gradient_mib=case.gradient_mib, micro_batch_seconds=seconds, steps=1,
                  layers=case.layers, factor=case.factor)  # fmt: skip
    (took,) = on_all_ranks(single, [net], train, single, 0)
    return float(took[0])


def naive_seconds(measured: Measured) -> float:
    """The usual formula: compute, then 2(R-1)/R of the gradient over the link, with nothing hidden and no buckets."""
    slowest = max(host.alone_seconds(measured.accumulation) for host in measured.hosts)
    if measured.link is None:
        return slowest
    sent = 2 * (measured.ranks - 1) / measured.ranks * measured.gradient_bytes
    return slowest + sent / measured.link.bytes_per_second + 2 * (measured.ranks - 1) * measured.link.latency_seconds


def compare(case: Case) -> Row:
    """Measures, predicts, and trains. Raises NetError."""
    with network(case) as nets:
        known = look(case, nets)
        begin, busy = time.monotonic(), children_seconds()
        steps = on_all_ranks(case, nets, train, case)
        cores = (children_seconds() - busy) / (time.monotonic() - begin)
    forecast = predict(known)
    return Row(
        case=case, measured=median_step(steps) / case.factor, predicted=forecast.step_seconds / case.factor,
        naive=naive_seconds(known) / case.factor, speed_up=forecast.speed_up, limit=forecast.limit, cores=cores,
    )  # fmt: skip


def median_step(steps: Sequence[Sequence[float]]) -> float:
    """Of all ranks the median of their steps' medians; they step together."""
    return statistics.median(statistics.median(of_rank) for of_rank in steps)


def under_launcher(case: Case, launcher: str) -> float:
    """The same ranks, started by winfleet.launch or torchrun in each namespace: seconds of a step. Raises BenchError."""
    with network(case) as nets, tempfile.TemporaryDirectory(prefix="bench-scaling-") as temporary:
        folder = Path(temporary)
        (folder / "case.json").write_text(json.dumps(dataclasses.asdict(case)), "utf-8")
        words = [emulated.__file__, str(folder / "case.json"), temporary]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if launcher == "torchrun":
            environment["GLOO_SOCKET_IFNAME"] = "eth0"  # winfleet gives gloo the plan's address by itself
        hosts = lay_out_hosts(
            {"name": f"host{host}", "address": address(host), "processes": case.ranks_per_host}
            for host in range(case.hosts)
        )
        plan = Plan(run="scaling", command=tuple(words), hosts=hosts)
        commands = []
        for host, net in enumerate(nets):
            runs = folder / f"home{host}" / "runs" / plan.run
            runs.mkdir(parents=True)
            (runs / "plan.json").write_text(plan.to_json(), "utf-8")
            start = {
                "winfleet": ["winfleet.launch", "--plan", str(runs / "plan.json"), "--machine-rank", str(host)],
                "torchrun": ["torch.distributed.run", "--nnodes", str(case.hosts), "--node-rank", str(host),
                             "--nproc-per-node", str(case.ranks_per_host), "--master-addr", address(0),
                             "--master-port", str(RANKS_PORT), *words],
            }[launcher]  # fmt: skip
            commands.append(net.command(sys.executable, "-m", *start))
        with programs(commands, folder / "log.txt", env=environment) as started:
            codes = [process.wait() for process in started]
        if any(codes):
            raise BenchError(
                f"{launcher} exited with {codes}\n{(folder / 'log.txt').read_text('utf-8', 'replace')[-2000:]}"
            )
        return median_step([json.loads(path.read_text("utf-8")) for path in folder.glob("rank*.seconds")])


def describe(case: Case) -> str:
    """A case in one cell."""
    words = [f"{case.hosts}x{case.ranks_per_host}", f"{case.gbit:g} Gbit/s", f"{case.gradient_mib:g} MiB",
             f"{case.micro_batch_seconds:g} s"]  # fmt: skip
    words += [f"{case.latency_seconds * 1e3:g} ms away"] if case.latency_seconds else []
    words += [f"k={case.accumulation}"] if case.accumulation > 1 else []
    words += [f"data {case.data_seconds:g} s"] if case.data_seconds else []
    words += [f"slowest x{case.slowest:g}"] if case.slowest != 1 else []
    return ", ".join(words)


def tabulate(cases: Sequence[Case]) -> list[Row]:
    """Runs the cases and prints a line of each."""
    print(f"| {'hosts x ranks, link, gradient, micro-batch':<52} | factor | measured, s | predicted, s | error |"
          " without overlap | speed-up | limited by | cores, load |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    rows = []
    for case in cases:
        row = compare(case)
        rows.append(row)
        print(
            f"| {describe(case):<52} | {case.factor:g} | {row.measured:.3f} | {row.predicted:.3f} | {row.error:+.1%} |"
            f" {row.naive / row.measured - 1:+.0%} | {row.speed_up:.2f} | {row.limit} | {row.cores:.2f}, {os.getloadavg()[0]:.0f} |",
            flush=True,
        )
    return rows


def peers() -> None:
    """Prints what does not matter: the factor, and the launcher."""
    steps = {factor: compare(dataclasses.replace(PEER_CASE, factor=factor)).measured for factor in (6.0, 24.0)}
    print(f"\nslowed 24 times / 6 times, {describe(PEER_CASE)}: {steps[24.0] / steps[6.0]:.3f}")
    real = {launcher: under_launcher(PEER_CASE, launcher) for launcher in ("winfleet", "torchrun")}
    for launcher, seconds in real.items():
        print(f"under {launcher} / forked, the same case: {seconds / PEER_CASE.factor / steps[6.0]:.3f}")
    print(f"winfleet / torchrun: {real['winfleet'] / real['torchrun']:.3f}")


def parse_case(words: Sequence[str]) -> Case:
    """`hosts=2 gbit=1 gradient_mib=25` as a case. Raises BenchError."""
    whole = {"hosts", "ranks_per_host", "accumulation", "layers", "steps"}
    try:
        pairs = [word.split("=", 1) for word in words]
        return Case(**{name: int(value) if name in whole else float(value) for name, value in pairs})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise BenchError(f"no case: {error}\nhint: members of Case in bench/emulated.py, for example hosts=2") from None


def compare_all(words: Sequence[str] | None) -> None:
    """Prints the table of one case, or of the grid and what does not matter. Raises BenchError, NetError."""
    rows = tabulate([parse_case(words)] if words else CASES)
    worst, naive = max(abs(row.error) for row in rows), max(abs(row.naive / row.measured - 1) for row in rows)
    print(f"\nlargest error {worst:.1%}, {goal(worst, GOAL, form='.0%')}; without overlap {naive:.0%}", flush=True)
    if not words:
        peers()


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares the predicted speed with that of emulated GPUs.")
    parser.add_argument("--case", nargs="+", help="one case in place of the grid, as NAME=VALUE …")
    found = parser.parse_args()
    need_root(parser)
    print_machine(note="\n")
    return measure(lambda: compare_all(found.case))


if __name__ == "__main__":
    sys.exit(main())
