"""What may train, judged from what was found: the cases that need GPUs, or many wrong things at once."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPTS
from programs import output_of
from winfleet.preflight.found import Found, read
from winfleet.preflight.judge import Wanted, check_command, check_files, find_problems, runs_going_on, split_command
from winfleet.preflight.problems import CHECKS, FIRM, Problem, error_text, read_names, sort_out


def wanted(**values: Any) -> Wanted:
    defaults: dict[str, Any] = {
        "project": SCRIPTS, "command": "bare.py", "data": None, "config": None, "run": "", "free_disk_gb": 2.0,
        "processes": {},
    }  # fmt: skip
    return Wanted(**{**defaults, **values})


def found(**values: Any) -> Found:
    """What a host tells on which nothing is wrong."""
    return read({
        "address": "10.0.0.1", "address_error": "", "writable": True, "home": "/h", "disk_free_gb": 9.5, "gpus": [],
        "ports_taken": {}, "going_on": [], **values,
    })  # fmt: skip


TWO = [{"name": "A"}, {"name": "A"}]

# In a process of its own: Ansible replaces sys.intern, which torch then refuses to be imported with.
AS_TYPED = """
import importlib.util, json, sys

spec = importlib.util.spec_from_file_location("winfleet_check", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps([module.as_typed(tuple(extra_vars)) for extra_vars in json.load(sys.stdin)]))
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train.py --epochs 3", ["train.py", "--epochs", "3"]),
        ("python train.py", ["train.py"]),
        ("python3 -m a.b 'c d'", ["-m", "a.b", "c d"]),
        ('train.py --name "내 실험"', ["train.py", "--name", "내 실험"]),
        ("train.py python", ["train.py", "python"]),
        ("", []),
    ],
)
def test_a_command_is_split_as_a_shell_does(command: str, words: list[str]) -> None:
    assert split_command(command) == words


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("-m package.module --x", None),
        ("python -m anything.installed", None),
        ("package/module.py", None),
        ("-m", "fleet_command is empty"),
        ("python", "fleet_command is empty"),
        ("  ", "fleet_command is empty"),
        ("bare.py 'open", 'fleet_command "bare.py \'open": No closing quotation'),
        ("package", f"fleet_command: no script package in {SCRIPTS}"),
    ],
)
def test_a_command_names_a_script_or_a_module(command: str, message: str | None) -> None:
    problems = list(check_command(wanted(command=command)))
    assert [problem.what for problem in problems] == ([] if message is None else [message])
    assert all('-e fleet_command="train.py --epochs 3"' in problem.hint for problem in problems)


def test_a_command_is_taken_whole_as_it_was_typed() -> None:
    cases: list[tuple[list[str], str]] = [
        (["fleet_command=train.py --epochs 3"], "train.py --epochs 3"),
        (["fleet_command=train.py --a 'b c' fleet_run=r"], "train.py --a 'b c'"),
        (["fleet_run=r fleet_command=train.py --epochs 3"], "train.py --epochs 3"),
        (["fleet_command=a.py --x=fleet_run=r"], "a.py --x=fleet_run=r"),
        (["fleet_command=a.py", "fleet_run=r", "fleet_command=b.py --c 1"], "b.py --c 1"),
        (["fleet_command='a.py --b c'"], ""),
        (['{"fleet_command": "a.py --b c"}', "@file.yml", "other_fleet_command=a.py --b"], ""),
        ([], ""),
    ]
    given = json.dumps([extra_vars for extra_vars, _ in cases])
    printed = output_of(sys.executable, "-c", AS_TYPED, "plugins/action/winfleet_check.py", given=given)
    assert json.loads(printed) == [command for _, command in cases]


def test_no_more_ranks_than_gpus() -> None:
    hosts = {"pc1": found(gpus=TWO), "pc2": found(address="10.0.0.2", gpus=TWO), "pc3": found(address="10.0.0.3")}  # fmt: skip
    problems = find_problems(hosts, {}, wanted(processes={"pc1": 3, "pc2": 2, "pc3": 8}))
    assert [str(problem) for problem in problems if not problem.warning] == [
        "pc1: fleet_processes is 3, but it has 2 GPUs\n  hint: set it to 2 or less"
    ]


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "bad.yaml").write_text("a: [")
    asked = wanted(
        project=tmp_path / "none", data=tmp_path / "data", config=tmp_path / "bad.yaml", run="a/b", processes={"pc2": -1}
    )  # fmt: skip
    hosts = {
        "pc2": found(writable=False, disk_free_gb=0.5, ports_taken={"29502": "nginx (pid 7)"}),
        "pc3": found(address_error="Cannot assign requested address"),
    }
    problems = find_problems(hosts, {"pc1": "did not answer: no route"}, asked)
    assert [problem.where for problem in problems] == ["controller"] * 4 + ["pc1"] + ["pc2"] * 4 + ["pc3", "inventory"]
    said = "\n".join(map(str, problems))
    for text in (
        "fleet_run 'a/b' is not a run name", "fleet_project: no folder ", "data is empty", "bad.yaml is no valid YAML",
        "did not answer: no route", "fleet_home /h cannot be written", "0.5 GB free below /h, 2 GB wanted",
        "fleet_processes is -1", "port 29502 (status) on 10.0.0.1 is taken by nginx (pid 7)",
        "10.0.0.1 is not one of its own addresses", "hosts pc2 and pc3 have the same address 10.0.0.1",
    ):  # fmt: skip
        assert text in said
    assert said.count("\n  hint: ") == len(problems)


def test_nothing_wrong_is_no_problem() -> None:
    hosts = {
        "pc1": found(),
        "연구실": found(address="10.0.0.2", gpus=TWO[:1], ports_taken={"29500": "x"}, going_on=["r"]),
    }
    assert find_problems({"연구실": hosts["연구실"]}, {}, wanted(run="r", processes={"연구실": 1})) == []
    assert runs_going_on(hosts) == {"r": ["연구실"]}


@pytest.mark.parametrize(
    ("code", "message"),
    [("def load(path): raise ValueError('line 3\\nhint: remove it')", "controller: line 3\n  hint: remove it"),
     ("def load(path): raise ValueError('line 3')", "controller: line 3\n  hint: correct the file"),
     ("def load(path): path.read_text()", "")],
)  # fmt: skip
def test_a_project_judges_its_configuration_itself(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "train_config.py").write_text(code)
    (tmp_path / "train.py").touch()
    (tmp_path / "config").write_text("no: [yaml")
    problems = list(check_files(wanted(project=tmp_path, command="train.py", config=tmp_path / "config")))
    assert "\n".join(map(str, problems)) == message


@pytest.mark.parametrize(
    ("given", "names"),
    [([], []), ("", []), (None, []), ("disk", ["disk"]), ("disk, power", ["disk", "power"]), (["disk"], ["disk"]), (7, ["7"])],
)  # fmt: skip
def test_names_of_checks_come_as_a_list_or_as_a_text(given: object, names: list[str]) -> None:
    assert read_names(given) == names


def test_a_named_check_warns_and_says_that_it_was_let_pass() -> None:
    hosts = {"pc1": found(disk_free_gb=0.5, ports_taken={"29502": "nginx (pid 7)"})}
    asked = wanted(warnings=["disk"])
    stopping, lines = sort_out(find_problems(hosts, {}, asked), asked.warnings)
    assert [(problem.where, problem.check) for problem in stopping] == [("pc1", "ports")]
    assert lines == [
        (
            "warning: pc1: 0.5 GB free below /h, 2 GB wanted (fleet_warnings lets `disk` pass)\n"
            "  hint: make room there, set fleet_home to another disk, or lower fleet_free_disk_gb"
        )
    ]
    assert error_text(stopping).endswith("\nTo go on in spite of that: -e fleet_warnings=ports")


def test_an_unknown_name_and_one_that_stays_an_error_are_refused() -> None:
    problems = find_problems({"pc1": found()}, {}, wanted(warnings=["disc", "reachable", "disk"]))
    assert [problem.what for problem in problems] == [
        "fleet_warnings: no check 'disc'", "fleet_warnings: the check 'reachable' stays an error",
    ]  # fmt: skip
    assert all(problem.hint == f"the names are {', '.join(CHECKS)}" for problem in problems)
    assert "To go on" not in error_text(problems)


def test_what_is_only_a_warning_never_stops_and_a_check_has_a_known_name() -> None:
    problem = Problem(where="pc1", what="is slow", hint="use a cable", check="adapter", warning=True)
    assert sort_out([problem], []) == ([], ["warning: pc1: is slow\n  hint: use a cable"])
    assert not set(CHECKS) & set(FIRM)
    with pytest.raises(ValueError, match="no check 'cable'"):
        Problem(where="pc1", what="is slow", hint="use a cable", check="cable")
