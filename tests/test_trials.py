"""The trial of a command before its run: what it lacks is said before ranks start, advice names the user's own settings."""

from pathlib import Path

import pytest
from builders import pcs
from conftest import Fleet
from winfleet.core.plan import Plan
from winfleet.rehearsal import checks
from winfleet.rehearsal.advice import find_places
from winfleet.rehearsal.controller import Rehearsal
from winfleet.rehearsal.failures import lacks_something, trial_exception
from winfleet.rehearsal.peers import RefusedError

TRIAL = {"micro_batch_seconds": 0.1, "accumulation": 1, "steps": 5, "samples": 4}


@pytest.mark.parametrize(
    ("command", "config", "accumulation", "workers"),
    [
        (("train.py", "--gradient-accumulation-steps", "2", "--dataloader_num_workers=4"), None,
         "--gradient-accumulation-steps 8 in the command", "--dataloader_num_workers=8 in the command"),
        (("train.py", "--config", "{config}"), "training: {gradient_accumulation_steps: 2}\nnum_workers: 1\n",
         "training.gradient_accumulation_steps: 8 in the configuration", "num_workers: 8 in the configuration"),
        (("train.py", "trainer.accumulate_grad_batches=2"), "num_workers: 1\n",
         "trainer.accumulate_grad_batches=8 in the command", "8 processes for each DataLoader of the script (num_workers)"),
        (("train.py",), None, "gradient accumulation over 8 micro-batches in the script", "8 processes for each DataLoader of the script (num_workers)"),
    ],
)  # fmt: skip
def test_advice_names_the_users_own_settings(
    command: tuple[str, ...], config: str | None, accumulation: str, workers: str
) -> None:
    places = find_places(command, config)
    assert (places.accumulation.format(8), places.workers.format(8)) == (accumulation, workers)


@pytest.mark.parametrize(
    ("exception", "lacks"),
    [
        ("ModuleNotFoundError: No module named 'einops'", True), ("ImportError: cannot import name 'x' from 'y'", True),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'", True),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'there.txt'", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/mnt/nas/train.bin'", False),
        ("FileNotFoundError: [WinError 3] The system cannot find the path specified: 'a\\\\b'", True),
        ("FileNotFoundError: a word of the script's own", False), ("ValueError: 2 ranks at least", False), ("", False),
    ],
)  # fmt: skip
def test_only_packages_and_paths_of_the_project_are_lacking(tmp_path: Path, exception: str, lacks: bool) -> None:
    (tmp_path / "there.txt").write_text("")
    assert lacks_something(exception, tmp_path) == lacks


def test_an_exception_is_read_as_torch_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    assert trial_exception(file) == ""
    for text, expected in (
        ('{"message": {"message": "ValueError: no", "extraInfo": {}}}', "ValueError: no"),
        ('{"message": "SystemExit: 1"}', "SystemExit: 1"), ("[]", ""), ('{"message": [1]}', ""),
    ):  # fmt: skip
        file.write_text(text)
        assert trial_exception(file) == expected


def test_of_hosts_of_one_kind_the_slowest_counts_and_what_all_lack_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rehearsal = Rehearsal(Plan(run="r", command=("x.py",), hosts=pcs(1, 1, 1, 1)), "token")
    lacking = {"exception": "ModuleNotFoundError: No module named 'einops'", "lacks": True}
    asked: list[str] = []

    def ask_all(_peers: object, operation: str, given: dict[str, object], _seconds: float) -> object:
        asked.extend([operation, *given])
        answers = {"pc1": TRIAL, "pc2": {**TRIAL, "micro_batch_seconds": 0.2}, "pc3": lacking, "pc4": lacking}
        return answers, {}

    monkeypatch.setattr("winfleet.rehearsal.controller.ask_all", ask_all)
    found = rehearsal.trials(5)
    assert asked == ["trial", "pc1", "pc2", "pc3", "pc4"]
    assert found["CPU"].micro_batch_seconds == 0.2
    assert [(problem.where, problem.check) for problem in checks.check_trials(rehearsal.lacking)] == [
        ("pc3, pc4", "command")
    ]
    monkeypatch.setattr(
        "winfleet.rehearsal.controller.ask_all",
        lambda *_: ({"pc1": {**lacking, "lacks": False}}, {"pc2": RefusedError("no time")}),
    )
    rehearsal.lacking.clear()
    assert rehearsal.trials(5) == {}
    assert rehearsal.lacking == []
    said = "no prediction, the command was tried alone:"
    assert set(rehearsal.notes) == {f"pc1: {said} {lacking['exception']}", f"pc2: {said} no time"}


def test_a_package_that_no_host_has_is_an_error_before_any_rank_exists(fleet: Fleet, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(
        'import sys\nprint("50%|###", end="\\r", file=sys.stderr)\nimport einops_of_nobody\n'
    )
    done = fleet.play(
        "deploy_and_train.yml", f"fleet_project={project}", "fleet_command=train.py", "fleet_run=lacks", "fleet_rehearsal=true"
    )  # fmt: skip
    assert done.returncode != 0
    text = "the command was tried, and ended with ModuleNotFoundError: No module named 'einops_of_nobody'"
    assert f"worker1, worker2: {text}\n  hint: put the package into your project's lock" in done.stdout
    assert not list(tmp_path.glob("worker*/runs/lacks/rank*"))
