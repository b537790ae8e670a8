"""Runs that go on, on hosts with a disk each, by their launchers: what each has before its ranks start, and what is said."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SCRIPTS, processes_with
from run_hosts import RunHosts, losses

BEGUN = " goes on after "
Make = Callable[..., RunHosts]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Make]:
    """Makes so many hosts, whose code has an old results.csv, too."""
    old = {"results.csv": b"of an earlier run\n"}
    yield lambda count, script="saves.py": RunHosts(tmp_path, SCRIPTS / script, old, count)
    left = processes_with(str(tmp_path))
    assert not left, f"processes stayed behind: {left}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def claims(pair: RunHosts) -> list[str]:
    """What is said of where ranks began."""
    return [text for text in pair.events(1) if "begins at step" in text or "unequal" in text]


def test_a_checkpoint_is_whole_on_both_hosts_before_ranks_go_on_and_one_that_is_not_is_set_aside(group: Make) -> None:
    pair = group(2)
    assert pair.launch("--fail-step", "17") == [1, 1]
    first, second = pair.works
    before = losses(pair.log(1))
    assert pair.printed(BEGUN) == [f"rank {rank} goes on after step 0, of [], None" for rank in (0, 1)]
    assert not [text for text in pair.events(1) if "heckpoint" in text], "a new run has nothing to compare"
    assert sorted(path.name for path in second.glob("out/*/*")) == ["rng_1.pt"] * 3, "rank 0's host alone has the rest"
    whole = first / "out" / "step_000015" / "model.pt"
    half = whole.read_bytes()[:-200]
    whole.write_bytes(half)  # it was still being written

    assert pair.launch("--steps", "22") == [0, 0]
    assert pair.printed(BEGUN) == [
        f"rank {rank} goes on after step 10, of ['step_000005', 'step_000010'], out/step_000010" for rank in (0, 1)
    ]
    for events in (pair.events(1), pair.events(2)):
        assert [text.partition(":")[0] for text in events if "heckpoint" in text or "lacks" in text] == [
            "Checkpoint out/step_000015 is not whole (model.pt ends too soon on pc1)",
            "pc2 lacks 4 files of out/step_000010, out/last.pt that pc1 has",
            "pc1 lacks out/step_000010/rng_1.pt, which pc2 has",
            next(text for text in events if text.startswith("The newest checkpoint is whole on every host, after ")),
            "Newest whole checkpoint of this run",
        ]
    assert "out/step_000010 is taken; it is called step_000015.incomplete now" in pair.events(1)[0]
    aside = [work / "out" / "step_000015.incomplete" for work in pair.works]
    assert [sorted(contents(folder)) for folder in aside] == [["model.pt", "optim.pt", "rng_0.pt"], ["rng_1.pt"]]
    assert (aside[0] / "model.pt").read_bytes() == half
    again = losses(pair.log(1))
    assert [*again] == [str(step) for step in range(11, 23)]
    alone = pair.uninterrupted("--steps", "22", ranks=1)
    assert before | again == pytest.approx(losses(alone), abs=1e-5), "as if nothing had been: both ranks draw the same"
    one, other = (contents(work / "out" / "step_000010") for work in pair.works)
    assert one == other
    assert sorted(one) == ["model.pt", "optim.pt", "rng_0.pt", "rng_1.pt"]

    home = pair.outputs(1)
    newest = {f"out/step_000020/{name}" for name in ("model.pt", "optim.pt", "rng_0.pt")}
    assert home >= newest | {"out/last.pt", "results.csv"}, "the code has a results.csv, too"
    assert not [name for name in home if "step_000005" in name or name == pair.script]

    pair.launch("--steps", "25", "--forgets", "1")  # it cannot end well
    (said,) = [text for text in pair.events(1) if "unequal" in text]
    assert said.startswith(
        "Ranks begin at unequal steps: rank 1 at step 0, rank 0 at step 20; let every rank load the same checkpoint, out/step_000020: "
    )
    assert "out/last.pt" in json.loads((pair.run_folder(2) / "brought.json").read_text("utf-8"))
    assert (first / "out" / "last.pt").read_bytes() != (second / "out" / "last.pt").read_bytes(), "rank 0 went on"


def test_a_smaller_batch_and_a_restart_go_on_from_the_newest_checkpoint_on_both_hosts(group: Make) -> None:
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
    assert pair.printed(BEGUN) == [
        f"rank {rank} goes on after step {5 * count}, of {names[:count]}, {f'out/{names[count - 1]}' if count else None}"
        for rank in (0, 1) for count in (0, 2, 3)
    ]  # fmt: skip
    for host in (1, 2):
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
    assert pair.printed("own.pt") == [f"rank {rank} has the own.pt of rank {rank}" for rank in (0, 0, 1, 1)]
    assert claims(pair) == []
    assert pair.launch("--weights-alone", "--steps", "3") == [0, 0]
    assert [rank.optimizer_begun for rank in pair.status(1).ranks] == [0]
    assert claims(pair) == [], "it may be another stage"


def test_a_third_host_with_a_half_written_newer_one_and_a_second_without_any_go_on_with_the_first(group: Make) -> None:
    trio = group(3)
    assert trio.launch("--fail-step", "12") == [1, 1, 1]
    _, second, third = trio.works
    shutil.rmtree(second / "out")  # it has a new disk
    whole = (trio.works[0] / "out" / "step_000010" / "model.pt").read_bytes()
    (third / "out" / "step_000015").mkdir()
    (third / "out" / "step_000015" / "model.pt").write_bytes(whole[:-200])

    assert trio.launch("--steps", "12") == [0, 0, 0]
    assert trio.printed(BEGUN) == [
        f"rank {rank} goes on after step 10, of {names}, out/step_000010"
        for rank, names in enumerate([["step_000005", "step_000010"], ["step_000010"], ["step_000005", "step_000010"]])
    ]
    assert trio.printed("own.pt") == [f"rank {rank} has the own.pt of rank {own}" for rank, own in enumerate((0, 0, 2))]
    (said,) = [text for text in trio.events(2) if "step_000015" in text]
    assert said.startswith(
        "Checkpoint out/step_000015 is not whole (model.pt ends too soon on pc3): out/step_000010 is taken; "
    )
    assert (third / "out" / "step_000015.incomplete" / "model.pt").read_bytes() == whole[:-200]
    one, *others = (contents(work / "out" / "step_000010") for work in trio.works)
    assert sorted(one) == ["model.pt", "optim.pt", "rng_0.pt", "rng_2.pt"], "that of rank 1 is nowhere any more"
    assert others == [one, one]


def taken_by_now(pair: RunHosts, folder: str, name: str) -> None:
    """Has names of steps 5 and 6 be there, the one that the script's stop did not take as an empty folder of pc2 alone."""
    for step in (5, 6):
        (pair.works[1] / folder / name.format(step)).mkdir(parents=True, exist_ok=True)


@pytest.mark.proof
def test_a_script_that_begins_anew_is_named_unless_its_user_wants_that_and_its_stop_takes_a_new_name(
    group: Make,
) -> None:
    pair = group(2, "libraries/like_complete.py")
    assert pair.launch(stop_at=3) == [3, 3]
    assert claims(pair) == []
    reached = pair.rank(1).step
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


@pytest.mark.proof
def test_trainer_that_is_told_to_begin_anew_is_not_named_and_its_stop_takes_a_new_name(group: Make) -> None:
    pair = group(2, "libraries/hf_trainer.py")
    assert pair.launch(stop_at=3) == [3, 3]
    folder, first = pair.works[0] / "out", f"checkpoint-{pair.rank(1).step}"
    kept = contents(folder / first)
    taken_by_now(pair, "out", "checkpoint-{}")
    assert pair.launch("--resume", "false", stop_at=3) == [3, 3]
    assert pair.rank(1).begun == 0
    assert claims(pair) == []
    assert {path.name for path in folder.iterdir()} == {first, "checkpoint-7"}
    assert contents(folder / first).items() >= kept.items(), "pc2's random numbers have come"
