"""What is refused, by the playbooks as a user types them, before anything is changed."""

import json
import os
import re
import socket
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SCRIPTS, Fleet
from uv import find_uv_bin
from winfleet.core.plan import newest_run
from winfleet.environments.lock import read_lock

pytestmark = pytest.mark.ansible


@pytest.mark.proof
def test_without_deploying_a_worker_that_lacks_something_is_refused_by_name(fleet: Fleet) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = read_lock(SCRIPTS, ROOT / "train", find_uv_bin(), version, "auto")["digest"]
    short = "fleet_command=bare.py --steps 2"
    refused = fleet.play("deploy_and_train.yml", short, "fleet_skip_deploy=true")
    assert refused.returncode != 0
    assert (
        "error: worker2: agent, code of this controller is not there, and nothing is sent with fleet_skip_deploy"
        in refused.stdout
    )
    assert not (fleet.folder / "worker1").exists(), "nothing is changed"

    assert fleet.play("deploy_and_train.yml", short, "fleet_run=first").returncode == 0, "code and agent are there"
    fleet.variables.update(uv_env_python="", uv_env_python_version=version)
    marks = [fleet.home(host) / "env" / wanted[:12] / "winfleet.json" for host in fleet.hosts]
    for mark in marks:
        venv.create(mark.parent, symlinks=True)
        packages = next(mark.parent.glob("lib/python*/site-packages"))
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
        mark.write_text(json.dumps({"digest": wanted}), "utf-8")
    started = fleet.play("deploy_and_train.yml", short, "--tags=train", "fleet_run=second")
    assert started.returncode == 0, started.stdout
    assert "Send what the host lacks" not in started.stdout
    assert (fleet.logs / "second" / "report.html").exists()

    elsewhere = fleet.play("deploy_and_train.yml", short, "fleet_run=second", f"fleet_logs={fleet.folder / 'other'}")
    assert "error: run second is there on the hosts, but here is no " in elsewhere.stdout

    marks[1].write_text(json.dumps({"digest": "7" * 64}), "utf-8")
    refused = fleet.play("deploy_and_train.yml", short, "--tags=train", "fleet_run=third")
    assert refused.returncode != 0
    assert (
        f"error: worker2: its environment is of the lock 777777777777, this controller's lock is {wanted[:12]}; "
        "none is made with fleet_skip_deploy\nhint: run deploy_and_train.yml without it once" in refused.stdout
    ), refused.stdout
    assert "worker1: its environment" not in refused.stdout
    assert not (fleet.home("worker1") / "runs" / "third").exists()


def test_check_mode_of_the_whole_deployment_changes_nothing(fleet: Fleet) -> None:
    done = fleet.play("deploy_and_train.yml", "fleet_command=bare.py", "fleet_run=check", "--check")
    assert done.returncode == 0, done.stdout
    assert "worker1: Start the launcher" in done.stdout, "what would be done is said"
    assert not (fleet.folder / "worker1").exists()
    assert not fleet.logs.exists()


def files_below(*folders: Path) -> dict[Path, int]:
    """Every file there, with the time of its last change (ns)."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.stat().st_mtime_ns for path in files}  # but for what any Python keeps of what it has read


def test_preflight_by_itself_says_what_is_wrong_and_changes_nothing(fleet: Fleet) -> None:
    words = ("fleet_command=bare.py --steps 50", "fleet_rehearsal=true", "fleet_rehearsal_steps=3")
    homes = [fleet.home(host) for host in fleet.hosts]
    new = fleet.play("preflight.yml", *words)
    assert new.returncode == 0, new.stdout
    assert re.search(r"^Python  .*: worker1 worker2$", new.stdout, re.MULTILINE)
    assert "Not deployed: worker1 lacks agent, code; worker2 lacks agent, code\n" in new.stdout
    assert not fleet.logs.exists()
    assert files_below(*homes) == {}

    assert fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 2", "fleet_run=first").returncode == 0
    deployed = files_below(*homes)
    good = fleet.play("preflight.yml", *words)
    assert good.returncode == 0, good.stdout
    assert re.search(r"^ +worker2 -> worker1 +\d+ +[0-9.]+$", good.stdout, re.MULTILINE)
    assert re.search(r"^  this run: [0-9.]+ samples/s", good.stdout, re.MULTILINE)
    assert not re.search(r"^(error|  worker\d): ", good.stdout, re.MULTILINE), "no problem, and no change"
    assert files_below(*homes) == deployed
    assert not (fleet.logs / "preflight" / "plan.json").exists()

    measured = fleet.play("bench.yml", *words)
    assert measured.returncode == 0, measured.stdout
    table = re.findall(r"^ +(\d+) +\d+ +[0-9.]+ +[0-9.]+x .* ([0-9.]+x)$", measured.stdout, re.MULTILINE)
    assert table == [("1", "1x"), ("4", "3.5x"), ("8", "6.5x"), ("16", "12x")], measured.stdout
    assert newest_run(fleet.logs) == fleet.logs / "first", "what only measures is no run"

    (code,) = (fleet.home("worker2") / "code").iterdir()
    (code / "bare.py").write_text("print('another program')\n")
    deployed = files_below(*homes)
    odd = fleet.play("preflight.yml", *words)
    assert odd.returncode != 0
    assert re.search(
        rf"^error: worker2: code/{code.name} there has the digest [0-9a-f]{{12}}, not what was sent\n"
        rf"  hint: remove code/{code.name} below fleet_home of worker2 and deploy again",
        odd.stdout, re.MULTILINE,
    ), odd.stdout  # fmt: skip

    fleet.hosts["worker1"]["fleet_processes"] = -1
    with socket.create_server(("127.0.0.2", 29502)):
        bad = fleet.play("preflight.yml", *words)
    assert bad.returncode != 0
    assert re.search(r"^Python  .*: worker1 worker2$", bad.stdout, re.MULTILINE)
    problems = re.findall(r"^(?:error: )?(worker\d: .+)\n  hint: .+$", bad.stdout, re.MULTILINE)
    assert [line.partition(" on ")[0] for line in problems] == [
        "worker1: fleet_processes is -1", "worker2: port 29502 (status)",
    ]  # fmt: skip
    assert files_below(*homes) == deployed


# settings of all, settings of hosts, the text of a configuration, what is said
WRONG: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], str, list[str | re.Pattern[str]]]] = {
    "files and hosts": (
        {
            "fleet_project": "/nowhere", "fleet_data": "/nowhere", "fleet_config": "/nowhere.yaml", "fleet_run": "a b/c",
            "fleet_free_disk_gb": 10_000_000, "fleet_processes": -1,
        },
        {
            "worker1": {"fleet_address": "192.0.2.7"}, "worker2": {"fleet_address": "no.such.name.invalid"},
            "worker3": {"ansible_connection": "ssh", "ansible_host": "127.0.0.3", "ansible_port": 9},
        },
        "",
        [
            "controller: fleet_run 'a b/c' is not a run name\n  hint: use letters, digits, '.', '_' and '-', 64 at most",
            "controller: fleet_project: no folder /nowhere\n  hint: give the folder that holds your script: -e fleet_project=PATH",
            "controller: fleet_data: no folder /nowhere\n  hint: give the folder of your data: -e fleet_data=PATH",
            "controller: fleet_config: /nowhere.yaml: No such file or directory\n  hint: give a file that can be read",
            # ssh says "refused", unless the program that feeds it notices first that it has ended
            re.compile(r"worker3: did not answer: .*\[(refused|ssh-unreachable)\]"),
            "worker1: 192.0.2.7 is not one of its own addresses (Cannot assign requested address)",
            "10000000 GB wanted\n  hint: make room there, set fleet_home to another disk, or lower fleet_free_disk_gb",
            "worker1: fleet_processes is -1\n  hint: 0 for one a GPU, or a number from 1 on",
            "worker2: its fleet_address resolves to nothing\n  hint: set fleet_address of worker2 to an IPv4 address",
        ],
    ),
    "script and addresses": (
        {"fleet_command": "absent.py --x", "fleet_address": "127.0.0.1"}, {"worker2": {"fleet_home": "/proc/winfleet"}},
        "training: [unclosed",
        [
            f"controller: fleet_command: no script absent.py in {SCRIPTS}\n  hint: fleet_command is a script of the project",
            "bad.yaml is no valid YAML: ",
            re.compile(rf"worker1: port 29502 \(status\) on 127.0.0.1 is taken by \S+ \(pid {os.getpid()}\)"),
            re.compile(r"worker2: .*(cannot be written|GB free below /proc)"),
            "inventory: hosts worker1 and worker2 have the same address 127.0.0.1\n  hint: give worker2 its own fleet_address",
        ],
    ),
    "settings": (
        {"fleet_project": str(ROOT / "train"), "fleet_command": "train.py --config {config}"}, {},
        "training: {batch_sise: 4}",
        ["bad.yaml`: `training.batch_sise` is not a setting\n  hint: did you mean `batch_size`?"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "hosts", "config", "messages"), WRONG.values(), ids=WRONG.keys())
def test_all_bad_input_is_one_error_before_anything_is_changed(
    fleet: Fleet,
    settings: dict[str, Any],
    hosts: dict[str, dict[str, Any]],
    config: str,
    messages: list[str | re.Pattern[str]],
) -> None:
    if config:
        (fleet.folder / "bad.yaml").write_text(config)
        fleet.variables["fleet_config"] = str(fleet.folder / "bad.yaml")
    fleet.variables.update({"fleet_command": "bare.py", **settings})
    for name, values in hosts.items():
        fleet.hosts.setdefault(name, {}).update(values)
    with socket.create_server(("127.0.0.1", 29502)):
        done = fleet.play("deploy_and_train.yml")
    assert done.returncode != 0
    patterns = [re.escape(message) if isinstance(message, str) else message for message in messages]
    assert [pattern for pattern in patterns if not re.search(pattern, done.stdout)] == [], done.stdout
    assert done.stdout.count("error: ") == 1
    assert not (fleet.folder / "worker1").exists()


def test_an_empty_inventory_is_one_error(fleet: Fleet) -> None:
    fleet.hosts = {}
    done = fleet.play("deploy_and_train.yml")
    assert done.returncode != 0
    assert f"error: no hosts in the group `workers` of {fleet.inventory}" in done.stdout
