"""The Python environment of a worker: made by uv from the lock, or an interpreter that is given. Standard library alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import SHORT
from .runs import HostError

KEEP = 2  # environments: the new one, and the one before it
OFFLINE_HINT = "set uv_env_wheels for a host without internet"

LOOK = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
PROVE = """
import torch
for device in [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]:
    ones = torch.ones(64, 64, device=device)
    assert float((ones @ ones).sum()) == 64.0**3, f"a matrix product on {device} is wrong"
"""


def look(python: str, names: list[str]) -> dict[str, str]:
    """Versions of an interpreter and its packages. Raises OSError or CalledProcessError."""
    found = subprocess.run([python, "-I", "-c", LOOK, json.dumps(names)], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def differences(found: dict[str, str], wanted: dict[str, list[str]], python_version: str) -> list[str]:
    """What does not satisfy the lock. A local part, as +cpu or +cu130, tells builds of one version apart and is let pass."""
    said = [
        f"{name} is {found.get(name, 'missing')}, the lock says {' or '.join(versions)}"
        for name, versions in sorted(wanted.items())
        if found.get(name, "").partition("+")[0] not in versions
    ]
    if not found["python"].startswith(python_version + "."):
        said.append(f"Python is {found['python']}, wanted is {python_version}")
    return said


def interpreter(folder: Path) -> Path:
    """Python of an environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def steps(given: Mapping[str, Any], folder: Path, requirements: Path) -> list[list[str]]:
    """The commands that make the environment, in their order."""
    uv = str(given.get("uv") or folder.parent.parent / "agent" / ("uv.exe" if os.name == "nt" else "uv"))
    python, base = str(interpreter(folder)), given["base"] or given["python_version"]
    offline = ["--offline", "--no-index", "--find-links", str(given["wheels"])] if given["wheels"] else []
    backend = [f"--torch-backend={given['torch_backend']}"] if given["torch_backend"] and not offline else []
    return [
        [uv, "venv", "--quiet", "--python", str(base), *offline[:1], str(folder)],
        [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", *offline, str(requirements)],
        [uv, "pip", "install", "--quiet", "--python", python, *offline, *backend, f"torch=={given['torch']}"],
        [python, "-I", "-c", PROVE],
    ]


def make(home: Path, given: Mapping[str, Any], folder: Path) -> None:
    """Makes the environment; its mark is written last, so that a half-made one is made again. Raises HostError."""
    environment = {**os.environ}
    if os.name != "nt":  # there it is set already, with all else that must not lie below the user's folder
        environment["UV_PYTHON_INSTALL_DIR"] = str(home / "agent" / "interpreters")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    requirements = folder.parent / f"{folder.name}.requirements.txt"
    requirements.write_text(given["requirements"], encoding="utf-8")
    for command in steps(given, folder, requirements):
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-3_000:]
            raise HostError(
                f"`{' '.join(command[:3])}` failed with {done.returncode}:\n{said}\n"
                f"hint: is the package index reachable from this host? {given.get('offline_hint', OFFLINE_HINT)}"
            )
    for old in sorted(folder.parent.glob("*/winfleet.json"), key=lambda path: path.stat().st_mtime)[: -KEEP + 1]:
        shutil.rmtree(old.parent)
    (folder / "winfleet.json").write_text(json.dumps({"digest": given["digest"]}), encoding="utf-8")


def ensure(home: Path, given: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Makes env/<digest> if it is missing, or takes `python`; {"changed", "python", "versions"}.

    Raises HostError where uv fails, or where the interpreter does not satisfy the lock.
    """
    folder, changed = home / "env" / given["digest"][:SHORT], False
    python = given["python"] or str(interpreter(folder))
    if not given["python"] and not (folder / "winfleet.json").is_file():
        if given["refuse"]:
            raise HostError(
                f"no environment {folder}, and none is made with fleet_skip_deploy\n"
                "hint: run deploy_and_train.yml without it once"
            )
        changed = True
        if check:
            return {"changed": True, "python": python, "versions": {}}
        make(home, given, folder)
    try:
        versions = look(python, list(given["direct"]))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise HostError(
            f"{python} cannot be used: {said}\nhint: set uv_env_python to a Python, or to nothing"
        ) from None
    if wrong := differences(versions, given["direct"], given["python_version"]):
        fix = f"install train/constraints.txt into {python}, or leave uv_env_python empty"
        raise HostError(f"{python} does not satisfy the lock: {'; '.join(wrong)}\nhint: {fix}")
    return {"changed": changed, "python": python, "versions": versions}
