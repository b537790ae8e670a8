"""What a rehearsal measured, as the grounds of a prediction and as lines for the user. Pure functions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from winfleet.core.plan import Plan
from winfleet.rehearsal.advice import find_places, predict_run
from winfleet.rehearsal.allreduce import PredictionError, RingLink, ddp_buckets
from winfleet.rehearsal.checks import mbits
from winfleet.rehearsal.choices import table_of
from winfleet.rehearsal.controller import CPU, Outcome, Reduce, Rehearsed, kind_of
from winfleet.rehearsal.links import Link
from winfleet.rehearsal.prediction import (
    AllReduce,
    HostSpeed,
    Measured,
    Prediction,
    predict,
    rate,
    table,
    without_samples,
)

SHOWN_LINKS: Final = 12  # all of 4 hosts
SLOWEST_LINKS: Final = 4  # of more hosts
WORTH_A_TABLE: Final = 1.25  # times as fast as plain DDP, which then wastes a fifth of a step
GUIDE: Final = ((1, 1, 1.0), (4, 1, 3.5), (8, 2, 6.5), (16, 4, 12.0))  # GPUs, nodes, speed-up that the guide names


def ring_links(plan: Plan, links: Sequence[Link]) -> list[Link]:
    """Those links that an all-reduce uses: gloo's and NCCL's rings go through the hosts in the order of their ranks."""
    names = [host.name for host in plan.hosts]
    neighbours = {frozenset(pair) for pair in zip(names, [*names[1:], names[0]], strict=True)}
    return [
        link for link in links if link.source != link.target and frozenset((link.source, link.target)) in neighbours
    ]


def slowest(links: Sequence[Link]) -> RingLink | None:
    """One link as slow as the slowest of these, and as late as the latest; one way is half a round trip."""
    if not links:
        return None
    return RingLink(
        bytes_per_second=min(link.bytes_per_second for link in links),
        latency_seconds=max(link.round_trip_seconds for link in links) / 2,
    )


def all_reduces(plan: Plan, reduce: Reduce | None) -> tuple[AllReduce, ...]:
    """The all-reduce of all ranks, and the slowest of those within one host."""
    if reduce is None or plan.world_size < 2:
        return ()
    found = [AllReduce(size_bytes=reduce.bytes, ranks=plan.world_size, hosts=len(plan.hosts), seconds=reduce.seconds)]
    if len(plan.hosts) > 1 and reduce.local_seconds:
        name = max(reduce.local_seconds, key=lambda host: reduce.local_seconds[host])
        ranks = next(host.processes for host in plan.hosts if host.name == name)
        found.append(AllReduce(size_bytes=reduce.bytes, ranks=ranks, hosts=1, seconds=reduce.local_seconds[name]))
    return tuple(found)


def grounds(plan: Plan, rehearsed: Rehearsed) -> Measured | None:
    """What a prediction is made from; None where a host's compute was not measured."""
    kinds = {kind_of(host) for host in plan.hosts}
    if not kinds <= set(rehearsed.trials):
        return None
    trial = rehearsed.trials[kind_of(plan.hosts[0])]
    own = [link for link in rehearsed.links if link.source == link.target]
    speeds = []
    for host in plan.hosts:
        known = rehearsed.trials[kind_of(host)]
        speeds.append(HostSpeed(
            name=host.name, kind=kind_of(host), ranks=host.processes, micro_batch_seconds=known.micro_batch_seconds,
            backward_seconds=min(known.backward_seconds, known.micro_batch_seconds) or None,
            optimizer_seconds=known.optimizer_seconds, data_seconds=known.data_seconds,
        ))  # fmt: skip
    return Measured(
        hosts=tuple(speeds), gradient_bytes=trial.gradient_bytes, samples=max(1, trial.samples), told=trial.samples > 0,
        accumulation=trial.accumulation, num_workers=trial.num_workers,
        bucket_bytes=ddp_buckets(reversed(trial.tensor_bytes)), link=slowest(ring_links(plan, rehearsed.links)),
        local=slowest(own), all_reduces=all_reduces(plan, rehearsed.reduce), gradients=plan.sending.gradients,
        average_every=plan.sending.average_every if len(plan.hosts) > 1 else 0, average_bits=plan.sending.average_bits,
    )  # fmt: skip


def predict_plan(plan: Plan, rehearsed: Rehearsed) -> Prediction | None:
    """The prediction for the plan's run; None where it has no grounds."""
    try:
        measured = grounds(plan, rehearsed)
        return predict_run(measured, find_places(plan.command, plan.config)) if measured is not None else None
    except PredictionError:
        return None


def describe(plan: Plan, outcome: Outcome, prediction: Prediction | None) -> str:
    """The rehearsal in a few lines: links, the all-reduce, the prediction and what would help most."""
    measured = outcome.measured
    lines = [*describe_links([link for link in measured.links if link.source != link.target])]
    if measured.reduce is not None and plan.world_size > 1:
        reduce = measured.reduce
        lines.append(
            f"all-reduce of {reduce.bytes / 1e6:.1f} MB among {plan.world_size} ranks: {milliseconds(reduce.seconds)}"
        )
    lines += [f"note: {note}" for note in outcome.notes]
    if prediction is not None:
        lines += [
            "Predicted, by these links and one process's own steps:",
            *table(prediction.grid, noun_of(prediction.measured)).splitlines(),
        ]
        if any(one.gain >= WORTH_A_TABLE for one in prediction.choices):
            lines += table_of(prediction.choices)
        lines.append(describe_plan(prediction))
    return "\n".join(f"  {line}" for line in lines)


def noun_of(measured: Measured) -> str:
    """What a rank runs on: a GPU, or where there is none it is a process."""
    return "processes" if all(host.kind == CPU for host in measured.hosts) else "GPUs"


def describe_plan(prediction: Prediction) -> str:
    """The plan's own figures, what limits them, and the setting that helps most."""
    planned = prediction.planned
    value, unit = rate(planned)
    text = f"this run: {value:.1f} {unit}, {planned.speed_up:.2f}x of one, limited by {planned.limit}"
    if prediction.advice:
        best = prediction.advice[0]
        text += f"; most would help {best.setting} ({(best.gain - 1) * 100:+.0f} %)"
    return text


def describe_links(links: Sequence[Link]) -> list[str]:
    """A line for each link, of many hosts for the slowest alone."""
    shown = list(links)
    lines = [f"{'link':<32} {'Mbit/s':>7} {'ms there and back':>18}"] if links else []
    if len(shown) > SHOWN_LINKS:
        shown = sorted(shown, key=lambda link: link.bytes_per_second)[:SLOWEST_LINKS]
        lines = [f"the slowest of {len(links)} links:", *lines]
    return lines + [
        f"{link.name:<32} {mbits(link.bytes_per_second):>7} {link.round_trip_seconds * 1e3:>18.2f}" for link in shown
    ]


def milliseconds(seconds: float) -> str:
    """5.9 ms, or 1.20 s."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def guide_table(prediction: Prediction) -> str:
    """The users' guide's own table, for these links and this kind of GPU: 1, 4, 8 and 16 GPUs on 1, 1, 2 and 4 nodes.

    Where one host alone was measured, its rows end there.
    """
    rows, named = [], ["the guide says"]
    for ranks, nodes, speed_up in GUIDE:
        with contextlib.suppress(PredictionError):
            row = predict(prediction.measured, ranks, ranks // nodes)
            rows.append(without_samples(prediction.measured, row))
            named.append(f"{speed_up:g}x")
    lines = table(rows, noun_of(prediction.measured)).splitlines()
    width = max(map(len, lines))
    return "\n".join(f"{line:<{width}}  {says}" for line, says in zip(lines, named, strict=True))
