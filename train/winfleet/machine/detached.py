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
    log: Path,
    *,
    logon: str,
    password: str,
    python: str = sys.executable,
    package: Path = PACKAGE,
    beside: str = "",
) -> subprocess.Popen[bytes] | None:
    """Starts `python -m module words…`: in a session of its own, in the log's folder; on Windows as the scheduled task `name`.

    `log` gets what it prints before it has a log of its own, on Linux. `logon` and `password` are those of start_task(). Returns
    the process, None of a task. `beside` is a folder with packages of its own, on Linux. Raises OSError, and HostError with
    what Windows said.
    """
    arguments = ["-m", module, *words]
    if os.name == "nt":
        from winfleet.machine.windows import start_task

        start_task(name, arguments, package, logon, password, python)
        return None
    with log.open("ab") as file:
        return subprocess.Popen(
            [python, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=log.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(package), beside)))},
        )  # fmt: skip


def why_silent(name: str) -> str:
    """What the system knows of something that was started and says nothing, to stand behind a sentence; "" for nothing."""
    if os.name != "nt":
        return ""
    from winfleet.machine.windows import task_result

    return task_result(name)
