"""Ranks that train apart, scripts that start ranks themselves, and what a library's trainer is given to go on from."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parameter import Parameter
from torch.utils.data._utils.worker import _worker_loop
from winfleet import report
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.core.status import APART_ALONE, APART_SILENT, NO_RESUME, RESUME, Rank, Status, progress_line
from winfleet.libraries import lightning, transformers
from winfleet.libraries.accelerate import Names, save
from winfleet.libraries.resume import Resume
from winfleet.rank.apart import Togetherness
from winfleet.rank.meter import Meter
from winfleet.rank.spawning import SpawningError, check_group, joins, starts_ranks
from winfleet.view.verdict import verdicts


def made(**values: Any) -> Status:
    ranks = tuple(Rank(rank=rank, state="training", step=9, samples_per_second=50.0, **values) for rank in (0, 1))
    return Status(run="r", host="pc1", machine_rank=0, state="finished", world_size=2, ranks=ranks)


def test_ranks_that_train_apart_are_not_added_up() -> None:
    apart = made(apart=APART_ALONE)
    assert progress_line([made()]) == "step 9 · 100.0 samples/s · 2/2 ranks up"
    said = "step 9 · 50.0 samples/s each · not distributed: each rank trains without a process group · 2/2 ranks up"
    assert progress_line([apart]) == said
    assert "init_process_group()" in verdicts([apart])[0]
    assert verdicts([made()]) == []


def test_the_report_says_first_that_ranks_trained_apart(tmp_path: Path) -> None:
    hosts = lay_out_hosts([{"name": "pc1", "address": "127.0.0.1", "processes": 2}])
    (tmp_path / "pc1").mkdir()
    (tmp_path / "plan.json").write_text(Plan(run="r", command=("train.py",), hosts=hosts).to_json(), "utf-8")
    (tmp_path / "pc1" / "status.json").write_text(made(apart=APART_SILENT).to_json(), "utf-8")
    run = report.load(tmp_path)
    page = report.render(run)
    assert "Not distributed: each of 2 processes trained a model of its own, without an exchange of gradients." in page
    assert "wrap the model" in page
    assert report.closing_line(run, Path("x")).startswith("not distributed: each process trained without an exchange")


def test_ranks_are_apart_until_they_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    sgd = torch.optim.SGD([Parameter(torch.ones(1))])
    monkeypatch.setenv("WORLD_SIZE", "2")
    together = Togetherness()
    assert together.look(1, sgd, wrapped=False) == APART_ALONE
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    group_class: Any = type("Group", (), {"allreduce": lambda *_: None, "broadcast": lambda *_: None})
    monkeypatch.setattr(dist, "ProcessGroup", group_class)
    together.watch()
    group = group_class()
    group.broadcast([torch.ones(100)])  # before the first step: how all begin with the same weights
    assert [together.look(count, sgd, wrapped=False) for count in (2, 11)] == ["", ""]
    group.allreduce([torch.ones(1)])  # a loss
    group.broadcast(
        [torch.ones(5000, dtype=torch.uint8)]
    )  # the state of random numbers, as Accelerate's DataLoader has it
    assert together.look(12, sgd, wrapped=False) == APART_SILENT
    group.allreduce([torch.ones(10)])
    assert together.look(13, sgd, wrapped=False) == ""
    assert Togetherness().look(50, sgd, wrapped=True) == ""
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Togetherness().look(50, sgd, wrapped=False) == ""


def setup(rank: int) -> None:
    dist.init_process_group("gloo", rank=rank)


def train(rank: int) -> None:
    setup(rank)


def prepare(text: str) -> list[str]:
    return text.split()


class Runner:
    """Trains."""

    def __init__(self) -> None:
        train(0)


def run_it() -> None:
    Runner()


def test_a_function_that_joins_a_group_is_known_by_its_code() -> None:
    assert [joins(one) for one in (setup, train, functools.partial(train, 0), run_it, Runner.__init__)] == [True] * 5
    assert [joins(one) for one in (prepare, None, 7, dict, print, _worker_loop)] == [False] * 6


@pytest.mark.parametrize(
    ("command", "starter"),
    [
        (["torchrun", "--nproc-per-node", "2", "train.py"], "torchrun"), ("python -m torch.distributed.run train.py", "torch.distributed.run"),
        (["/opt/venv/bin/python3.11", "-m", "torch.distributed.launch", "x.py"], "torch.distributed.launch"),
        ("accelerate launch train.py", "accelerate launch"), (["accelerate", "env"], ""), ("pip show deepspeed", ""),
        (["git", "log"], ""), (Path("train.sh"), ""), ([], ""), ("python train.py -m torch.distributed.run2", ""),
        (["deepspeed.exe", "x.py"], "deepspeed"), ('unbalanced "quotes', ""),
    ],
)  # fmt: skip
def test_a_command_that_starts_ranks_is_known(command: Any, starter: str) -> None:
    assert starts_ranks(command) == starter


def test_a_group_of_another_size_than_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_group(3, 4)
    check_group(None, None)
    check_group(-1, -1)
    with pytest.raises(
        SpawningError, match=r"init_process_group\(rank=3, world_size=2\)"
    ) as refused:  # yolo device=0,1
        check_group(3, 2)
    assert "yolo gets a device for each process of the run" in str(refused.value)


@pytest.mark.parametrize(
    "starts",
    [
        "import torch.multiprocessing as mp\n    mp.spawn(main, nprocs=2)",
        "import multiprocessing as mp\n    mp.Process(target=main, args=(0,)).start()",
        "import subprocess, sys\n    subprocess.run([sys.executable, '-m', 'torch.distributed.run', 'x.py'])",
        "from torch.distributed.run import main as run\n    run(['--nproc-per-node', '2', 'x.py'])",
    ],
    ids=["mp.spawn", "Process", "torch.distributed.run", "within the process"],
)
def test_a_script_that_starts_ranks_is_told_what_to_do(tmp_path: Path, starts: str) -> None:
    script = "import torch.distributed as dist\ndef main(rank):\n    dist.init_process_group('gloo')\n"
    (tmp_path / "train.py").write_text(f"{script}if __name__ == '__main__':\n    {starts}\n", "utf-8")
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "winfleet.runner", "train.py"], cwd=tmp_path, env={**os.environ, **given},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the script starts ranks by itself" in done.stderr
    assert "hint: give the command that one process runs" in done.stderr


# -- going on


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("out/checkpoint-20", "other/checkpoint-5"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trainer_state.json").touch()
    return tmp_path


def trainer(folder: str) -> Any:
    return SimpleNamespace(args=SimpleNamespace(output_dir=folder))


def test_trainer_goes_on_from_the_runs_checkpoint_in_its_own_folder_once(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = Resume.of_environment({RESUME: "out/checkpoint-20"})
    own = str(work / "out" / "checkpoint-20")
    assert transformers.choose(None, trainer("other"), resume, None) is None
    assert transformers.choose("mine", trainer("out"), resume, None) == "mine"
    assert transformers.choose(None, trainer("out"), resume, "a trial of a search") is None
    assert transformers.choose(None, trainer("out"), resume, None) == own
    assert transformers.choose(None, trainer("out"), resume, None) is None
    assert capsys.readouterr().out.startswith(
        "winfleet: goes on from out/checkpoint-20, the newest checkpoint of this run"
    )


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        ({}, None), ({RESUME: ""}, None), ({RESUME: "../elsewhere/checkpoint-20"}, None), ({RESUME: "out/checkpoint-9"}, None),
        ({RESUME: "out/checkpoint-20", NO_RESUME: "1"}, None), ({RESUME: "out/checkpoint-20"}, False),
    ],
    ids=["new", "empty", "elsewhere", "gone", "switched off", "the script says False"],
)  # fmt: skip
def test_trainer_begins_anew(
    work: Path, environment: dict[str, str], given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (work.parent / "elsewhere" / "checkpoint-20").mkdir(parents=True, exist_ok=True)
    resume = Resume.of_environment(environment)
    assert transformers.choose(given, trainer("out"), resume, None) is given
    assert transformers.choose(None, trainer("out"), resume, None) is None
    said = (
        "winfleet: out/checkpoint-20 of this run is not loaded, as fleet_resume is false\n"
        if NO_RESUME in environment
        else ""
    )
    assert capsys.readouterr().out == said


def fitted(folder: Path, **values: Any) -> Any:
    return SimpleNamespace(**{"checkpoint_callbacks": [], "loggers": [], "default_root_dir": str(folder), **values})


def test_lightning_goes_on_where_its_folders_hold_the_checkpoint(work: Path) -> None:
    (work / "logs" / "net" / "version_3" / "checkpoints").mkdir(parents=True)
    path = work / "logs" / "net" / "version_3" / "checkpoints" / "epoch=1-step=20.ckpt"
    path.touch()

    def chosen(made: Any, given: Any = None, **more: str) -> Any:
        return lightning.choose(given, made, Resume.of_environment({RESUME: str(path.relative_to(work)), **more}))

    logger = SimpleNamespace(save_dir=str(work / "logs"), name="net")
    assert chosen(fitted(work, loggers=[logger])) == str(path)
    assert chosen(fitted(work, checkpoint_callbacks=[SimpleNamespace(dirpath=str(path.parent))])) == str(path)
    assert chosen(fitted(work)) is None
    assert chosen(fitted(work, loggers=[SimpleNamespace(save_dir=str(work / "logs"), name="another")])) is None
    assert chosen(fitted(work, loggers=[logger]), "last") == "last"
    assert chosen(fitted(work, loggers=[logger]), given=False) is None
    assert chosen(fitted(work, loggers=[logger]), **{NO_RESUME: "1"}) is None


def test_lightnings_stop_takes_a_name_that_is_not_there_yet(work: Path) -> None:
    (work / "checkpoints").mkdir()
    made = fitted(work, current_epoch=1, global_step=20, save_checkpoint=lambda path: Path(path).touch())
    assert [lightning.save(made) for _ in range(3)] == [True] * 3
    names = {f"epoch=1-step=20{version}.ckpt" for version in ("", "-v1", "-v2")}
    assert {path.name for path in (work / "checkpoints").iterdir()} == names


def test_lightning_is_refused_on_pcs_with_unequal_numbers_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = lay_out_hosts([{"name": f"pc{n}", "address": f"127.0.0.{n}", "processes": n} for n in (1, 2)])
    (tmp_path / "plan.json").write_text(Plan(run="r", command=("train.py",), hosts=hosts).to_json(), "utf-8")
    monkeypatch.setenv("WINFLEET_RUN_FOLDER", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(lightning.DevicesError, match=r"1 on pc1, 2 on pc2\nhint: set fleet_processes: 1 for all"):
        lightning.check_devices(1, 3)
    monkeypatch.delenv("WINFLEET_RUN_FOLDER")
    lightning.check_devices(3, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(lightning.DevicesError, match=r"hint: Trainer\(devices=3, num_nodes=1\)"):
        lightning.check_devices(1, 1)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ([], "step_000024"), (["step_8"], "step_24"), (["step_00008"], "step_00024"), (["checkpoint-16"], "checkpoint-48"),
        (["epoch_0"], "step_000024"), (["load step_100"], "step_124"), (["load step_100", "step_116"], "step_148"),
        (["load epoch_1"], "step_000048"), (["final"], "step_000024"), (["load ckpt-7.bak", "ckpt-15.bak"], "ckpt-31.bak"),
    ],
)  # fmt: skip
def test_accelerates_checkpoint_is_named_as_the_script_names(told: list[str], name: str) -> None:
    meter, sgd = Meter(None), torch.optim.SGD([Parameter(torch.ones(1))])
    names, accelerator = Names(meter), SimpleNamespace(_dataloaders=[range(0)])

    def steps(number: int) -> None:
        for _ in range(number):
            for _ in range(2):
                meter.backward(torch.tensor(1.0, requires_grad=True))
            meter.step(sgd)

    for one in told:
        if one.startswith("load "):
            names.loaded(Path("out", one.removeprefix("load ")), accelerator)
        else:
            steps(8)
            names.saved(Path("out", one))
    steps(24 - meter.count)
    assert names.name() == name
    assert names.folder == (Path("out") if told else None)


@pytest.mark.parametrize(("project", "folder"), [("결과", "결과/checkpoints"), (None, "output/checkpoints")])
def test_a_script_that_has_saved_nothing_finds_the_stops_checkpoint_where_accelerate_keeps_them(
    project: str | None, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    accelerator = SimpleNamespace(
        project_configuration=SimpleNamespace(automatic_checkpoint_naming=False), project_dir=project,
        save_state=saved.append, wait_for_everyone=list,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert save(accelerator, Names(Meter(None)))
    assert saved == [f"{folder}/step_000000"]
