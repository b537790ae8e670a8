r"""Trains on this PC alone: makes the environment of the project's packages where it is missing, then runs the launcher by it.

    python -m winfleet.one_pc --home C:\winfleet --uv uv.exe [--processes N] [-- my_train.py --epochs 3]

scripts/launch_distributed.ps1 calls it by the Python from which environments are made, so it needs the standard library
alone. Exit status: that of winfleet.launch, 2 where nothing was started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from winfleet.core.causes import advise
from winfleet.core.causes_table import MACHINE
from winfleet.core.errors import HostError
from winfleet.core.files import temporary_variables
from winfleet.core.plan import PlanError, check_script
from winfleet.environments.alone import Here, packages_here, project_of
from winfleet.environments.environment import ensure
from winfleet.environments.lock import LockError
from winfleet.machine.nvidia_smi import gpus
from winfleet.machine.windows import end_children_with_me

TRAIN: Final = Path(__file__).resolve().parent.parent  # of this checkout
DATA: Final = TRAIN.parent / "data" / "text"  # as deploy_and_train.yml has it
OFFLINE_HINT: Final = "give -Wheels FOLDER on a PC without internet"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.one_pc", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--home", type=Path, required=True, help="folder for the environment")
    parser.add_argument("--uv", required=True, help="the program uv")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from, without internet")
    parser.add_argument("--torch-backend", default="auto", help="build of torch, uv's --torch-backend")
    parser.add_argument("--config", type=Path, help="settings; a script of one's own gets them as --config FILE")
    parser.add_argument("--processes", type=int, default=0, help="how many (default: one for each GPU, else 1)")
    parser.add_argument("--prove", action="store_true", help="train nothing: winfleet.prove, with the words after --")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- script.py args, -- -m module args, or -- args")
    found = parser.parse_args(words)
    found.command = found.command[1:] if found.command[:1] == ["--"] else found.command
    return found


def is_ours(command: Sequence[str]) -> bool:
    """Whether the words are no script or module, but arguments of the default trainer, or of the proofs."""
    return not command or (command[0].startswith("-") and command[0] != "-m")


def full_command(command: Sequence[str], config: Path | None) -> list[str]:
    """What the launcher runs. Raises PlanError where script or settings are not there."""
    if config is not None and not config.is_file():
        raise PlanError(f"no settings {config} in {Path.cwd()}\nhint: give the path of a YAML file to -Config")
    if is_ours(command):
        settings = (config or TRAIN / "configs" / "train_config.yaml").resolve()
        return [str(TRAIN / "train.py"), "--data", str(DATA), "--config", str(settings), *command]
    check_script(command)
    return [*command, *(["--config", str(config.resolve())] if config else [])]


def wanted_environment(found: argparse.Namespace) -> dict[str, Any]:
    """What environment.ensure() asks for; as a worker's, so that both have the same folder. Raises LockError, HostError."""
    if found.wheels is not None and not found.wheels.is_dir():
        raise HostError(f"no folder {found.wheels}\nhint: give the folder that holds the wheels to -Wheels")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    here = Here(
        ours=TRAIN,
        uv=found.uv,
        torch_backend=found.torch_backend,
        kept=found.home / "agent" / "projects",
        wheels=found.wheels,
    )
    project = None if is_ours(found.command) else project_of(found.command)
    lock = packages_here(project, here, dry_run=found.dry_run)
    for line in lock["said"]:
        print(line, flush=True)
    return {
        **lock, "python": "", "base": sys.executable, "python_version": version, "torch_backend": found.torch_backend,
        "wheels": str(found.wheels.resolve()) if found.wheels else "", "uv": found.uv, "offline_hint": OFFLINE_HINT, "refuse": False,
        "gpus": len(gpus()),
    }  # fmt: skip


def prepare(found: argparse.Namespace) -> str:
    """The environment's Python, made where it is missing. Raises LockError, HostError and OSError."""
    wanted = wanted_environment(found)
    if ensure(found.home, wanted, check=True)["changed"] and not found.dry_run:
        print(f"Making the environment below {found.home} (once, some minutes; about 1 GB, with CUDA 6 GB)", flush=True)
    made = ensure(found.home, wanted, check=found.dry_run)
    print(f"Environment: {made['python']}{' would be made' if found.dry_run and made['changed'] else ''}", flush=True)
    return str(made["python"])


def variables(home: Path) -> dict[str, str]:
    """The environment of all that is started: this checkout's package, and folders below `home` that all programs can open.

    Libraries of packages open files by the ANSI code page, and a user's folder may have letters that it has not.
    """
    environment = {**os.environ, "PYTHONPATH": str(TRAIN), "PYTHONUTF8": "1"}
    if not tempfile.gettempdir().isascii():
        environment |= temporary_variables(home)
        environment.setdefault("HF_HOME", str(home / "huggingface"))
    return environment


def run(command: list[str], environment: Mapping[str, str], folder: Path | None) -> int:
    """Runs it to its end; its exit status. Ctrl-C reaches it as well, and ending is its business."""
    end_children_with_me()
    signal.signal(signal.SIGINT, lambda *_: None)  # SIG_IGN would be inherited
    return subprocess.Popen(command, env=environment, cwd=folder).wait()


def start(found: argparse.Namespace, command: list[str], python: str) -> int:
    """Makes the example's text where it is needed, and runs the launcher; its exit status. Raises OSError, HostError."""
    launcher = [python, "-m", "winfleet.launch", "--auto"]
    launcher += ["--processes", str(found.processes)] if found.processes else []
    folder = None
    if is_ours(found.command):
        made = subprocess.run([sys.executable, str(TRAIN / "make_text.py"), str(DATA)], check=False)
        if made.returncode:
            raise HostError(
                f"the example's text could not be made in {DATA}\nhint: train your own script: -- my_train.py"
            )
        folder = TRAIN.parent
        launcher.append("--apart")  # else the next run would go on from this one's checkpoint
    return run([*launcher, "--", *command], variables(found.home), folder)


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    found = arguments(words)
    try:
        command = full_command(found.command, found.config)
        print(
            f"GPUs: {', '.join(str(gpu['name']) for gpu in gpus()) or 'none by nvidia-smi, so it trains on the CPU'}",
            flush=True,
        )
        python = prepare(found)
        if found.prove:
            command = [python, "-m", "winfleet.prove", "--home", str(found.home), *found.command]
            return 0 if found.dry_run else run(command, variables(found.home), None)
        if found.dry_run:
            print(f"Would run: {subprocess.list2cmdline(command)}")
            return 0
        return start(found, command, python)
    except (PlanError, HostError, LockError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        hint = (
            advise(str(error), "this PC", MACHINE)
            or "\nhint: is there room on the disk, and may this user write there?"
        )
        print(f"error: {error}{hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
