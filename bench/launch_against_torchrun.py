"""Compares winfleet's launcher with torchrun: the same unmodified train/train.py, two processes on this machine.

    .venv/bin/python bench/launch_against_torchrun.py [--pairs N] [--wait SECONDS]

Both are measured in the same way, by when the lines of the trainer arrive. Whatever the figures say, it exits with 0;
with 1 where a launcher fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from winfleet.machine.system import usable_cores

TRAIN: Final = Path(__file__).resolve().parent.parent / "train"
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


class RunError(RuntimeError):
    """A launcher that failed, or whose output lacks a step."""


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
    """One run in a fresh folder. Raises RunError."""
    script = [str(TRAIN / "train.py"), "--config", str(config), "--data", str(data)]
    arrived: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix=f"bench-{launcher}-") as folder:
        errors = Path(folder, "stderr.txt")
        with errors.open("wb") as stderr:
            busy, own = cpu_seconds()
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *LAUNCHERS[launcher], *script],
                cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
            timer = threading.Timer(RUN_SECONDS, process.terminate)
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    now = time.perf_counter()
                    if found := STEP_LINE.match(line):
                        arrived[int(found[1])] = now
                process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:  # the bench itself was interrupted; both launchers end their ranks on this
                    process.terminate()
                    process.wait()
            total = time.perf_counter() - start
            busy, own = (after - before for after, before in zip(cpu_seconds(), (busy, own), strict=True))
        if process.returncode or not {1, RATE_FROM, STEPS} <= arrived.keys():
            tail = errors.read_text("utf-8", "replace")[-2_000:]
            raise RunError(f"{launcher} exited with {process.returncode} after {len(arrived)} steps\n{tail}")
    return Run(
        first=arrived[1] - start,
        rate=(STEPS - RATE_FROM) / (arrived[STEPS] - arrived[RATE_FROM]),
        total=total,
        others=max(0.0, busy - own) / total,
    )


def machine() -> str:
    """The machine and the versions that the figures belong to."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        model = found[1] if found else model
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "accelerate"))
    return f"{usable_cores()} cores ({model}), {platform.system()}, Python {platform.python_version()}, {versions}"


def report(name: str, pairs: Sequence[dict[str, Run]]) -> None:
    """Prints the median ratios of these pairs, their spread, and whether they meet the goals."""
    print(f"\nwinfleet / torchrun, {name}: {len(pairs)}")
    if not pairs:
        return
    first = [pair["winfleet"].first / pair["torchrun"].first for pair in pairs]
    rate = [pair["winfleet"].rate / pair["torchrun"].rate for pair in pairs]
    for what, ratios, goal, sign in (("time to first step", first, FIRST_GOAL, "≤"), ("steps/s", rate, RATE_GOAL, "≥")):
        median = statistics.median(ratios)
        met = "met" if (median <= goal if sign == "≤" else median >= goal) else "missed"
        print(f"  {what:<20}median {median:.3f}  ({min(ratios):.3f} to {max(ratios):.3f})  goal {sign} {goal}: {met}")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares winfleet's launcher with torchrun on this machine.")
    parser.add_argument("--pairs", type=int, default=5, help="how often both are run, 1 or more (default: 5)")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait at most, before each pair, for idle cores"
    )
    found = parser.parse_args()
    pairs: int = found.pairs
    if pairs < 1:
        parser.error(f"--pairs {pairs}: give a number from 1 on")
    print(machine())
    print(f"load {os.getloadavg()[0]:.2f} at {time.strftime('%Y-%m-%d %H:%M')}, {pairs} pairs, {STEPS} steps a run")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        config, data = Path(name, "config.yaml"), Path(name, "data")
        config.write_text(CONFIG, encoding="utf-8")
        subprocess.run([sys.executable, str(TRAIN / "make_text.py"), str(data)], check=True, stdout=subprocess.DEVNULL)
        results: list[dict[str, Run]] = []
        try:
            for launcher in LAUNCHERS:  # once unmeasured, so that files are in the page cache
                run(launcher, config, data)
            print(f"\n{'':14}{'to first step, s':^30}{'steps/s':^30}{'total, s':^20}{'others, cores':^20}")
            columns = f"{'winfleet':>10}{'torchrun':>10}"
            print(f"{'pair  order':<14}{columns}{'ratio':>10}{columns}{'ratio':>10}{columns}{columns}", flush=True)
            for number in range(pairs):
                wait_for_quiet(found.wait)
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
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    report("all pairs", results)
    report("quiet pairs", [pair for pair in results if max(run.others for run in pair.values()) <= QUIET_CORES])
    return 0


if __name__ == "__main__":
    sys.exit(main())
