"""Settings that nobody knows, values that a setting cannot have, and a host whose first Python does not run."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, Fleet
from winfleet.controller.settings import Given, explain_wrong, is_of, read_options

ROLES = read_options(ROOT)
# pyenv's own words for a version that is not chosen.
SHIM = "#!/bin/sh\necho \"pyenv: $(basename $0): command not found\" >&2\necho 'The command exists in these Python versions:' >&2\nexit 127\n"


def wrong(name: str, value: Any = 1) -> str:
    return "\n".join(explain_wrong([Given(name=name, value=value, where="-e")], ROLES))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fleet_proccesses", "fleet_processes"), ("fleet_comand", "fleet_command"), ("fleet_adress", "fleet_address"),
        ("uv_env_pyhton", "uv_env_python"), ("fleet_prozesses", "fleet_processes"), ("fleet_torch_backend", "uv_env_torch_backend"),
        ("launch_log_on", "launch_logon"), ("Fleet_run", "fleet_run"), ("data_sync_folder", "data_sync_folders"),
        ("accelerate_config_maxrestarts", "accelerate_config_max_restarts"), ("power_plan_guide", "power_plan_guid"),
        ("winrm_setup_memory", "winrm_setup_memory_mb"), ("firewall_worker", "firewall_workers"),
        ("fleet_xyz", ""),
    ],
)  # fmt: skip
def test_a_name_that_nobody_knows_is_refused_with_the_nearest_one(name: str, meant: str) -> None:
    said = wrong(name)
    assert said.startswith(f"-e: {name} is no setting of winfleet\n  hint: ")
    assert f"is {meant} meant?" in said if meant else "remove it." in said


@pytest.mark.parametrize("name", ["molecule_place", "lab_state", "ansible_host", "__fleet_x", "batch_size", "launched"])
def test_names_that_are_not_ours_are_let_pass(name: str) -> None:
    assert wrong(name) == ""


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("fleet_processes", "zwei", "a whole number"), ("fleet_processes", 2.5, "a whole number"),
        ("fleet_processes", True, "a whole number"), ("fleet_processes", None, "a whole number"),
        ("fleet_stuck_seconds", -1, "a whole number from 0 up"), ("fleet_rehearsal_steps", "-3", "a whole number from 0 up"),
        ("fleet_free_disk_gb", "much", "a number"), ("fleet_free_disk_gb", "nan", "a number"),
        ("fleet_answer_seconds", 0, "a number from 1 up"), ("winrm_setup_renew_days", -2, "a whole number from -1 up"),
        ("fleet_rehearsal", "maybe", "true or false"), ("fleet_follow", 2, "true or false"),
        ("fleet_command", ["train.py"], "a text"), ("fleet_secrets", "A,B", "a list, as -e '{\"fleet_secrets\": "),
        ("fleet_secrets", [{"A": 1}], "a list"), ("uv_env_secrets", ["HTTPS_PROXY", "A-B"], "names of environment variables, as HTTPS_PROXY; 'A-B'"), ("fleet_environment", "A=1", "names with values, as -e '{\"fleet_environment\": "),
        ("fleet_state", "gone", "one of present, absent"), ("accelerate_config_mixed_precision", False, 'one of "no", fp16'),
        ("uv_env_python_version", 3.1, '"3.11" or newer, in quotes'), ("uv_env_torch_backend", "cuda", "auto, cpu, or a build"),
        ("fleet_gradients", "bf16", "fp32 or fp16"), ("fleet_average_every", 1, "2 or more optimizer steps, auto, or 0"),
        ("fleet_average_every", -8, "2 or more optimizer steps, auto, or 0"), ("fleet_average_every", "often", "a whole number"),
        ("fleet_average_every", 2.5, "a whole number"), ("fleet_average_bits", 7, "32, 16, 8, 4"),
        ("accelerate_config_average_bits", "x", "a whole number"), ("fleet_average_outer", [3, 0.5], "a learning rate above 0"),
        ("fleet_average_outer", "1,1", "a learning rate above 0"), ("fleet_average_outer", [1], "two numbers, as [1.0, 0.5]"),
        ("fleet_average_outer", None, "two numbers, as [1.0, 0.5]"),
    ],
)  # fmt: skip
def test_a_value_that_a_setting_cannot_have_is_refused_with_what_it_can_have(
    name: str, value: Any, wanted: str
) -> None:
    what, _, hint = wrong(name, value).partition("\n  hint: give ")
    assert what == f"-e: {name} is {'empty' if value is None else repr(value)}, which it cannot be"
    assert hint.startswith(wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fleet_processes", "7"), ("fleet_processes", 0), ("fleet_free_disk_gb", "0.5"), ("fleet_follow", "no"), ("fleet_data", None),
        ("fleet_run", 20261129), ("fleet_warnings", "disk,power"), ("fleet_warnings", ["disk"]), ("fleet_environment", {"A": 1}),
        ("uv_env_python_version", 3.12), ("uv_env_torch_backend", "cu130"), ("uv_env_torch_backend", ""), ("winrm_setup_renew_days", -1),
        ("fleet_average_every", "32"), ("fleet_average_every", "auto"), ("fleet_average_every", 0), ("fleet_average_bits", "4"), ("fleet_average_outer", "0.7, 0.9"),
        ("fleet_average_outer", [1.0, 0]), ("fleet_gradients", "fp16"),
    ],
)  # fmt: skip
def test_a_value_that_a_setting_can_have_is_let_pass(name: str, value: Any) -> None:
    assert wrong(name, value) == ""


def test_a_secret_is_not_shown() -> None:
    assert "hunter2" not in wrong("launch_secrets", ["hunter2"])
    assert "-e: launch_secrets has a value that it cannot be\n" in wrong("launch_secrets", ["hunter2"])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"UV_HTTP_TIMEOUT": 600}, 'the value of UV_HTTP_TIMEOUT as a text in quotes, as UV_HTTP_TIMEOUT: "1"'),
        ({"A": "1", "UV_SYSTEM_CERTS": True}, "the value of UV_SYSTEM_CERTS as a text"), ({"SSL_CERT_FILE": None}, "the value of SSL_CERT_FILE as"),
        ({"HTTPS PROXY": "http://me:hunter2@p"}, "names of environment variables, as HTTPS_PROXY; 'HTTPS PROXY' is none"),
        ("HTTPS_PROXY=http://me:hunter2@p", "names with values, as -e '{\"uv_env_environment\": "),
    ],
)  # fmt: skip
def test_variables_of_uv_are_names_with_texts_and_their_values_are_not_shown(value: Any, wanted: str) -> None:
    said = wrong("uv_env_environment", value)
    assert said.startswith(f"-e: uv_env_environment has a value that it cannot be\n  hint: give {wanted}")
    assert "hunter2" not in said
    assert wrong("uv_env_environment", {"https_proxy": "http://p:8080", "UV_HTTP_TIMEOUT": "{{ seconds }}"}) == ""


def test_the_settings_of_a_user_have_a_type_each_and_their_defaults_fit() -> None:
    defaults = yaml.safe_load((ROOT / "group_vars" / "all.yml").read_text("utf-8"))
    assert list(ROLES["fleet"]) == list(defaults), "in the same order"
    for name, value in defaults.items():
        assert "{{" in str(value) or is_of(ROLES["fleet"][name]["type"], value), name


@pytest.mark.parametrize("playbook", sorted(path.name for path in ROOT.glob("*.yml")))
def test_every_command_checks_the_settings_first(playbook: str) -> None:
    path = ROOT / playbook
    while path.name != "settings.yml":
        first = yaml.safe_load(path.read_text("utf-8"))[0]
        path = path.parent / first["ansible.builtin.import_playbook"]
    assert path == ROOT / "playbooks" / "settings.yml"


def test_each_is_named_with_where_it_stands_and_nothing_is_asked(fleet: Fleet) -> None:
    fleet.hosts["worker1"] |= {
        "fleet_adress": "10.0.0.1",
        "ansible_connection": "ssh",
    }  # nobody is asked, so it is not missed
    fleet.variables |= {"uv_env_pyhton": "x", "fleet_stuck_seconds": "{{ 'soon' }}"}
    (fleet.folder / "host_vars").mkdir()
    (fleet.folder / "host_vars" / "worker2.yml").write_text("molecule_place: here\n\nfleet_processes: two\n")
    (fleet.folder / "group_vars").mkdir()
    (fleet.folder / "group_vars" / "all.ini.yml").write_text("{}")
    (fleet.folder / "group_vars" / "workers.yml").write_text("fleet_prozesses: 3\n")
    (fleet.folder / "more.yml").write_text("fleet_loggs: x\n")
    command = "fleet_command=train.py launch_mode=fast fleet_comand=x"  # launch_mode is the script's own word
    done = fleet.play("status.yml", command, f"@{fleet.folder}/more.yml")
    assert done.returncode != 0
    said, lines = done.stdout, fleet.inventory.read_text("utf-8").splitlines()

    def line_of(name: str) -> int:
        return next(number for number, line in enumerate(lines, 1) if name in line)

    for where, what in (
        ("-e", "fleet_comand is no setting"),
        ("more.yml:1 (-e)", "fleet_loggs is no setting"),
        ("group_vars/workers.yml:1 (workers)", "fleet_prozesses is no setting"),
        (f"hosts.yml:{line_of('fleet_stuck_seconds')} (workers)", "fleet_stuck_seconds is 'soon', which"),
        (f"hosts.yml:{line_of('fleet_adress')} (worker1)", "fleet_adress is no setting"),
        ("host_vars/worker2.yml:3 (worker2)", "fleet_processes is 'two', which"),
    ):
        assert f"{where}: {what}" in said, said
    assert "(workers): uv_env_pyhton is no setting of winfleet\n  hint: is uv_env_python meant?" in said
    assert "launch_mode" not in said
    assert said.count("\n  hint: ") == 7


def put_shims(folder: Path) -> Path:
    folder.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(8, 15))):
        (folder / name).write_text(SHIM)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="this machine has no system Python")
def test_a_host_whose_first_python_does_not_run_is_asked_by_the_systems_own(fleet: Fleet) -> None:
    shims = put_shims(fleet.folder / "shims")
    del fleet.variables["ansible_python_interpreter"]
    done = fleet.play("stop.yml", PATH=f"{shims}{os.pathsep}{ENVIRONMENT['PATH']}")
    assert done.returncode == 0, done.stdout
    assert "worker1: no run is going on" in done.stdout


def test_a_python_that_does_not_run_is_named_in_its_own_words(fleet: Fleet) -> None:
    shims = put_shims(fleet.folder / "shims")
    fleet.variables["ansible_python_interpreter"] = str(shims / "python3.13")
    done = fleet.play("preflight.yml")
    assert done.returncode != 0
    assert (
        f"worker1: its Python {shims}/python3.13 does not run winfleet's modules:\n"
        "  | pyenv: python3.13: command not found\n  | The command exists in these Python versions:\n  hint: name one"
    ) in done.stdout
    del fleet.variables["ansible_python_interpreter"]
    fleet.variables["ansible_interpreter_python_fallback"] = ["python3.12"]
    done = fleet.play("stop.yml", PATH=f"{shims}{os.pathsep}{ENVIRONMENT['PATH']}")
    assert (
        f"worker2: its Python {shims}/python3.12 does not run winfleet's modules:\n  | pyenv: python3.12" in done.stdout
    )
    assert "deserialization" not in done.stdout
