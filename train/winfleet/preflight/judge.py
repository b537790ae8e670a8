"""May these hosts train? Judges what was found on them, together with the run's files and settings. Pure functions."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from winfleet.core.causes import NO_PYTHON, describe_unreachable
from winfleet.core.plan import RUN_NAME, PlanError, check_addresses
from winfleet.preflight.comparisons import compare_hosts
from winfleet.preflight.found import Found
from winfleet.preflight.hosts import check_host
from winfleet.preflight.ignored import check_ignored
from winfleet.preflight.problems import Problem, check_names
from winfleet.transfer.folders import FolderError, list_sent
from winfleet.transfer.names import explain_unholdable


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
    torch_backend: str = "auto"  # uv_env_torch_backend
    include: Sequence[str] = ()  # fleet_include
    python_version: str = ""  # uv_env_python_version, the minor; "" for any
    lacking: Sequence[str] = ()  # of uv_env_secrets, what the controller's environment does not have


def find_problems(hosts: Mapping[str, Found], silent: Mapping[str, str], wanted: Wanted) -> list[Problem]:
    """All problems at once. `hosts` maps those that answered to what they told, `silent` the others to the reason."""
    problems = [*check_names(wanted.warnings), *check_files(wanted), *check_secrets(wanted)]
    problems += check_windows_names(hosts, wanted)
    problems += [say_silent(name, why) for name, why in silent.items()]
    for name, found in hosts.items():
        problems += check_host(
            name, found, free_disk_gb=wanted.free_disk_gb, processes=wanted.processes.get(name, 0),
            torch_backend=wanted.torch_backend,
        )  # fmt: skip
    problems += compare_hosts(hosts, python_version=wanted.python_version)
    try:
        check_addresses([(name, found.address) for name, found in hosts.items() if found.address])
    except PlanError as error:
        what, _, hint = str(error).partition("\nhint: ")
        problems.append(Problem(where="inventory", check="address", what=what, hint=hint))
    return problems


def wrong_setting(text: str, hint: str = "") -> Problem:
    """What is wrong with a setting or a file of the controller; the text may bring a hint of its own."""
    what, _, own = text.partition("\nhint: ")
    return Problem(where="controller", check="settings", what=what, hint=own or hint)


LATE = "it is there, but gave no answer within"


def say_late(seconds: float) -> str:
    """Why a host is silent that was asked and did not answer in time."""
    return f"{LATE} {seconds:.12g} s"


def say_silent(name: str, why: str) -> Problem:
    """A host that did not answer, or not in time, in words that a user knows."""
    if why.startswith(LATE):
        hint = f"see what keeps {name} busy, or wait longer: -e fleet_answer_seconds=600"
        return Problem(where=name, check="reachable", what=f"did not answer: {why}", hint=hint)
    said = why if why.startswith(NO_PYTHON) else describe_unreachable(name, why)
    what, _, hint = said.partition("\n  hint: ")
    return Problem(where=name, check="reachable", what=what, hint=hint)


def runs_going_on(hosts: Mapping[str, Found]) -> dict[str, list[str]]:
    """Run -> hosts on which it is going on."""
    found: dict[str, list[str]] = {}
    for name, host in hosts.items():
        for run in host.going_on:
            found.setdefault(run, []).append(name)
    return found


def check_files(wanted: Wanted) -> Iterator[Problem]:
    """What lies on the controller: project, script, data, configuration, and the name of the run."""
    if wanted.run and not RUN_NAME.fullmatch(wanted.run):
        yield wrong_setting(
            f"fleet_run {wanted.run!r} is not a run name", "use letters, digits, '.', '_' and '-', 64 at most"
        )
    if not wanted.project.is_dir():
        hint = "give the folder that holds your script: -e fleet_project=PATH"
        yield wrong_setting(f"fleet_project: no folder {wanted.project}", hint)
    else:
        yield from check_command(wanted)
        yield from check_ignored(
            wanted.project, typed_words(wanted.command), wanted.config, wanted.data, wanted.include
        )
    if wanted.data is not None and not wanted.data.is_dir():
        hint = "give the folder of your data: -e fleet_data=PATH, or -e fleet_data= for none"
        yield wrong_setting(f"fleet_data: no folder {wanted.data}", hint)
    elif wanted.data is not None and not any(wanted.data.iterdir()):
        hint = "put your data there, or -e fleet_data= for none"
        yield wrong_setting(f"fleet_data: folder {wanted.data} is empty", hint)
    if wanted.config is not None:
        yield from check_config(wanted.config, wanted.project)


def check_secrets(wanted: Wanted) -> Iterator[Problem]:
    """Without them a proxy or an index would refuse uv, minutes later."""
    if wanted.lacking:
        text = f"uv_env_secrets names {', '.join(wanted.lacking)}, which this machine's environment does not have"
        yield wrong_setting(text, "export it here before the command, or take the name out")


def check_windows_names(hosts: Mapping[str, Found], wanted: Wanted) -> Iterator[Problem]:
    """File names of code and data that Windows hosts cannot hold."""
    windows = {
        name: {"os": found.os, "home": found.home, "long_paths": found.long_paths}
        for name, found in hosts.items() if found.os == "Windows"
    }  # fmt: skip
    for setting, kind, folder in (("fleet_project", "code", wanted.project), ("fleet_data", "data", wanted.data)):
        if folder is None or not windows:
            continue
        try:
            names = list_sent(folder, kind, wanted.include)
        except FolderError:  # its digest says so, or check_files() has
            continue
        if why := explain_unholdable(f"{setting} {folder}", kind, names, windows, wanted.run):
            yield wrong_setting(why)


def split_command(command: str) -> list[str]:
    """The words of fleet_command, a leading `python` left out. Raises ValueError where a quote is left open."""
    words = shlex.split(command)
    return words[1:] if words and words[0] in ("python", "python3", "python.exe") else words


def typed_words(command: str) -> list[str]:
    """The same; none where check_command() refuses it."""
    try:
        return split_command(command)
    except ValueError:
        return []


def check_command(wanted: Wanted) -> Iterator[Problem]:
    """Whether the command names a script of the project, or a module."""
    hint = (
        'fleet_command is a script of the project and its arguments, for example -e fleet_command="train.py --epochs 3"'
    )
    try:
        words = split_command(wanted.command)
    except ValueError as error:
        yield wrong_setting(f"fleet_command {wanted.command!r}: {error}", hint)
        return
    if not words or words == ["-m"]:
        yield wrong_setting("fleet_command is empty", hint)
    elif words[0] != "-m" and not (wanted.project / words[0]).is_file():
        yield wrong_setting(f"fleet_command: no script {words[0]} in {wanted.project}", hint)


def check_config(config: Path, project: Path) -> Iterator[Problem]:
    """Reads the configuration with the project's own train_config.py where it has one, else as YAML alone."""
    try:
        load_config(config, project)
    except OSError as error:
        yield wrong_setting(
            f"fleet_config: {config}: {error.strerror}", "give a file that can be read: -e fleet_config=PATH"
        )
    except ValueError as error:
        yield wrong_setting(str(error), "correct the file")


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
