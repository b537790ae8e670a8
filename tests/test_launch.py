"""The launcher, for real: ranks under PyTorch's elastic agent, on this machine's loopback addresses."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from builders import pcs
from conftest import ENVIRONMENT, SCRIPTS, patience, processes_with, wait_until
from launchers import BARE, ENDLESS, LAUNCH, Launch, auto, copied, launch
from programs import run_ranks
from prometheus_client.parser import text_string_to_metric_families
from report_runs import brought_home
from winfleet.core.plan import Plan, choose_backend
from winfleet.core.status import Status, StatusError, fetch
from winfleet.runs.environment import prepare_environment
from winfleet.view.speed import speed_of
from winfleet.view.verdict import find_culprit

__all__ = ["copied", "launch"]  # fixtures


def test_bare_accelerator_trains_and_says_the_guides_lines(copied: Path) -> None:
    done = auto(copied, "--", BARE, "--steps", "15")
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2" in done.stdout
    assert "rank 1 of 2" in done.stdout
    said = [line.partition("[INFO] ")[2] for line in done.stderr.splitlines() if "[INFO]" in line]
    expected = ["Initializing distributed training...", "Rank 0/2 initialized", "Rank 1/2 initialized",
                "All processes joined successfully", "Training started with 2 processes across 1 node", "Run finished"]  # fmt: skip
    assert [line for line in said if line in expected] == expected
    status = json.loads(next(copied.glob("logs/*/*/status.json")).read_text("utf-8"))
    assert status["state"] == "finished"
    assert [(rank["step"], rank["steps"], rank["exit_code"]) for rank in status["ranks"]] == [(15, 15, 0)] * 2


@pytest.fixture
def with_scripts(copied: Path) -> Path:
    """The folder with scripts in it that know nothing of winfleet."""
    for source in SCRIPTS.rglob("*.py"):
        target = copied / source.relative_to(SCRIPTS)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    return copied


def test_a_foreign_script_that_starts_processes_by_spawn_runs_unmodified(with_scripts: Path) -> None:
    done = auto(with_scripts, "--", "spawn_loader.py")
    assert done.returncode == 0, done.stderr
    # ranks share the console, so one's line may end behind another's
    assert [rank for rank in (0, 1) if f"rank {rank}: 4 batches from 2 workers" not in done.stdout] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plain_torch.py"], ["rank 0: sum 3 over gloo", "rank 1: sum 3 over gloo"]),
        (["like_examples.py"], ["epoch 1: 43 evaluated, more than half right: True"]),
        (["like_examples.py", "--mixed_precision", "bf16"], ["epoch 1: 43 evaluated, more than half right: True"]),
        (["-m", "package.module", "--a", "b c"], ["package __main__ ['--a', 'b c']"]),
        (["-m", "accelerate.test_utils.scripts.test_sync"], ["**Test `accumulate` gradient accumulation with dataloader break**"]),
        (["-m", "accelerate.test_utils.scripts.test_ops"], ["testing gather_object"]),
    ],
    ids=["plain torch", "examples", "examples in bf16", "module", "accelerate's test_sync", "accelerate's test_ops"],
)  # fmt: skip
def test_foreign_scripts_run_unmodified(with_scripts: Path, words: list[str], expected: list[str]) -> None:
    """In ranks as the launcher starts them, but that they share the import of torch."""
    (host,) = pcs(2, network="127.0.0")
    plan = Plan(run="r1", command=tuple(words), hosts=(host,), backend=choose_backend([host]))
    environ = dict(ENVIRONMENT)
    prepare_environment(plan, host, with_scripts, console=True, environ=environ)
    printed = run_ranks(with_scripts, "-m", "winfleet.runner", *words, ranks=2, environment=environ)
    assert [text for text in expected if text not in printed] == []


@pytest.mark.parametrize("trouble", ["no code", "no torch"])
def test_what_goes_wrong_before_the_ranks_is_told(copied: Path, trouble: str) -> None:
    run = copied / "runs" / "r"
    run.mkdir(parents=True)
    hosts = pcs(1, network="127.0.9")
    code = "0" * 12 if trouble == "no code" else None
    (run / "plan.json").write_text(Plan(run="r", command=("x.py",), hosts=hosts, code=code).to_json())
    (copied / "torch.py").write_text("raise OSError('a DLL cannot be loaded')")
    command = [*LAUNCH, "--plan", str(run / "plan.json"), "--machine-rank", "0"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(copied)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    told = wait_until(lambda: last_word("127.0.9.1"), 15, "a last word")
    _, said = process.communicate(timeout=patience(20))
    if trouble == "no code":
        assert process.returncode == 2
        assert re.search(r"error: pc1: .*No such file.*0{12}'\nhint: is there room on the disk", said)
        assert "No such file" in told.cause.text
    else:
        assert told.cause.text == "OSError: a DLL cannot be loaded"
        assert "room on the disk" not in said


def last_word(address: str) -> Status | None:
    """What the host's launcher serves once its run has ended."""
    with contextlib.suppress(OSError, StatusError):
        status = fetch(address)
        return status if status.state == "failed" else None
    return None


def test_a_restart_goes_on_in_a_second_generation(copied: Path) -> None:
    done = auto(copied, "--restarts", "1", "--", BARE, "--fail-rank", "1", "--fail-once", "--steps", "8")
    assert done.returncode == 0, done.stderr
    status = json.loads(next(copied.glob("logs/*/*/status.json")).read_text("utf-8"))
    assert status["generation"] == 2
    assert [event["text"] for event in status["events"]].count("Restarted: attempt 2") == 1


def test_a_missing_script_is_one_error(copied: Path) -> None:
    done = auto(copied, "--", "absent.py")
    assert done.returncode == 2
    assert done.stderr == f"error: no script absent.py in {copied}\nhint: give its path, or -m for a module\n"


def test_unequal_hosts_make_one_world(launch: Launch) -> None:
    cluster = launch([1, 2], BARE, "--steps", "5", hosts=[1])  # the order of starting does not matter
    wait_until((cluster.runs(1) / "status.json").exists, 20, "the second host's start")
    cluster.start(0)
    for machine_rank in (0, 1):
        code, said = cluster.end(machine_rank)
        assert code == 0, said
        assert "[INFO] Training started with 3 processes across 2 nodes" in said
    logs = [cluster.log(0, 0), cluster.log(1, 1), cluster.log(1, 2)]
    assert [line for log in logs for line in log if " of 3" in line] == [f"rank {rank} of 3" for rank in range(3)]


def listening() -> set[tuple[str, int]]:
    """(address as the kernel writes it, port) of every TCP listener of this machine."""
    line = re.compile(r"^\s*\d+: ([0-9A-F]{8}):([0-9A-F]{4}) 00000000:0000 0A", re.MULTILINE)
    return {(address, int(port, 16)) for address, port in line.findall(Path("/proc/net/tcp").read_text())}


def test_on_windows_temporary_files_and_models_lie_below_fleet_home_unless_the_user_says_where(tmp_path: Path) -> None:
    def prepared(system: str, variables: dict[str, str], **inherited: str) -> dict[str, str]:
        (host,) = pcs(1, os=system)
        plan = Plan(run="r", command=("train.py",), hosts=(host,), variables={"pc1": variables})
        environ = dict(inherited)
        prepare_environment(plan, host, tmp_path / "runs" / "r", console=False, environ=environ)
        return {name: value for name, value in environ.items() if name in ("TEMP", "TMP", "HF_HOME")}

    assert prepared("Linux", {}) == {}
    temporary, models = str(tmp_path / "temp"), str(tmp_path / "huggingface")
    users = "C:\\Users\\김연구\\AppData\\Local\\Temp"
    assert prepared("Windows", {}, TEMP=users, TMP=users) == {"TEMP": temporary, "TMP": temporary, "HF_HOME": models}
    assert (tmp_path / "temp").is_dir()
    own = {"TEMP": "D:\\temp", "TMP": "D:\\temp", "HF_HOME": "D:\\models"}
    assert prepared("Windows", {name: own[name] for name in ("TEMP", "TMP")}, HF_HOME=own["HF_HOME"]) == own


def test_all_listen_on_the_plans_address_alone_and_stop_after_the_same_step_with_a_checkpoint(launch: Launch) -> None:
    cluster = launch([1, 2], *ENDLESS)
    cluster.wait_for_training()
    wait_until(  # the kernel's table is read piece by piece, and may lack a line while sockets come and go
        lambda: {("0100007F", 29500), ("0100007F", 29501), ("0100007F", 29502), ("0200007F", 29502)} <= listening(),
        10,
        "our listeners",
    )
    assert "00000000" not in {address for address, port in listening() if 29500 <= port <= 29504}
    dynamic = {address for address, port in listening() if port > 32767}
    assert "0200007F" in dynamic, "gloo of pc2 listens on pc2's own address"
    cluster.stop(1, grace_seconds=30)  # any one host is enough
    assert cluster.ends() == [3, 3]
    logs = [cluster.log(0, 0), cluster.log(1, 1), cluster.log(1, 2)]
    steps = {line for log in logs for line in log if "asked to stop" in line}
    assert len(steps) == 1, steps
    step = int(steps.pop().rpartition(" ")[2])
    assert (cluster.runs(0) / "work" / "output" / "checkpoints" / f"step_{step:06d}" / "model.safetensors").exists()
    assert cluster.status(0)["state"] == "stopped"


def test_a_failure_on_one_host_ends_the_other_within_15_seconds(launch: Launch) -> None:
    cluster = launch([1, 1], *ENDLESS, "--fail-rank", "1", "--fail-step", "40")
    cluster.wait_for_training()
    began, limit = time.monotonic(), patience(15)
    code, said = cluster.end(1)
    assert (code, cluster.end(0)[0]) == (1, 1)
    assert time.monotonic() - began < limit
    assert "rank 1 on pc2 failed (exit code 1): ValueError: on purpose: 손실이 이상합니다" in said
    cause = cluster.status(1)["cause"]
    assert (cause["host"], cause["rank"], cause["text"]) == ("pc2", 1, "ValueError: on purpose: 손실이 이상합니다")


def test_a_rank_that_stands_still_is_named_with_the_line_it_stands_at(launch: Launch) -> None:
    cluster = launch([1, 1], *ENDLESS, "--stand-rank", "1", "--fail-step", "40", stuck_seconds=round(patience(3)))
    cluster.wait_for_training()

    def said(machine_rank: int) -> list[str]:
        return [event["text"] for event in cluster.status(machine_rank)["events"] if event["kind"] == "stuck"]

    wait_until(lambda: said(0) and said(1), 20, "a word of the rank that stands still")
    seconds = r" has not moved for \d+ s: bare.py:\d+ in "
    assert re.fullmatch(f"rank 1 on pc2{seconds}stand_still", said(1)[0])
    assert re.fullmatch(f"rank 0 on pc1{seconds}main, in backward, where it waits for other ranks", said(0)[0])
    found = [fetch(f"127.0.0.{n}") for n in (1, 2)]
    assert [rank.state for status in found for rank in status.ranks] == ["stuck", "stuck"]
    assert re.fullmatch(r"rank 0 waits for rank 1 on pc2 \(bare.py:\d+ in stand_still\)", str(find_culprit(found)))
    stack = (cluster.runs(1) / "rank1.stack.txt").read_text("utf-8")
    assert "time.sleep(100_000)" in stack
    wait_until(
        lambda: fetch("127.0.0.1").ports == (29500, 29501, 29502), 15, "a look at the ports since the ranks' start"
    )
    assert sum(fetch("127.0.0.1").connections.values()) > 0
    with urllib.request.urlopen("http://127.0.0.2:29502/metrics") as answer:
        gauges = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    states = {sample.labels["state"]: sample.value for sample in gauges["winfleet_rank_state"].samples}
    assert states == {"starting": 0, "waiting": 0, "joining": 0, "joined": 0, "training": 0, "stuck": 1, "ended": 0}
    cluster.stop(0, 1, grace_seconds=1)
    assert cluster.ends() == [3, 3]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_launcher_leaves_no_rank_and_the_other_host_names_it(launch: Launch, killed: int) -> None:
    cluster = launch([1, 1], *ENDLESS)
    cluster.wait_for_training()
    cluster.launchers[killed].kill()
    gone = str(cluster.runs(killed))
    wait_until(lambda: not processes_with(gone), 5, "the end of the killed launcher's ranks")
    code, said = cluster.end(1 - killed, seconds=15)
    assert code == 1
    assert f"lost pc{killed + 1}" in said


@pytest.mark.parametrize(
    ("comes", "message"),
    [(0, "pc1 failed: pc2 did not come within 2 s"), (1, "pc2 could not reach pc1 at 127.0.0.1:29501 within 2 s")],
)
def test_a_host_that_never_comes_is_named(launch: Launch, comes: int, message: str) -> None:
    code, said = launch([1, 1], BARE, hosts=[comes], start_timeout_seconds=2).end(comes)
    assert code == 1
    assert message in said


def test_a_taken_port_is_named_before_anything_is_started(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 29502)):
        cluster = launch([1], BARE)
        code, said = cluster.end(0)
    assert code == 2
    assert "error: pc1: port 29502 on 127.0.0.1 cannot be had: Address already in use" in said
    assert f"(pid {os.getpid()})" in said
    assert not (cluster.runs(0) / "status.json").exists()


def test_ranks_that_do_not_end_are_ended_after_the_grace_period(launch: Launch) -> None:
    cluster = launch([1], BARE, "--sleep", "1000")
    cluster.wait_for_training()
    cluster.stop(0, grace_seconds=1)
    code, said = cluster.end(0, seconds=20)
    assert code == 3
    assert "ranks did not reach the end of a step within 1 s and were ended" in said


def test_memory_that_runs_out_on_one_host_halves_the_batch_on_both_down_to_one(launch: Launch, copied: Path) -> None:
    # from step 3 on rank 1 has room for no sample at all; it stays, so that rank 0 hears nothing, as with gloo on Windows
    memory = [str(SCRIPTS / "small_gpu.py"), "1", "2", "0", "60"]
    cluster = launch([1, 1], *memory, str(SCRIPTS / "like_trainer.py"), "--per_device_train_batch_size", "2")
    assert cluster.ends(120) == [1, 1]
    for machine_rank in (0, 1):
        lines = cluster.log(machine_rank, machine_rank)
        assert [line for line in lines if line.startswith(("batch", "step"))] == [
            "batch 2 x 1", "step 1", "step 2", "batch 1 x 2", "step 1", "step 2",
        ]  # fmt: skip
        texts = [event["text"] for event in cluster.status(machine_rank)["events"]]
        (said,) = [text for text in texts if text.startswith("OOM")]
        assert said == (
            "OOM on rank 1 of pc2 at step 2: per_device_train_batch_size 2 -> 1, gradient_accumulation_steps 1 -> 2; "
            "all ranks start again from the beginning, unless the script finds a checkpoint of its own"
        )
    run = brought_home(copied / "home", cluster.plan, [cluster.runs(machine_rank) for machine_rank in (0, 1)])
    for track in run.metrics:
        before, after = ([point for point in track.samples if point.segment == (0, number)] for number in (1, 2))
        assert before[0].x == after[0].x == 1, "the same samples, and the same weights"
        assert before[0].values[0] == pytest.approx(after[0].values[0], rel=1e-5)
        paces = [(point.values[1], point.values[6]) for point in track.samples if point.values[6]]
        assert [samples for samples, _ in paces] == pytest.approx([2 * (steps or 0.0) for _, steps in paces], rel=0.01)
    assert len(paces) == 2, "of rank 1 before and after, in micro-batches of two samples and of one"
    assert speed_of(run).unit == "samples/s"
    cause = cluster.status(1)["cause"]
    assert (cause["host"], cause["rank"]) == ("pc2", 1)
    assert cause["text"].startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "\nno smaller batch: per_device_train_batch_size is 1 already" in cause["text"]


def test_stock_torchrun_takes_our_rendezvous_and_keeps_the_order_of_machines(copied: Path) -> None:
    def torchrun(machine_rank: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
                   "--rdzv-backend", "winfleet", "--rdzv-endpoint", "127.0.0.1:29500", "--rdzv-id", "r1",
                   "--rdzv-conf", f"rank={machine_rank},timeout={patience(40):.0f}", BARE, "--steps", "3"]  # fmt: skip
        environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}
        return subprocess.Popen(command, cwd=copied, env=environment, text=True, stdout=subprocess.PIPE)

    second, first = torchrun(1), torchrun(0)
    said = [process.communicate(timeout=patience(90))[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "rank 0 of 2" in said[0]
    assert "rank 1 of 2" in said[1]
