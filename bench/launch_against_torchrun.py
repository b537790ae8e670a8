"""Compares winfleet's launcher with torchrun: the same unmodified train/train.py, two processes on this machine.

    .venv/bin/python bench/launch_against_torchrun.py [--pairs N] [--wait SECONDS]

Both are measured in the same way, by when the lines of the trainer arrive. Whatever the figures say, it exits with 0;
with 1 where a launcher fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from frame import ROOT, BenchError, Program, goal, measure, print_machine

TRAIN: Final = ROOT / "train"
STEPS: Final = 60
RATE_FROM: Final = 5  # steps per second are counted from this step's line to the last one's
RUN_SECONDS: Final = 120.0  # a run that takes longer is ended
STEP_LINE: Final = re.compile(rf"step (\d+)/{STEPS}  loss ")
FIRST_GOAL, RATE_GOAL = 1.1, 0.98  # winfleet / torchrun: at most, at least
QUIET_CORES: Final = 0.1  # a pair is quiet where others kept no more than this busy in either of its runs

CONFIG: Final = f"""\
training:
  batch_size: 8
  gradient_accumulation_steps: 2
  steps: {STEPS}
  warmup_steps: 10
  eval_every: 0
  eval_batches: 2
  checkpoint_every: 0
  log_every: 1
  context: 128
  layers: 3
  heads: 4
  width: 128
  wandb: false
"""

LAUNCHERS: Final = {
    "winfleet": ("-m", "winfleet.launch", "--auto", "--processes", "2", "--"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
}

ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("WINFLEET_", "WANDB_"))},
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "WANDB_MODE": "disabled",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run of a launcher took."""

    first: float  # seconds from the command to the line of the first optimizer step
    rate: float  # optimizer steps per second from step RATE_FROM to the last
    total: float  # seconds from the command to its end
    others: float  # cores that processes outside this run kept busy meanwhile, on average


def cpu_seconds() -> tuple[float, float]:
    """CPU seconds of the whole machine, and of this process with its ended children."""
    machine, own = psutil.cpu_times(), os.times()
    idle = machine.idle + getattr(machine, "iowait", 0.0) + getattr(machine, "guest", 0.0)  # user holds guest too
    return sum(machine) - idle, own.user + own.system + own.children_user + own.children_system


def wait_for_quiet(seconds: float) -> None:
    """Waits, at most `seconds`, until the machine was idle for three of them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and psutil.cpu_percent(3.0) / 100 * (psutil.cpu_count() or 1) > QUIET_CORES:
        pass


def run(launcher: str, config: Path, data: Path) -> Run:
    """One run in a fresh folder. Raises BenchError."""
    script = [str(TRAIN / "train.py"), "--config", str(config), "--data", str(data)]
    command = [sys.executable, *LAUNCHERS[launcher], *script]
    with tempfile.TemporaryDirectory(prefix=f"bench-{launcher}-") as folder:
        errors = Path(folder, "stderr.txt")
        with errors.open("wb") as stderr:
            busy, own = cpu_seconds()
            with Program(command, cwd=folder, env=ENVIRONMENT, stderr=stderr) as program:
                code = program.wait(RUN_SECONDS)
            total = time.perf_counter() - program.begin
            busy, own = (after - before for after, before in zip(cpu_seconds(), (busy, own), strict=True))
        arrived = {int(found[1]): moment for moment, line in program.lines if (found := STEP_LINE.match(line))}
        if code or not {1, RATE_FROM, STEPS} <= arrived.keys():
            tail = errors.read_text("utf-8", "replace")[-2_000:]
            raise BenchError(f"{launcher} exited with {code} after {len(arrived)} steps\n{tail}")
    return Run(
        first=arrived[1] - program.begin,
        rate=(STEPS - RATE_FROM) / (arrived[STEPS] - arrived[RATE_FROM]),
        total=total,
        others=max(0.0, busy - own) / total,
    )


def report(name: str, pairs: Sequence[dict[str, Run]]) -> None:
    """Prints the median ratios of these pairs, their spread, and whether they meet the goals."""
    print(f"\nwinfleet / torchrun, {name}: {len(pairs)}")
    if not pairs:
        return
    first = [pair["winfleet"].first / pair["torchrun"].first for pair in pairs]
    rate = [pair["winfleet"].rate / pair["torchrun"].rate for pair in pairs]
    for what, ratios, limit, sign in (
        ("time to first step", first, FIRST_GOAL, "≤"),
        ("steps/s", rate, RATE_GOAL, "≥"),
    ):
        median = statistics.median(ratios)
        verdict = goal(median, limit, sign=sign)
        print(f"  {what:<20}median {median:.3f}  ({min(ratios):.3f} to {max(ratios):.3f})  {verdict}")


def compare(pairs: int, wait: float) -> None:
    """Runs so many pairs and prints a line of each, and what they say together. Raises BenchError."""
    print_machine(note=f", {pairs} pairs, {STEPS} steps a run")
    results: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        config, data = Path(name, "config.yaml"), Path(name, "data")
        config.write_text(CONFIG, encoding="utf-8")
        subprocess.run([sys.executable, str(TRAIN / "make_text.py"), str(data)], check=True, stdout=subprocess.DEVNULL)
        for launcher in LAUNCHERS:  # once unmeasured, so that files are in the page cache
            run(launcher, config, data)
        print(f"\n{'':14}{'to first step, s':^30}{'steps/s':^30}{'total, s':^20}{'others, cores':^20}")
        columns = f"{'winfleet':>10}{'torchrun':>10}"
        print(f"{'pair  order':<14}{columns}{'ratio':>10}{columns}{'ratio':>10}{columns}{columns}", flush=True)
        for number in range(pairs):
            wait_for_quiet(wait)
            order = list(LAUNCHERS) if number % 2 == 0 else list(reversed(LAUNCHERS))
            pair = {launcher: run(launcher, config, data) for launcher in order}
            results.append(pair)
            w, t = pair["winfleet"], pair["torchrun"]
            print(
                f"{number + 1:>4}  {order[0][0]} {order[1][0]}     "
                f"{w.first:>10.2f}{t.first:>10.2f}{w.first / t.first:>10.3f}"
                f"{w.rate:>10.2f}{t.rate:>10.2f}{w.rate / t.rate:>10.3f}"
                f"{w.total:>10.2f}{t.total:>10.2f}{w.others:>10.2f}{t.others:>10.2f}",
                flush=True,
            )
    report("all pairs", results)
    report("quiet pairs", [pair for pair in results if max(run.others for run in pair.values()) <= QUIET_CORES])


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares winfleet's launcher with torchrun on this machine.")
    parser.add_argument("--pairs", type=int, default=5, help="how often both are run, 1 or more (default: 5)")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait at most, before each pair, for idle cores"
    )
    found = parser.parse_args()
    if found.pairs < 1:
        parser.error(f"--pairs {found.pairs}: give a number from 1 on")
    return measure(lambda: compare(found.pairs, found.wait))


if __name__ == "__main__":
    sys.exit(main())
