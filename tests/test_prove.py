"""The proofs: what their file says and does not say, how they are refused and undone, and all of them on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ENVIRONMENT, Fleet, processes_with, wait_until
from programs import call
from winfleet.core.status import Rank, Status
from winfleet.proofs import on_host, trainings
from winfleet.proofs.claims_table import PROVED_BY_PROGRAM
from winfleet.proofs.outcome import Outcome, failed, not_applicable, proved, read_outcomes
from winfleet.proofs.record import merge, summary, write
from winfleet.proofs.trainings import Home, Said, compare

AGREED = "fleet_prove_agreed=true"


def test_the_file_has_what_was_seen_and_neither_names_nor_secrets() -> None:
    outcomes = {
        "trains": proved("lab-pc1 trains, lab-pc10 too, for 김연구 at 8.8.8.8"),
        "oom-real": not_applicable("no GPU here"),
        "rank-killed": failed("a|b\nHunter22 was said by LAB-PC1"),
    }
    facts: dict[str, dict[str, Any]] = {
        "lab-pc1": {"system": "Windows-11", "GPUs": ["RTX 4090, driver 580.1", "RTX 3090, driver 580.1"]},
        "lab-pc10": {"torch": "2.13.0"},
    }
    text = write(outcomes, facts, {"Hunter22"}, {"김연구"})
    assert (
        "- host1: system Windows-11, GPUs RTX 4090, driver 580.1; RTX 3090, driver 580.1\n- host2: torch 2.13.0\n"
        in text
    )
    assert text.splitlines()[-3:] == [
        "| rank-killed | failed | a/b <secret> was said by host1 |",
        "| oom-real | not applicable | no GPU here |",
        "| trains | proved | host1 trains, host2 too, for <user> at <public address> |",
    ]
    assert (
        summary(outcomes)
        == "1 proved, 1 failed, 1 not applicable\n  failed: rank-killed: a|b Hunter22 was said by LAB-PC1"
    )


def test_the_worst_of_several_hosts_is_the_claims_outcome() -> None:
    assert merge({"a": proved("x"), "b": failed("y"), "c": not_applicable("z")}) == failed("b: y")
    assert merge({"a": proved("x"), "b": not_applicable("z")}) == proved("a: x")
    assert merge({"a": not_applicable("z"), "b": not_applicable("z")}) == not_applicable("z")


@pytest.mark.parametrize(
    "told", [None, [], "text", {"trains": 7}, {"trains": {"state": "great"}}, {"trains": {"seen": "x"}}]
)
def test_what_a_host_tells_is_data(told: object) -> None:
    assert read_outcomes(told) == {}


def test_a_long_text_of_a_host_is_cut() -> None:
    assert read_outcomes({"trains": {"state": "proved", "seen": "x" * 10_000}}) == {
        "trains": Outcome("proved", "x" * 600)
    }


@pytest.mark.parametrize(
    ("measured", "state"), [(91.0, "proved"), (109.0, "proved"), (89.0, "failed"), (None, "not applicable")]
)
def test_a_prediction_holds_within_a_tenth(measured: float | None, state: str) -> None:
    assert compare(Home(predicted=100.0, measured=measured, unit="samples/s")).state == state


def test_an_error_is_said_rather_than_the_line_behind_it() -> None:
    assert Said(code=1, text="Check\nerror: PC1: no\n  hint: yes\n").last_error == "error: PC1: no"
    assert Said(code=1, text="\n\n").last_error == "it said nothing"


def test_a_training_that_goes_on_without_its_rank_is_stopped_and_its_claim_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "END_SECONDS", 0.1)
    stopped: list[str] = []
    trains = Status(run="r", host="pc1", machine_rank=0, state="running", world_size=1, ranks=(Rank(rank=0, step=99),))
    cluster: Any = SimpleNamespace(
        hosts=["pc1"], begin=lambda *_: None, look=lambda _: [trains], end=lambda *_: [], ended=lambda: False, stop=stopped.append
    )  # fmt: skip
    found = trainings.Trainings(cluster, "1", print, wanted=["rank-killed"]).prove()
    assert found == {"rank-killed": failed("it went on for 0 s and had to be stopped")}
    assert stopped == ["proof-1-rank"]


@pytest.mark.skipif(os.name == "nt", reason="processes as Linux has them")
def test_a_proof_that_was_cut_off_is_undone(tmp_path: Path) -> None:
    folder, other = tmp_path / on_host.NAME, tmp_path / "runs" / "mine"
    for one in (folder, tmp_path / "runs" / "proof-1-whole", other):
        one.mkdir(parents=True)
    task = subprocess.Popen([sys.executable, "-m", "winfleet.proofs.in_task", "--folder", folder], env=ENVIRONMENT)
    try:
        wait_until((folder / "alive.json").exists, 60, "the task")
        assert json.loads((folder / "alive.json").read_text())["pid"] == task.pid
        assert sorted(on_host.undo(tmp_path)) == [str(folder), str(tmp_path / "runs" / "proof-1-whole")]
        assert task.wait(10) == -9
    finally:
        task.kill()
    assert [path.name for path in tmp_path.glob("**/*")] == ["runs", "mine"]
    assert on_host.undo(tmp_path) == []


def test_proofs_are_refused_before_anything_is_done(fleet: Fleet) -> None:
    unknown = fleet.play("prove.yml", AGREED, "fleet_prove_only=trains,rank-kiled")
    assert (
        "error: fleet_prove_only: rank-kiled is no claim that a program proves\n  hint: these are: " in unknown.stdout
    )
    done = fleet.play("prove.yml")
    assert (
        "error: nobody agreed, so nothing was done\n  hint: type yes, or give -e fleet_prove_agreed=true" in done.stdout
    ), done.stdout
    assert not fleet.home("worker1").joinpath("code").exists()
    assert (
        fleet.play(
            "deploy_and_train.yml", "fleet_command=bare.py --steps 100000", "fleet_run=mine", "fleet_follow=false"
        ).returncode
        == 0
    )
    done = fleet.play("prove.yml", AGREED)
    assert "error: run mine is going on on worker1, worker2\n  hint: " in done.stdout, done.stdout
    assert fleet.play("stop.yml", "fleet_stop_grace_seconds=0").returncode == 0


@pytest.fixture
def file_of_proofs(fleet: Fleet) -> Iterator[Path]:
    """Where the file of proofs comes to lie, which the test finds there."""
    yield fleet.logs
    assert list(fleet.folder.glob("worker*/runs/proof-*")) == list(fleet.folder.glob("worker*/proof")) == []


def rows(logs: Path) -> dict[str, str]:
    """Claims of the only file there, with their states."""
    (path,) = logs.glob("proof-*.md")
    text = path.read_text("utf-8")
    assert "worker1" not in text
    return {
        cells[1].strip(): cells[2].strip()
        for line in text.splitlines()
        if len(cells := line.split("|")) > 4 and "-" not in cells[2]
    }


def test_each_host_proves_what_it_shows_by_itself(fleet: Fleet, file_of_proofs: Path) -> None:
    done = fleet.play("prove.yml", AGREED, "fleet_prove_only=task-runs,long-paths,task-settings")
    assert done.returncode == 0, done.stdout
    assert rows(file_of_proofs) == {
        "Claim": "",
        "task-runs": "proved",
        "long-paths": "proved",
        "task-settings": "not applicable",
    }


@pytest.mark.proof
def test_a_planted_fault_turns_its_claim_red_and_no_other(fleet: Fleet, file_of_proofs: Path) -> None:
    """Checkpoints go away while the run is stopped."""
    over = threading.Event()

    def take_checkpoints_away() -> None:
        while not over.wait(0.1):
            found = list(fleet.folder.glob("worker*/runs/proof-*-whole/status.json"))
            if len(found) == 2 and all(json.loads(status.read_text("utf-8"))["state"] == "stopped" for status in found):
                for status in found:
                    shutil.rmtree(status.parent / "work" / "증명 결과" / "checkpoints", ignore_errors=True)
                return

    thief = threading.Thread(target=take_checkpoints_away)
    thief.start()
    try:
        only = "fleet_prove_only=trains,stop-and-continue,korean-names,task-runs,long-paths,port-scan"
        done = fleet.play("prove.yml", AGREED, only, seconds=400)
    finally:
        over.set()
        thief.join()
    assert done.returncode != 0
    assert "error: not proved: stop-and-continue\n" in done.stdout, done.stdout
    assert rows(file_of_proofs) == {
        "Claim": "", "stop-and-continue": "failed",
        **dict.fromkeys(("trains", "korean-names", "task-runs", "long-paths", "port-scan"), "proved"),
    }  # fmt: skip
    assert not processes_with(str(fleet.folder))


@pytest.mark.proof
def test_all_that_this_machine_can_show_is_proved(fleet: Fleet, file_of_proofs: Path) -> None:
    done = fleet.play("prove.yml", AGREED, seconds=900)
    found = rows(file_of_proofs)
    assert "failed" not in {state for name, state in found.items() if name != "prediction"}, (
        done.stdout
    )  # a machine in use has another speed
    assert set(PROVED_BY_PROGRAM) == set(found) - {"Claim"}


@pytest.mark.proof
def test_a_pc_by_itself_proves_what_it_can(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "winfleet.prove", "--home", str(tmp_path / "home"))
    refused = call(*command, folder=tmp_path)
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: nobody agreed, so nothing was done\nhint: type yes, or give --yes\n",
    )
    refused = call(*command, "--yes", "--only", "ctrl-d", folder=tmp_path)
    assert refused.stderr.startswith(
        "error: ctrl-d is no claim that a program proves\nhint: these are: task-settings, "
    )
    done = call(*command, "--yes", "--only", "ctrl-c,rank-killed,launcher-killed,port-scan", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(tmp_path / "logs") == {
        "Claim": "", "port-scan": "not applicable", **dict.fromkeys(("ctrl-c", "rank-killed", "launcher-killed"), "proved"),
    }  # fmt: skip
    assert list((tmp_path / "home").iterdir()) == []
