"""Launchers as hosts of their own on this machine's loopback addresses, and such as a user types them."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import pcs
from conftest import SCRIPTS, patience, processes_with, wait_until
from programs import Forked, call
from winfleet.core.plan import Plan
from winfleet.core.status import StatusError, fetch

LAUNCH = [sys.executable, "-m", "winfleet.launch"]
BARE = str(SCRIPTS / "bare.py")
ENDLESS = (BARE, "--steps", "100000", "--sleep", "0.02")


def auto(folder: Path, *words: str, processes: int = 2) -> "subprocess.CompletedProcess[str]":
    """Processes of this host, started as a user types it."""
    return call(*LAUNCH, "--auto", "--processes", str(processes), *words, folder=folder)


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Path]:
    """A folder to start in, in which nothing may be left running."""
    yield tmp_path
    wait_until(lambda: not processes_with(str(tmp_path)), 2, "the end of all processes")


class Cluster:
    """Launchers with one plan, each as a host of its own on a loopback address."""

    def __init__(self, folder: Path, processes: Sequence[int], command: Sequence[str], **values: Any) -> None:
        values = {"start_timeout_seconds": int(patience(60)), **values}
        self.plan = Plan(run="r1", command=tuple(command), hosts=pcs(*processes, network="127.0.0"), **values)
        self.folder = folder
        self.launchers: dict[int, Forked] = {}

    def runs(self, machine_rank: int) -> Path:
        return self.folder / f"pc{machine_rank + 1}" / "runs" / "r1"

    def start(self, machine_rank: int) -> None:
        folder = self.runs(machine_rank)
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(self.plan.to_json(), encoding="utf-8")
        words = ["-m", "winfleet.launch", "--plan", str(folder / "plan.json"), "--machine-rank", str(machine_rank)]
        output = self.folder / f"launcher{machine_rank}"
        self.launchers[machine_rank] = Forked(self.folder, *words, output=output)

    def status(self, machine_rank: int) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.runs(machine_rank) / "status.json").read_text("utf-8"))
        return values

    def log(self, machine_rank: int, rank: int) -> list[str]:
        """Lines of a rank's log, without torch's warnings, as of a host whose name is not known."""
        lines = (self.runs(machine_rank) / f"rank{rank}.log").read_text("utf-8").splitlines()
        return [line for line in lines if not line.startswith("[W")]

    def wait_for_training(self) -> None:
        """Waits until the ranks of all hosts train."""

        def training() -> bool:
            with contextlib.suppress(OSError):
                return all(self.status(rank)["state"] == "running" for rank in self.launchers)
            return False

        wait_until(training, 40, "training")

    def stop(self, *machine_ranks: int, grace_seconds: int) -> None:
        """Asks the launchers of these hosts to stop."""
        for machine_rank in machine_ranks:
            (self.runs(machine_rank) / "stop").write_text(json.dumps({"grace_seconds": grace_seconds}))

    def end(self, machine_rank: int, seconds: float = 60) -> tuple[int, str]:
        """Exit status and errors of a launcher, once it has ended; meanwhile all are asked, as a controller that follows does."""
        launcher, deadline = self.launchers[machine_rank], time.monotonic() + patience(seconds)
        while launcher.poll() is None and time.monotonic() < deadline:
            for host in self.plan.hosts:
                with contextlib.suppress(OSError, StatusError):
                    fetch(host.address)
            time.sleep(0.1)
        return launcher.wait(1), launcher.said

    def ends(self, seconds: float = 60) -> list[int]:
        """Exit statuses of all launchers, once they have ended."""
        return [self.end(machine_rank, seconds)[0] for machine_rank in sorted(self.launchers)]


Launch = Callable[..., Cluster]


@pytest.fixture
def launch(copied: Path) -> Iterator[Launch]:
    """Starts hosts with so many processes each, all of them or those that are named; a test that fails half-way ends them."""
    clusters: list[Cluster] = []

    def start(processes: Sequence[int], *command: str, hosts: Sequence[int] | None = None, **values: Any) -> Cluster:
        cluster = Cluster(copied, processes, command, **values)
        clusters.append(cluster)
        for machine_rank in range(len(processes)) if hosts is None else hosts:
            cluster.start(machine_rank)
        return cluster

    yield start
    for cluster in clusters:
        for launcher in cluster.launchers.values():
            launcher.kill()
