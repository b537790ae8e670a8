"""Trains a script, whoever wrote it, on two hosts behind a slow link: as DDP has it, and with averages; needs root.

    .venv/bin/python bench/scripts_on_slow_links.py FOLDER [--gbit 1] [--every 32] [--alone=WORD …] -- train.py --batch_size=4

FOLDER has the script and what it reads, and is copied for each host; the script must train by DDP with gloo on the CPU and go
on for some hundred steps. Hosts are network namespaces with a core each and real limits, started by winfleet's launcher. The
base is one host's pace, measured while an independent copy trains on the other core. What is compared are backward passes
of all ranks a second. `--alone` has more words for one host, where a script divides its accumulation by the ranks. Whatever
the figures say, it exits with 0; with 1 where a training fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emulated import Case, network
from frame import BenchError, goal, measure, need_root, print_machine
from namespaces import Net
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.core.sending import Sending
from winfleet.core.status import READER, Rank
from winfleet.machine.system import usable_cores

CODE: Final = "c" * 12
PLAIN_STEPS, UNMEASURED = 12, 4  # of DDP on a slow link; its first ones arrange buckets
START_SECONDS, STEP_SECONDS = 120.0, 60.0  # at most, for the first step and for each further one
LOOK_SECONDS: Final = 0.05
GOAL: Final = 1.75  # times one host
ALONE: Final = "one host, beside a copy of it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What hosts send, and over how many steps their pace is taken, after those that are not measured."""

    name: str
    sending: Sending
    steps: int
    before: int


class Training:
    """One run of one or several hosts."""

    def __init__(
        self, place: Path, folder: Path, nets: Sequence[Net], command: Sequence[str], sending: Sending
    ) -> None:
        hosts = [{"name": net.name, "address": net.address, "processes": 1, "os": "Linux"} for net in nets]
        plan = Plan(run="bench", command=tuple(command), hosts=lay_out_hosts(hosts), code=CODE, sending=sending)
        self.runs, self.launchers = list[Path](), list[subprocess.Popen[bytes]]()
        for rank, net in enumerate(nets):
            home = place / net.name
            shutil.copytree(folder, home / "code" / CODE)
            run = home / "runs" / "bench"
            run.mkdir(parents=True)
            (run / "plan.json").write_text(plan.to_json(), "utf-8")
            self.runs.append(run)
            words = [
                sys.executable,
                "-m",
                "winfleet.launch",
                "--plan",
                str(run / "plan.json"),
                "--machine-rank",
                str(rank),
            ]
            core = sorted(os.sched_getaffinity(0))[int(net.address.rpartition(".")[2]) % usable_cores()]
            with (run / "launcher.txt").open("wb") as said:
                self.launchers.append(subprocess.Popen(
                    net.command("taskset", "--cpu-list", str(core), *words), stdin=subprocess.DEVNULL, stdout=said,
                    stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"},
                ))  # fmt: skip

    def ranks(self) -> list[Rank]:
        """As they said last."""
        found = []
        for number, run in enumerate(self.runs):
            with contextlib.suppress(OSError, ValueError):
                values: dict[str, Any] = json.loads((run / f"rank{number}.json").read_text("utf-8"))
                found.append(Rank(**{**READER.members(Rank, values), "rank": number}))
        return found

    def wait_for(self, count: int) -> float:
        """When all ranks had done so many steps; unix seconds. Raises BenchError."""
        end = time.monotonic() + START_SECONDS + count * STEP_SECONDS
        while time.monotonic() < end:
            ranks = self.ranks()
            if len(ranks) == len(self.runs) and all(rank.count >= count for rank in ranks):
                return time.time()
            if any(launcher.poll() is not None for launcher in self.launchers):
                break
            time.sleep(LOOK_SECONDS)
        said = "\n".join((run / "launcher.txt").read_text("utf-8", "replace")[-2_000:] for run in self.runs)
        raise BenchError(f"step {count} was not reached\n{said}")

    def end(self) -> None:
        """Ends its launchers and their ranks."""
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGTERM)
        for launcher in self.launchers:
            launcher.wait()


@contextlib.contextmanager
def trainings(
    folder: Path, groups: Sequence[Sequence[Net]], command: Sequence[str], sending: Sending
) -> Iterator[list[Training]]:
    """A run for each group of hosts, side by side."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        started: list[Training] = []
        try:
            started.extend(Training(Path(place), folder, nets, command, sending) for nets in groups)
            yield started
        finally:
            for training in started:
                training.end()


def pace(folder: Path, groups: Sequence[Sequence[Net]], command: Sequence[str], choice: Choice) -> float:
    """Backward passes a second of all ranks of a run, the mean of the runs. Raises BenchError."""
    with trainings(folder, groups, command, choice.sending) as started:
        begun = [training.wait_for(choice.before) for training in started]
        ended = [training.wait_for(choice.before + choice.steps) for training in started]
        passes = [sum(rank.micro_batches or 1 for rank in training.ranks()) for training in started]
    rates = [choice.steps * count / (end - begin) for begin, end, count in zip(begun, ended, passes, strict=True)]
    return sum(rates) / len(rates)


def compare(found: argparse.Namespace) -> None:
    """Prints the table: medians of the repeats, each of which has all choices in turn. Raises BenchError and NetError."""
    every, averages = found.every, f"every {found.every}, 8 bits"
    choices = [
        Choice(name=ALONE, sending=Sending(), steps=found.steps, before=UNMEASURED),
        Choice(name="DDP", sending=Sending(), steps=PLAIN_STEPS, before=UNMEASURED),
        Choice(name="fp16", sending=Sending(gradients="fp16"), steps=PLAIN_STEPS, before=UNMEASURED),
        Choice(name=averages, sending=Sending(average_every=every), steps=-(-found.steps // every) * every, before=every),
    ]  # fmt: skip
    rates: dict[str, list[float]] = {choice.name: [] for choice in choices}
    with network(Case(hosts=2, gbit=found.gbit, gradient_mib=1.0, factor=1.0)) as nets:
        for _ in range(found.repeat):
            for choice in choices:
                alone = choice.name == ALONE
                groups, command = (
                    ([[net] for net in nets], [*found.command, *found.alone]) if alone else ([nets], found.command)
                )
                rates[choice.name].append(pace(found.folder, groups, command, choice))
            print(", ".join(f"{name} {of[-1]:.3f}" for name, of in rates.items()), flush=True)
    print(f"\n| 2 hosts, {found.gbit:g} Gbit/s | backward passes a second | times one host |\n|---|---|---|")
    for name, of in rates.items():
        ratios = [rate / base for rate, base in zip(of, rates[ALONE], strict=True)]
        ratio, said = statistics.median(ratios), f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
        said += f", {goal(ratio, GOAL, sign='≥')}" if name == averages else ""
        print(f"| {name} | {statistics.median(of):.3f} | {ratio:.2f}{said} |")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares averages with plain DDP on a script as it is.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gbit", type=float, default=1.0)
    parser.add_argument("--every", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--alone", nargs="+", default=[], help="more words of the script where one host trains")
    parser.add_argument("command", nargs="+", help="behind --: the script and its words")
    found = parser.parse_args()
    need_root(parser)
    print_machine(note=f", {' '.join(found.command)}")
    return measure(lambda: compare(found))


if __name__ == "__main__":
    sys.exit(main())
