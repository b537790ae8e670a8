"""A run that is continued on two hosts with a disk each, by their launchers: what each has before its ranks start, and what is said."""

import contextlib
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, SCRIPTS, patience, processes_with
from programs import run_ranks
from two_hosts import losses
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.core.status import StatusError, fetch
from winfleet.host.outputs import pack

CODE = "c0de" * 3


class Pair:
    """Two hosts on loopback addresses, each with a folder of its own; starts the same run again and again."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder = folder
        self.hosts = lay_out_hosts([{"name": f"pc{n}", "address": f"127.0.0.{n}", "processes": 1} for n in (1, 2)])
        for home in self.homes:
            (home / "code" / CODE).mkdir(parents=True)
            (home / "code" / CODE / script.name).write_bytes(script.read_bytes())
            (home / "code" / CODE / "results.csv").write_text("of an earlier run\n")
        self.script = script.name

    @property
    def homes(self) -> list[Path]:
        return [self.folder / host.name for host in self.hosts]

    @property
    def works(self) -> list[Path]:
        return [home / "runs" / "r1" / "work" for home in self.homes]

    def launch(self, *words: str) -> list[int]:
        """Runs it to its end; the exit status of each launcher."""
        plan = Plan(run="r1", command=(self.script, *words), hosts=self.hosts, code=CODE, start_timeout_seconds=60)
        launchers = []
        for host, home in zip(self.hosts, self.homes, strict=True):
            run = home / "runs" / "r1"
            run.mkdir(parents=True, exist_ok=True)
            (run / "plan.json").write_text(plan.to_json())
            for log in run.glob("rank*.log"):
                log.unlink()
            command = [sys.executable, "-m", "winfleet.launch", "--plan", str(run / "plan.json"), "--machine-rank", str(host.machine_rank)]  # fmt: skip
            launchers.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + patience(90)
        while any(launcher.poll() is None for launcher in launchers) and time.monotonic() < deadline:
            for host in self.hosts:  # as a controller that follows does
                with contextlib.suppress(OSError, StatusError):
                    fetch(host.address)
            time.sleep(0.1)
        for launcher in launchers:
            launcher.kill()
        return [launcher.wait() for launcher in launchers]

    def events(self, host: int = 0) -> list[str]:
        status = json.loads((self.homes[host] / "runs" / "r1" / "status.json").read_text("utf-8"))
        return [event["text"] for event in status["events"]]

    def log(self, rank: int = 0) -> str:
        """What a rank printed in the newest start."""
        return (self.homes[rank] / "runs" / "r1" / f"rank{rank}.log").read_text("utf-8")

    def begun(self) -> list[str]:
        """The line that each rank printed as it began."""
        return [line for rank in (0, 1) for line in self.log(rank).splitlines() if " goes on after " in line]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    yield Pair(tmp_path, SCRIPTS / "saves.py")
    left = processes_with(str(tmp_path))
    assert not left, f"processes stayed behind: {left}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_is_whole_on_both_hosts_before_ranks_go_on_and_one_that_is_not_is_set_aside(pair: Pair) -> None:
    assert pair.launch("--fail-step", "17") == [1, 1]
    first, second = pair.works
    before = losses(pair.log())
    assert pair.begun() == [f"rank {rank} goes on after step 0, of [], None" for rank in (0, 1)]
    assert not [text for text in pair.events() if "heckpoint" in text], "a new run has nothing to compare"
    assert sorted(path.name for path in second.glob("out/*/*")) == ["rng_1.pt"] * 3, "rank 0's host alone has the rest"
    whole = first / "out" / "step_000015" / "model.pt"
    half = whole.read_bytes()[:-200]
    whole.write_bytes(half)  # it was still being written

    assert pair.launch("--steps", "22") == [0, 0]
    assert pair.begun() == [
        f"rank {rank} goes on after step 10, of ['step_000005', 'step_000010'], out/step_000010" for rank in (0, 1)
    ]
    for events in (pair.events(0), pair.events(1)):
        assert [text.partition(":")[0] for text in events if "heckpoint" in text or "lacks" in text] == [
            "Checkpoint out/step_000015 is not whole (model.pt ends too soon on pc1)",
            "pc2 lacks 4 files of out/step_000010, out/last.pt that pc1 has",
            "pc1 lacks out/step_000010/rng_1.pt, which pc2 has",
            next(text for text in events if text.startswith("The newest checkpoint is whole on every host, after ")),
            "Newest whole checkpoint of this run",
        ]
    assert "out/step_000010 is taken; it is called step_000015.incomplete now" in pair.events()[0]
    aside = [work / "out" / "step_000015.incomplete" for work in pair.works]
    assert [sorted(contents(folder)) for folder in aside] == [["model.pt", "optim.pt", "rng_0.pt"], ["rng_1.pt"]]
    assert (aside[0] / "model.pt").read_bytes() == half
    again = losses(pair.log())
    assert [*again] == [str(step) for step in range(11, 23)]
    alone = run_ranks(pair.folder, SCRIPTS / "saves.py", "--steps", "22", ranks=1, environment=ENVIRONMENT)
    assert before | again == pytest.approx(losses(alone), abs=1e-5), "as if nothing had been: both ranks draw the same"
    one, other = (contents(work / "out" / "step_000010") for work in pair.works)
    assert one == other
    assert sorted(one) == ["model.pt", "optim.pt", "rng_0.pt", "rng_1.pt"]

    packed = pack(pair.homes[0], "r1", code=CODE, data="", all_outputs=True, limit_mb=200)
    with tarfile.open(packed["archive"]) as tar:
        home = {name.removeprefix("work/") for name in tar.getnames() if name.startswith("work/")}
    newest = {f"out/step_000020/{name}" for name in ("model.pt", "optim.pt", "rng_0.pt")}
    assert home >= newest | {"out/last.pt", "results.csv"}, "the code has a results.csv, too"
    assert not [name for name in home if "step_000005" in name or name == pair.script]

    pair.launch("--steps", "25", "--forgets", "1")  # it cannot end well
    (said,) = [text for text in pair.events() if "unequal" in text]
    assert said.startswith(
        "Ranks begin at unequal steps: rank 1 at step 0, rank 0 at step 20; let every rank load the same checkpoint, out/step_000020: "
    )
    assert "out/last.pt" in json.loads((pair.homes[1] / "runs" / "r1" / "brought.json").read_text("utf-8"))
    assert (first / "out" / "last.pt").read_bytes() != (second / "out" / "last.pt").read_bytes(), "rank 0 went on"
