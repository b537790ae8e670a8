"""Times `deploy_and_train.yml` on Windows PCs of the lab, from the command to the first step, when nothing has changed.

    .venv/bin/python bench/first_step_on_windows.py -i inventories/bench [--repeat N] [--rehearsal]

The peer is `accelerate launch` typed on each PC at once, with the configuration that the deployment left there: torch's own
agent and the same script. LAB_DIR says where the lab's PCs lie, as for molecule/lab/lab. Whatever the figures say, it exits with 0;
with 1 where a run fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from frame import ROOT, BenchError, Program, goal, hosts_of, measure, print_machine, tool

LAB: Final = ROOT / "molecule" / "lab" / "lab"
MOST_TASKS: Final = 12  # goal: Windows tasks a host
MOST_SECONDS: Final = 15.0  # goal: beside these tasks and the peer's start
RUN_SECONDS: Final = 900.0  # a run that takes longer is ended
POWERSHELL: Final = "EXEC (via pipeline wrapper)"  # Ansible shows it for each start of PowerShell on a host
BEGIN, FIRST = "typed now", "first step done"
SCRIPT: Final = f"""\
import torch
from accelerate import Accelerator

accelerator = Accelerator()
model = torch.nn.Linear(8, 1)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
for step in range(5):
    accelerator.backward(model(torch.rand(4, 8)).pow(2).mean())
    optimizer.step()
    optimizer.zero_grad()
    if step == 0:
        print("{FIRST}", flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run of deploy_and_train.yml took. Seconds."""

    first: float  # from the command to the first optimizer step
    tasks: dict[str, float]  # those before it for which a Windows host had to do something, by their name
    starts: float  # of PowerShell on each host in the whole run


def wait_for(found: Callable[[], float | None], ended: Callable[[], bool]) -> float | None:
    """The moment that `found` tells, None where everything ended without it."""
    deadline = time.perf_counter() + RUN_SECONDS
    while time.perf_counter() < deadline:
        over = ended()
        if (moment := found()) is not None:
            return moment
        if over:
            return None
        time.sleep(0.02)
    return None


class Cluster:
    """PCs of the lab that are set up, and a project of one script."""

    def __init__(self, inventory: str, folder: Path, *, rehearsal: bool) -> None:
        self.inventory, self.folder, self.rehearsal = inventory, folder, rehearsal
        self.lab = Path(os.environ.get("LAB_DIR") or "/var/cache/winfleet/run")
        self.hosts = hosts_of(inventory, "workers")
        (folder / "project").mkdir()
        (folder / "project" / "first.py").write_text(SCRIPT, "utf-8")

    def run_folder(self, host: str, run: str) -> Path:
        """The run's folder on a PC, as this machine sees it."""
        return self.lab / host.lower() / "drive_c" / "winfleet" / "runs" / run

    def deploy(self, run: str) -> Run:
        """Runs deploy_and_train.yml to its end. Raises BenchError."""
        settings = {"fleet_project": str(self.folder / "project"), "fleet_command": "first.py", "fleet_data": "", "fleet_config": "",
                    "fleet_logs": str(self.folder / "logs"), "fleet_run": run, "fleet_rehearsal": self.rehearsal}  # fmt: skip
        command = [tool("ansible-playbook"), "deploy_and_train.yml", "-i", self.inventory, "-vvv"]
        command += ["-e", json.dumps(settings)]
        log = self.run_folder(self.hosts[0], run) / "rank0.log"
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}

        def stepped() -> float | None:
            return time.perf_counter() if log.exists() and FIRST in log.read_text("utf-8", "replace") else None

        with Program(command, cwd=ROOT, env=environment, stderr=subprocess.STDOUT) as program:
            first = wait_for(stepped, program.ended)
            if first is None:
                program.process.kill()
            code, said = program.process.wait(), program.said()
        if first is None or code:
            raise BenchError(f"{' '.join(command)} exited with {code}\n{said[-3_000:]}")
        starts = said.count(POWERSHELL) / len(self.hosts)
        return Run(first=first - program.begin, tasks=windows_tasks(program.lines, first), starts=starts)

    def type_launch(self, run: str) -> float:
        """Seconds from `accelerate launch`, typed on all PCs at once, to the first step. Raises BenchError."""
        commands: list[list[str | Path]] = []
        for host in self.hosts:
            config = (self.run_folder(host, run) / "accelerate.yaml").read_text("utf-8")
            typed = next(line for line in config.splitlines() if "accelerate.commands.launch" in line).removeprefix("#")
            script = self.folder / f"{host}.ps1"
            script.write_text(
                f"[Console]::Out.WriteLine('{BEGIN}')\n" + typed.replace("SCRIPT", rf"C:\winfleet\runs\{run}\work\first.py"), "utf-8-sig"
            )  # fmt: skip
            commands.append([LAB, "run", host.lower(), "--policy", "Bypass", script])
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(Program(command, stderr=subprocess.STDOUT)) for command in commands]
            first = wait_for(lambda: started[0].when(FIRST), lambda: all(each.ended() for each in started))
            codes = [each.process.wait(120) for each in started]
        said = "\n".join(each.said() for each in started)
        begun = [moment for each in started if (moment := each.when(BEGIN)) is not None]
        if first is None or any(codes) or len(begun) != len(started):
            raise BenchError(f"accelerate launch exited with {codes}\n{said[-3_000:]}")
        return first - min(begun)


def windows_tasks(lines: Sequence[tuple[float, str]], before: float) -> dict[str, float]:
    """Name -> seconds of Ansible's tasks for which PowerShell was started, that began before the moment."""
    heads = [
        (moment, found[1], index)
        for index, (moment, line) in enumerate(lines)
        if (found := re.match(r"TASK \[(.+)\] \*+$", line))
    ]
    ends = [*heads[1:], (lines[-1][0], "", len(lines))]
    return {
        name: end - moment
        for (moment, name, index), (end, _, last) in zip(heads, ends, strict=True)
        if moment < before and any(POWERSHELL in line for _, line in lines[index:last])
    }  # fmt: skip


def compare(cluster: Cluster, repeat: int) -> None:
    """Prints the medians of runs in which nothing has changed, each beside one of the peer. Raises BenchError."""
    cluster.deploy("bench-0")
    runs, peers = [], []
    for number in range(1, repeat + 1):
        runs.append(cluster.deploy(f"bench-{number}"))
        peers.append(cluster.type_launch(f"bench-{number}"))
        tasks = sum(runs[-1].tasks.values())
        print(
            f"  run {number}: first step after {runs[-1].first:.1f} s, {tasks:.1f} of them Windows tasks; peer {peers[-1]:.1f} s",
            flush=True,
        )
    usual = sorted(runs, key=lambda run: run.first)[len(runs) // 2]
    for name, seconds in usual.tasks.items():
        print(f"    {seconds:5.1f} s  {name}")
    first, peer = statistics.median(run.first for run in runs), statistics.median(peers)
    tasks = statistics.median(sum(run.tasks.values()) for run in runs)
    beside = statistics.median(
        run.first - sum(run.tasks.values()) - seconds for run, seconds in zip(runs, peers, strict=True)
    )
    starts = max(run.starts for run in runs)
    print(f"\n{len(cluster.hosts)} PCs, rehearsal {'on' if cluster.rehearsal else 'off'}, medians of {repeat}")
    print(f"  Windows tasks a host                          {starts:g}  {goal(starts, MOST_TASKS)}")
    print(f"  command to first step                         {first:.1f} s")
    print(f"  Windows tasks until then                      {tasks:.1f} s")
    print(f"  accelerate launch to first step               {peer:.1f} s")
    print(f"  beside both                                   {beside:.1f} s  {goal(beside, MOST_SECONDS)}")
    print(f"  winfleet / (Windows tasks + accelerate launch)  {first / (tasks + peer):.3f}")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Times the first step on Windows PCs of the lab when nothing has changed."
    )
    parser.add_argument("-i", dest="inventory", required=True, help="inventory of the lab's PCs, set up")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the median counts (default: 3)")
    parser.add_argument("--rehearsal", action="store_true", help="with the rehearsal, whose measurements are kept")
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        cluster = Cluster(given.inventory, Path(name), rehearsal=given.rehearsal)
        return measure(lambda: compare(cluster, given.repeat))


if __name__ == "__main__":
    sys.exit(main())
