"""Starts a module of ours so that it outlives who started it. Standard library alone on Linux, for Ansible's module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]  # the folder that holds winfleet


def start(
    name: str,
    module: str,
    words: Sequence[str],
    folder: Path,
    *,
    logon: str,
    password: str,
    python: str = sys.executable,
    package: Path = PACKAGE,
) -> subprocess.Popen[bytes] | None:
    """Starts `python -m module words…`: in a session of its own, working in `folder`; on Windows as the scheduled task `name`.

    Returns the process, None of a task. `logon` and `password` are those of start_task(). Raises OSError, and HostError with
    what Windows said.
    """
    arguments = ["-m", module, *words]
    if os.name == "nt":
        from winfleet.machine.windows import start_task

        start_task(name, arguments, package, logon, password, python)
        return None
    return subprocess.Popen(
        [python, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(package)},
    )  # fmt: skip
