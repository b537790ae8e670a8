"""What a host knows that a person who helps may need: the end of its logs, and what programs there say. Standard library alone.

Nothing is taken out here: support.py does that on the controller, for all hosts alike.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from ..core.files import nearest_folder, new_temporary, read_object
from ..environments.environment import interpreter
from ..machine.nvidia_smi import find
from ..runs.state import read_status, state_of
from ..transfer.folders import SHORT, add

TAIL_BYTES = 200_000  # of each file and of each program's output
MOST_FILES = 200
PROGRAM_SECONDS = 90.0
RUN_FILES = ("*.log", "*.jsonl", "*.json", "*.yaml", "*.txt")  # of a run's folder; secrets.json is none of them
PREFIXES = ("CUDA", "NCCL", "GLOO", "TORCH", "OMP_", "PYTHON", "UV_", "HF_", "WINFLEET_", "ACCELERATE", "NVIDIA")
PACKAGES = """
import importlib.metadata
for name, version in sorted({(one.metadata["Name"] or "?", one.version) for one in importlib.metadata.distributions()}):
    print(f"{name}=={version}")
"""


def pack(home: Path, run: str, python: str) -> dict[str, Any]:
    """{"archive": path of a .tar.gz in "folder", a new one}. `run` "": the newest here; `python` "": that of its environment."""
    folder = home / "runs" / run if run else newest(home / "runs")
    python = python or python_of(home, folder)
    files = {"identity.json": json.dumps({"user": user(), "home": os.path.expanduser("~")}), "system.txt": system(home)}
    for name, command in programs(python, folder).items():
        files[name] = output_of(command)
    temporary = new_temporary(home)
    archive = temporary / "support.tar.gz"
    with tarfile.open(archive, mode="w:gz") as tar:
        for name, text in files.items():
            add(tar, name, text.encode("utf-8", "replace"))
        for path in run_files(folder):
            add(tar, f"run/{path.name}", tail(path))
    return {"changed": False, "archive": str(archive), "folder": str(temporary), "run": folder.name}


def newest(parent: Path) -> Path:
    """The folder that was changed last; one that does not exist where there is none."""
    found = [path for path in parent.glob("*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=parent / "none")


def run_files(folder: Path) -> list[Path]:
    """Files of a run that are worth reading, through no link; those of the launcher first."""
    found = {path for pattern in RUN_FILES for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()}
    kept = [path for path in found if path.name != "secrets.json"]
    return sorted(kept, key=lambda path: (path.suffix == ".jsonl", path.name))[:MOST_FILES]


def tail(path: Path) -> bytes:
    """The end of a file; why there is none where it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            content = file.read(TAIL_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}".encode()
    return content if size <= TAIL_BYTES else b"... the beginning is left out ...\n" + content


def python_of(home: Path, folder: Path) -> str:
    """Python of the environment that the run's plan names, else of the newest one; "" where there is none."""
    environment = str(read_object(folder / "plan.json").get("environment") or "")[:SHORT]
    place = home / "env" / environment if environment else newest(home / "env")
    python = interpreter(place)
    return str(python) if python.exists() else ""


def programs(python: str, folder: Path) -> dict[str, list[str]]:
    """File of the bundle -> the command whose output it is."""
    windows = os.name == "nt"
    found = {
        "nvidia-smi.txt": [find()],
        "network.txt": ["ipconfig", "/all"] if windows else ["ip", "address"],
        "routes.txt": ["route", "print"] if windows else ["ip", "route"],
    }
    if python:
        config = folder / "accelerate.yaml"
        given = ["--config_file", str(config)] if config.is_file() else []
        found["accelerate-env.txt"] = [python, "-m", "accelerate.commands.accelerate_cli", "env", *given]
        found["packages.txt"] = [python, "-I", "-c", PACKAGES]
    return found


def output_of(command: list[str]) -> str:
    """The command as a line, then what it printed, errors too, or why it did not run."""
    line = "$ " + " ".join(word if "\n" not in word else "..." for word in command) + "\n"
    environment = {**os.environ, "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PROGRAM_SECONDS,
            check=False, env=environment,
        )  # fmt: skip
    except OSError as error:
        return f"{line}not run: {error.strerror}\n"
    except subprocess.TimeoutExpired:
        return f"{line}was not done after {PROGRAM_SECONDS:.0f} s\n"
    ended = "" if done.returncode == 0 else f"\nended with {done.returncode}\n"
    return line + decode(done.stdout[-TAIL_BYTES:]) + ended


def decode(output: bytes) -> str:
    """A program's output as text: Python's is UTF-8, Windows' own programs print in the console's code page."""
    try:
        return output.decode("utf-8")
    except UnicodeDecodeError:
        return output.decode("oem" if os.name == "nt" else "utf-8", "replace")


def user() -> str:
    """Name of this account, "" where the system does not tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # ImportError: Windows without the variables
        return ""


def system(home: Path) -> str:
    """Machine, disk, runs and folders of ours, and the variables that torch looks at."""
    place = nearest_folder(home)
    disk = shutil.disk_usage(place)
    lines = [
        f"system    {platform.platform()} {platform.machine()}", f"python    {platform.python_version()}",
        f"cores     {os.cpu_count()}", f"disk      {disk.free / 1e9:.1f} GB free of {disk.total / 1e9:.1f} GB at {place}", "",
    ]  # fmt: skip
    for folder in sorted(home.glob("*/*")):
        if folder.is_dir() and folder.parent.name != "agent":
            state = f"  {state_of(folder)}" if folder.parent.name == "runs" and read_status(folder) else ""
            lines.append(f"{folder.parent.name}/{folder.name}{state}")
    lines += ["", *(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES))]
    return "\n".join(lines) + "\n"
