"""What holds for the whole repository: roles and their documents, the lock, the order of variables, and text files."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from programs import in_git, output_of

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOKS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.yml", "playbooks/*.yml", "molecule/*/converge.yml", "molecule/*/verify.yml")
    for path in ROOT.glob(pattern)
)
TYPES: dict[str, type] = {each.__name__: each for each in (str, int, bool, float, list, dict)} | {
    "path": str,
    "raw": object,
}

# Given to a real ansible-playbook that has no task to run: a line for each play, with the variables of each host.
CALLBACK = """
import json
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "stdout", "resolved"

    def v2_playbook_on_start(self, playbook):
        self.file = playbook._file_name

    def v2_playbook_on_play_start(self, play):
        manager = play.get_variable_manager()
        for host in manager._inventory.get_hosts(play.hosts):
            values = manager.get_vars(play=play, host=host)
            found = {name: value for name, value in values.items() if name.startswith("fleet_")}
            print(json.dumps({"file": self.file, "host": host.name, "values": found}))

    def v2_playbook_on_task_start(self, task, is_conditional):
        print("a task runs:", task)
"""


def test_tests_ask_ansible_in_processes_of_its_own() -> None:
    """It replaces sys.intern, and torch cannot be imported after that."""
    assert "ansible" not in sys.modules


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_documents_every_default(role: str) -> None:
    defaults = read_yaml(f"roles/{role}/defaults/main.yml")
    options = read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert list(options) == list(defaults), "in the same order"
    for name, option in options.items():
        assert name.startswith(f"{role}_")
        assert option["description"].endswith("."), name
        expected = option["type"]
        if option.get("no_log"):
            assert "default" not in option, f"{name}: what is never shown is not repeated"
            continue
        assert option["default"] == defaults[name], name
        assert type(option["default"]) is TYPES[expected] or "{{" in str(option["default"]), name
        assert option["default"] in option.get("choices", [option["default"]]), name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_explains_every_default_and_is_proved(role: str) -> None:
    lines = (ROOT / "roles" / role / "defaults" / "main.yml").read_text("utf-8").splitlines()
    bare = [
        line for above, line in zip(["", *lines], lines, strict=False) if re.match(r"\w+:", line) and above[:2] != "# "
    ]
    assert bare == []
    wanted = [f"roles/{role}/README.md", f"roles/{role}/tasks/main.yml"]
    wanted += [f"molecule/{role}/{name}.yml" for name in ("molecule", "converge", "verify")]
    assert [path for path in wanted if not (ROOT / path).is_file()] == []


def uv(*words: str) -> str:
    return output_of(Path(sys.executable).with_name("uv"), *words, environment={"UV_OFFLINE": "1"})


def test_the_lock_fits_the_project_and_the_constraints_are_the_lock() -> None:
    uv("lock", "--project", "train", "--check")
    export = re.search(r"\$\(BIN\)/uv (export .*) -o (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert export is not None
    given = (ROOT / export[2]).read_text("utf-8").splitlines()
    assert [line for line in given if not line.startswith("#")] == uv(*shlex.split(export[1])).splitlines()


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The variables of every host in every play of every playbook, with settings in all places of an inventory."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "resolved.py").write_text(CALLBACK, "utf-8")
    (folder / "group_vars").mkdir()
    (folder / "group_vars" / "all.yml").write_text("fleet_fetch_limit_mb: 66\n")
    (folder / "group_vars" / "workers.yml").write_text("fleet_free_disk_gb: 77\n")
    workers = {"hosts": {"pc1": {}, "pc2": {"fleet_processes": 3}}, "vars": {"fleet_home": "/of/the/inventory"}}
    (folder / "hosts.yml").write_text(json.dumps({"all": {"vars": {"fleet_run": "of-all"}}, "workers": workers}))
    words: tuple[str | Path, ...] = ("-i", folder / "hosts.yml", "--tags", "no_task_has_this_tag", *PLAYBOOKS)
    settings = {"ANSIBLE_CALLBACK_PLUGINS": str(folder / "plugins"), "ANSIBLE_STDOUT_CALLBACK": "resolved"}
    shown = output_of("ansible-playbook", *words, environment=settings)
    assert "a task runs" not in shown
    return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_an_inventory_wins_over_our_defaults_from_every_playbook(playbook: str, resolved: list[dict[str, Any]]) -> None:
    defaults = read_yaml("group_vars/all.yml")
    of_inventory = {
        "fleet_home": "/of/the/inventory", "fleet_run": "of-all", "fleet_free_disk_gb": 77, "fleet_fetch_limit_mb": 66,
    }  # fmt: skip
    assert set(of_inventory) < set(defaults)
    plays = [line for line in resolved if line["file"] == playbook and line["host"] != "localhost"]
    controller_alone = playbook in ("add_workers.yml", "playbooks/settings.yml")
    assert {line["host"] for line in plays} == (set() if controller_alone else {"pc1", "pc2"})
    own = {"fleet_run": ""} if playbook == "prove.yml" else {}  # it trains what is ours, whatever the user trains
    for line in plays:
        processes = {"fleet_processes": 3} if line["host"] == "pc2" else {}
        expected = {**defaults, **of_inventory, **processes}
        assert line["values"] in (expected, {**expected, **own})


def test_windows_workers_have_a_home_of_their_own_unless_the_inventory_says_another(tmp_path: Path) -> None:
    hosts = {"pc1": {"ansible_host": "192.0.2.1"}, "pc2": {"ansible_host": "192.0.2.2", "fleet_home": "D:/winfleet"}}
    groups = {"workers": {"hosts": {**hosts, "linux": {}}}, "windows": {"hosts": {"pc1": {}, "pc2": {}}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(groups))
    listed = output_of("ansible-inventory", "-i", tmp_path / "hosts.yml", "--playbook-dir", "playbooks", "--list")
    homes = {host: values["fleet_home"] for host, values in json.loads(listed)["_meta"]["hostvars"].items()}
    assert homes == {"pc1": "C:\\winfleet", "pc2": "D:/winfleet", "linux": "~/.winfleet"}


@pytest.fixture(scope="module")
def tracked() -> dict[str, bytes]:
    """Every file in git, links left out."""
    paths = [ROOT / name for name in in_git()]
    return {
        str(path.relative_to(ROOT)): path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()
    }


def test_text_files_are_tidy(tracked: dict[str, bytes]) -> None:
    assert len(tracked) > 50
    ends = (".sh", ".ps1", ".py", ".yml", ".yaml", ".md", ".toml", ".cfg", ".j2")
    assert [name for name, text in tracked.items() if name.endswith(ends) and text and not text.endswith(b"\n")] == []
    assert [name for name, text in tracked.items() if name.endswith((".yml", ".yaml")) and b"\t" in text] == []
    scripts = {name: text for name, text in tracked.items() if name.endswith(".ps1") and not text.isascii()}
    assert [name for name, text in scripts.items() if not text.startswith(b"\xef\xbb\xbf")] == []


def test_no_file_tells_where_it_was_made(tracked: dict[str, bytes]) -> None:
    assert [name for name, text in tracked.items() if re.search(rb"\.\./shared|/[w]ork/", text)] == []
