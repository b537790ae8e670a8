"""Runs that go on, on hosts with a disk each, by their launchers: what each has before its ranks start, and what is said."""

import contextlib
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import pcs
from conftest import ENVIRONMENT, SCRIPTS, patience, processes_with
from programs import Forked, run_ranks
from two_hosts import OFFLINE, losses
from winfleet.core.plan import Plan
from winfleet.core.status import Rank, Status, StatusError, fetch, read_file
from winfleet.host.outputs import pack

CODE = "c0de" * 3


class Group:
    """Hosts on loopback addresses, each with a folder and a rank of its own; starts the same run again and again."""

    def __init__(self, folder: Path, count: int, script: Path) -> None:
        self.folder = folder
        self.hosts = pcs(*[1] * count, network="127.0.0")
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

    def launch(self, *words: str, before: Sequence[str] = (), stop_at: int = 0, **values: Any) -> list[int]:
        """Runs it to its end; the exit status of each launcher.

        With `stop_at` it is asked to stop once all ranks have done so many steps, at which scripts/libraries wait for that; so
        it ends two steps later, or three.
        """
        environment = {**ENVIRONMENT, **OFFLINE, "HOLD_AT": str(stop_at)}
        values = {"hosts": self.hosts, "code": CODE, "start_timeout_seconds": int(patience(60)), **values}
        plan = Plan(run="r1", command=(*before, self.script, *words), **values)
        launchers = []
        for host, home in zip(self.hosts, self.homes, strict=True):
            run = home / "runs" / "r1"
            run.mkdir(parents=True, exist_ok=True)
            (run / "plan.json").write_text(plan.to_json())
            for log in run.glob("rank*.log"):
                log.unlink()
            command = [
                "-m",
                "winfleet.launch",
                "--plan",
                str(run / "plan.json"),
                "--machine-rank",
                str(host.machine_rank),
            ]
            launchers.append(Forked(self.folder, *command, output=home / "launcher", environment=environment))
        deadline = time.monotonic() + patience(150)
        while any(launcher.poll() is None for launcher in launchers) and time.monotonic() < deadline:
            ranks = list[Rank]()
            for host in self.hosts:  # as a controller that follows does
                with contextlib.suppress(OSError, StatusError):
                    ranks += fetch(host.address).ranks
            if stop_at and len(ranks) == len(self.hosts) and all(rank.step >= stop_at for rank in ranks):
                (self.homes[0] / "runs" / "r1" / "stop").touch()
            time.sleep(0.1)
        for launcher in launchers:
            launcher.kill()
        return [launcher.wait(10) for launcher in launchers]

    def events(self, host: int = 0) -> list[str]:
        return [event.text for event in self.status(host).events]

    def status(self, host: int) -> Status:
        status = read_file(self.homes[host] / "runs" / "r1" / "status.json")
        assert status
        return status

    def begun(self, words: str = " goes on after ") -> list[str]:
        """The lines with these words that ranks printed as they began, a host's behind those of the one before."""
        logs = [home / "runs" / "r1" / f"rank{rank}.log" for rank, home in enumerate(self.homes)]
        return [line for log in logs for line in log.read_text("utf-8").splitlines() if words in line]

    def log(self, rank: int = 0) -> str:
        """What a rank printed in the newest start."""
        return (self.homes[rank] / "runs" / "r1" / f"rank{rank}.log").read_text("utf-8")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Callable[..., Group]]:
    yield lambda count, script="saves.py": Group(tmp_path, count, SCRIPTS / script)
    left = processes_with(str(tmp_path))
    assert not left, f"processes stayed behind: {left}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def claims(pair: Group) -> list[str]:
    """What is said of where ranks began."""
    return [text for text in pair.events() if "begins at step" in text or "unequal" in text]


def test_a_checkpoint_is_whole_on_both_hosts_before_ranks_go_on_and_one_that_is_not_is_set_aside(
    group: Callable[..., Group],
) -> None:
    pair = group(2)
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


def test_a_smaller_batch_and_a_restart_go_on_from_the_newest_checkpoint_on_both_hosts(
    group: Callable[..., Group],
) -> None:
    pair = group(2)
    memory = [
        str(SCRIPTS / "small_gpu.py"),
        "1",
        "12",
        "1",
        "0",
    ]  # rank 1, after step 12, has room for 1 of its 2 samples
    words = ["--batch_size", "2", "--gradient_accumulation_steps", "1", "--fail-step", "17"]
    assert pair.launch(*words, before=memory, max_restarts=1) == [0, 0]
    names = ["step_000005", "step_000010", "step_000015"]
    assert pair.begun() == [
        f"rank {rank} goes on after step {5 * count}, of {names[:count]}, {f'out/{names[count - 1]}' if count else None}"
        for rank in (0, 1) for count in (0, 2, 3)
    ]  # fmt: skip
    for host in (0, 1):
        texts = pair.events(host)
        assert [text.partition(";")[0] for text in texts if text.startswith(("OOM", "Restarted"))] == [
            "OOM on rank 1 of pc2 at step 12: batch_size 2 -> 1, gradient_accumulation_steps 1 -> 2",
            "Restarted: attempt 2",
            "Restarted: attempt 3",
        ]
        assert [text.partition(" that ")[0] for text in texts if text.startswith("pc2 lacks")] == [
            f"pc2 lacks 4 files of out/{name}, out/last.pt" for name in names[1:]
        ]
        assert [rank.reached for rank in pair.status(host).ranks] == [20]
    assert pair.begun("own.pt") == [f"rank {rank} has the own.pt of rank {rank}" for rank in (0, 0, 1, 1)]
    assert claims(pair) == []
    assert pair.launch("--weights-alone", "--steps", "3") == [0, 0]
    assert [rank.optimizer_begun for rank in pair.status(0).ranks] == [0]
    assert claims(pair) == [], "it may be another stage"


def test_a_third_host_with_a_half_written_newer_one_and_a_second_without_any_go_on_with_the_first(
    group: Callable[..., Group],
) -> None:
    trio = group(3)
    assert trio.launch("--fail-step", "12") == [1, 1, 1]
    _, second, third = trio.works
    shutil.rmtree(second / "out")  # it has a new disk
    whole = (trio.works[0] / "out" / "step_000010" / "model.pt").read_bytes()
    (third / "out" / "step_000015").mkdir()
    (third / "out" / "step_000015" / "model.pt").write_bytes(whole[:-200])

    assert trio.launch("--steps", "12") == [0, 0, 0]
    assert trio.begun() == [
        f"rank {rank} goes on after step 10, of {names}, out/step_000010"
        for rank, names in enumerate([["step_000005", "step_000010"], ["step_000010"], ["step_000005", "step_000010"]])
    ]
    assert trio.begun("own.pt") == [f"rank {rank} has the own.pt of rank {own}" for rank, own in enumerate((0, 0, 2))]
    (said,) = [text for text in trio.events(1) if "step_000015" in text]
    assert said.startswith(
        "Checkpoint out/step_000015 is not whole (model.pt ends too soon on pc3): out/step_000010 is taken; "
    )
    assert (third / "out" / "step_000015.incomplete" / "model.pt").read_bytes() == whole[:-200]
    one, *others = (contents(work / "out" / "step_000010") for work in trio.works)
    assert sorted(one) == ["model.pt", "optim.pt", "rng_0.pt", "rng_2.pt"], "that of rank 1 is nowhere any more"
    assert others == [one, one]


def taken_by_now(pair: Group, folder: str, name: str) -> None:
    """Has names of steps 5 and 6 be there, the one that the script's stop did not take as an empty folder of pc2 alone."""
    for step in (5, 6):
        (pair.works[1] / folder / name.format(step)).mkdir(parents=True, exist_ok=True)


def test_a_script_that_begins_anew_is_named_unless_its_user_wants_that_and_its_stop_takes_a_new_name(
    group: Callable[..., Group],
) -> None:
    pair = group(2, "libraries/like_complete.py")
    assert pair.launch(stop_at=3) == [3, 3]
    assert claims(pair) == []
    reached = pair.status(0).ranks[0].step
    assert reached in (5, 6)
    folder, first = pair.works[0] / "output" / "checkpoints", f"step_{reached:06d}"
    kept = contents(folder / first)
    taken_by_now(pair, "output/checkpoints", "step_{:06d}")

    assert pair.launch(stop_at=3) == [3, 3]
    (said,) = claims(pair)
    assert said == (
        f"The script begins at step 0, as the state of its optimizer tells, although this run had reached {reached}: let it "
        f"load output/checkpoints/{first}, which the variable WINFLEET_RESUME names (fleet_resume: false says that it is meant so)"
    )
    assert {path.name for path in folder.iterdir()} == {first, "step_000007"}
    assert contents(folder / first).items() >= kept.items(), "pc2's random numbers have come"

    assert pair.launch(stop_at=3, resume=False) == [3, 3]
    assert claims(pair) == []
    assert {path.name for path in folder.iterdir()} == {first, "step_000007", "step_000008"}


def test_trainer_that_is_told_to_begin_anew_is_not_named_and_its_stop_takes_a_new_name(
    group: Callable[..., Group],
) -> None:
    pair = group(2, "libraries/hf_trainer.py")
    assert pair.launch(stop_at=3) == [3, 3]
    folder, first = pair.works[0] / "out", f"checkpoint-{pair.status(0).ranks[0].step}"
    kept = contents(folder / first)
    taken_by_now(pair, "out", "checkpoint-{}")
    assert pair.launch("--resume", "false", stop_at=3) == [3, 3]
    assert pair.status(0).ranks[0].begun == 0
    assert claims(pair) == []
    assert {path.name for path in folder.iterdir()} == {first, "checkpoint-7"}
    assert contents(folder / first).items() >= kept.items(), "pc2's random numbers have come"
