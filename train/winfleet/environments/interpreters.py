"""The Python that an environment is made from, where none is given: uv's own, else one that the system has. Standard library alone.

By itself uv takes any Python that it finds before it fetches one: conda's, whose libraries others do not find, or one below a
user's folder with a Korean name. plugins/module_utils/Ansible.ModuleUtils.WinfleetPython.psm1 does the same for the agent's Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MANAGED: Final = "--managed-python"  # uv's own alone, fetched where it is not there
LIST_SECONDS: Final = 120.0  # uv starts each Python that it finds
HINT: Final = (
    "uv fetches a Python from GitHub, or from UV_PYTHON_INSTALL_MIRROR of uv_env_environment; "
    "or install Python {version} on this host, or set uv_env_interpreter to one there"
)


def system_python(uv: str, version: str, environment: Mapping[str, str], *, windows: bool) -> tuple[str, str] | None:
    """(path, version) of the first Python of this minor that the system has and that may be taken; None where it has none."""
    choice = ["--no-managed-python", "--only-installed", "--offline", "--output-format", "json"]
    try:
        done = subprocess.run(
            [uv, "python", "list", version, *choice],
            env=dict(environment),
            capture_output=True,
            timeout=LIST_SECONDS,
            check=True,
        )
        found = json.loads(done.stdout.decode("utf-8", "replace"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    for each in found:
        if each.get("path"):  # else it could be fetched; uv shows what lies below the current folder without that
            each["path"] = os.path.abspath(str(each["path"]))
        if fits(each, windows=windows):
            return each["path"], str(each.get("version", version))
    return None


def fits(found: Mapping[str, Any], *, windows: bool) -> bool:
    """Whether an entry of uv's list is an ordinary CPython, not conda's, on Windows with 64 bits and at a path of ASCII alone."""
    path = str(found.get("path") or "")
    ordinary = found.get("implementation") == "cpython" and found.get("variant", "default") == "default"
    if not path or not ordinary or is_of_conda(Path(path)):
        return False
    return not windows or (path.isascii() and found.get("arch") != "x86")


def is_of_conda(python: Path) -> bool:
    """Whether it belongs to conda, or is a link to one of conda's."""
    places = [place for each in (python, python.resolve()) for place in each.parents[:2]]
    return any((place / "conda-meta").is_dir() for place in places)


def say_taken(version: str, taken: tuple[str, str], said: str) -> str:
    """That uv has no Python of its own there and why, by its words, and which one is taken."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("cause: ", "error: "))] or lines[-1:]
    why = causes[-1].partition(": ")[2] or causes[-1] if causes else "it did not say why"
    return f"uv has no Python {version} of its own and could not fetch one ({why}); {taken[0]} ({taken[1]}) is taken"
