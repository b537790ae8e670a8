"""May these hosts train? Judges what was found on them, together with the run's files and settings. Pure functions."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winfleet.causes import describe_unreachable
from winfleet.folders import FolderError, list_files
from winfleet.names import explain_unholdable
from winfleet.plan import RUN_NAME, PlanError, check_addresses
from winfleet.problems import Problem, check_names

PORT_MEANINGS = {
    "29500": "the ranks' store", "29501": "the launchers' rendezvous", "29502": "status", "29503": "swarm",
    "29504": "link probes",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the user asked for, as paths on the controller."""

    project: Path
    command: str
    data: Path | None  # None: no data is sent, or it is still to be made
    config: Path | None
    run: str  # "" for a new one
    free_disk_gb: float
    processes: Mapping[str, int]  # host -> fleet_processes
    warnings: Sequence[str] = ()  # fleet_warnings: checks that only warn


def find_problems(hosts: Mapping[str, Mapping[str, Any]], wanted: Wanted) -> list[Problem]:
    """All problems at once. `hosts` maps a name to winfleet_host's result, or to {"unreachable": why}."""
    problems = check_names(wanted.warnings) + check_files(wanted) + check_windows_names(hosts, wanted)
    problems += [problem for name, found in hosts.items() for problem in check_host(name, found, wanted)]
    addresses = [(name, str(found["address"])) for name, found in hosts.items() if found.get("address")]
    try:
        check_addresses(addresses)
    except PlanError as error:
        what, _, hint = str(error).partition("\nhint: ")
        problems.append(Problem(where="inventory", check="address", what=what, hint=hint))
    return problems


def runs_going_on(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Run -> hosts on which it is going on."""
    found: dict[str, list[str]] = {}
    for name, host in hosts.items():
        for run in host.get("going_on", ()):
            found.setdefault(str(run), []).append(name)
    return found


def check_files(wanted: Wanted) -> list[Problem]:
    """What lies on the controller: project, script, data, configuration, and the name of the run."""
    problems: list[Problem] = []

    def add(what: str, hint: str) -> None:
        problems.append(Problem(where="controller", check="settings", what=what, hint=hint))

    if wanted.run and not RUN_NAME.fullmatch(wanted.run):
        add(f"fleet_run {wanted.run!r} is not a run name", "use letters, digits, '.', '_' and '-', 64 at most")
    if not wanted.project.is_dir():
        add(
            f"fleet_project: no folder {wanted.project}",
            "give the folder that holds your script: -e fleet_project=PATH",
        )
    else:
        problems += check_command(wanted)
    if wanted.data is not None and not wanted.data.is_dir():
        add(
            f"fleet_data: no folder {wanted.data}",
            "give the folder of your data: -e fleet_data=PATH, or -e fleet_data= for none",
        )
    elif wanted.data is not None and not any(wanted.data.iterdir()):
        add(f"fleet_data: folder {wanted.data} is empty", "put your data there, or -e fleet_data= for none")
    if wanted.config is not None:
        problems += check_config(wanted.config, wanted.project)
    return problems


def check_windows_names(hosts: Mapping[str, Mapping[str, Any]], wanted: Wanted) -> list[Problem]:
    """File names of code and data that Windows hosts cannot hold."""
    problems = []
    for setting, kind, folder in (("fleet_project", "code", wanted.project), ("fleet_data", "data", wanted.data)):
        if folder is None or not any(found.get("os") == "Windows" for found in hosts.values()):
            continue
        try:
            names = list_files(folder, honour_git=kind == "code")
        except FolderError:  # its digest says so, or check_files() has
            continue
        if why := explain_unholdable(f"{setting} {folder}", kind, names, hosts, wanted.run):
            what, _, hint = why.partition("\nhint: ")
            problems.append(Problem(where="controller", check="settings", what=what, hint=hint))
    return problems


def split_command(command: str) -> list[str]:
    """The words of fleet_command, a leading `python` left out. Raises ValueError where a quote is left open."""
    words = shlex.split(command)
    return words[1:] if words and words[0] in ("python", "python3", "python.exe") else words


def check_command(wanted: Wanted) -> list[Problem]:
    """Whether the command names a script of the project, or a module."""
    hint = (
        'fleet_command is a script of the project and its arguments, for example -e fleet_command="train.py --epochs 3"'
    )
    try:
        words = split_command(wanted.command)
    except ValueError as error:
        return [
            Problem(where="controller", check="settings", what=f"fleet_command {wanted.command!r}: {error}", hint=hint)
        ]
    if not words or (words[0] == "-m" and len(words) == 1):
        return [Problem(where="controller", check="settings", what="fleet_command is empty", hint=hint)]
    if words[0] != "-m" and not (wanted.project / words[0]).is_file():
        what = f"fleet_command: no script {words[0]} in {wanted.project}"
        return [Problem(where="controller", check="settings", what=what, hint=hint)]
    return []


def check_config(config: Path, project: Path) -> list[Problem]:
    """Reads the configuration with the project's own train_config.py where it has one, else as YAML alone."""
    try:
        load_config(config, project)
    except OSError as error:
        what = f"fleet_config: {config}: {error.strerror}"
        return [
            Problem(
                where="controller",
                check="settings",
                what=what,
                hint="give a file that can be read: -e fleet_config=PATH",
            )
        ]
    except ValueError as error:
        what, _, hint = str(error).partition("\nhint: ")
        return [Problem(where="controller", check="settings", what=what, hint=hint or "correct the file")]
    return []


def load_config(config: Path, project: Path) -> None:
    """Raises ValueError (or OSError) where the file is no valid configuration of the project."""
    checker = project / "train_config.py"
    if not checker.is_file():
        import yaml

        try:
            yaml.safe_load(config.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{config} is no valid YAML: {error}") from None
        return
    spec = importlib.util.spec_from_file_location("winfleet_project_config", checker)
    if spec is None or spec.loader is None:
        raise ValueError(f"{checker} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    if hasattr(module, "load"):  # another project's train_config.py may be something else
        module.load(config)


def check_host(name: str, found: Mapping[str, Any], wanted: Wanted) -> list[Problem]:
    """One host by itself."""
    if "unreachable" in found:
        what, _, hint = describe_unreachable(name, str(found["unreachable"])).partition("\n  hint: ")
        return [Problem(where=name, check="reachable", what=what, hint=hint)]
    checks: Sequence[Callable[[str, Mapping[str, Any], Wanted], Problem | None]] = (
        check_address, check_writable, check_disk, check_processes,
    )  # fmt: skip
    problems = [problem for check in checks if (problem := check(name, found, wanted)) is not None]
    return problems + check_ports(name, found)


def check_address(name: str, found: Mapping[str, Any], _wanted: Wanted) -> Problem | None:
    """The address must be one of the host's own."""
    if not found["address"]:
        return Problem(
            where=name,
            check="address",
            what="its fleet_address resolves to nothing",
            hint=f"set fleet_address of {name} to an IPv4 address",
        )
    if found["address_error"]:
        return Problem(
            where=name, check="address", what=f"{found['address']} is not one of its own addresses ({found['address_error']})",
            hint=f"set fleet_address of {name} to the address of its network adapter",
        )  # fmt: skip
    return None


def check_writable(name: str, found: Mapping[str, Any], _wanted: Wanted) -> Problem | None:
    """fleet_home must be writable."""
    if found["writable"]:
        return None
    return Problem(
        where=name,
        check="home",
        what=f"fleet_home {found['home']} cannot be written",
        hint=f"set fleet_home of {name} to a folder of its user",
    )


def check_disk(name: str, found: Mapping[str, Any], wanted: Wanted) -> Problem | None:
    """Free space below fleet_home."""
    if found["disk_free_gb"] >= wanted.free_disk_gb:
        return None
    return Problem(
        where=name, check="disk", what=f"{found['disk_free_gb']} GB free below {found['home']}, {wanted.free_disk_gb:.12g} GB wanted",
        hint="make room there, set fleet_home to another disk, or lower fleet_free_disk_gb",
    )  # fmt: skip


def check_processes(name: str, found: Mapping[str, Any], wanted: Wanted) -> Problem | None:
    """No more ranks than GPUs, where there are GPUs."""
    processes, gpus = wanted.processes.get(name, 0), len(found["gpus"])
    if processes < 0:
        return Problem(
            where=name,
            check="settings",
            what=f"fleet_processes is {processes}",
            hint="0 for one a GPU, or a number from 1 on",
        )
    if gpus and processes > gpus:
        return Problem(
            where=name,
            check="processes",
            what=f"fleet_processes is {processes}, but it has {gpus} GPUs",
            hint=f"set it to {gpus} or less",
        )
    return None


def check_ports(name: str, found: Mapping[str, Any]) -> list[Problem]:
    """Our ports must be free, unless a run of ours has them: that is said by its name."""
    if found.get("going_on"):
        return []
    return [
        Problem(where=name, check="ports", what=f"port {port} ({PORT_MEANINGS[port]}) on {found['address']} is taken by {owner}",
                hint="end that process, or wait for its end")
        for port, owner in found["ports_taken"].items()
    ]  # fmt: skip
