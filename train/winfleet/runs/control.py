"""Writes a run's files on a host, starts its launcher or its part of the rehearsal, and stops it. Standard library alone on Linux."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.causes import advise
from ..core.errors import HostError
from ..core.files import write_atomic
from .record import keep_plan
from .state import launcher_pid, read_status, step_of

READY_SECONDS = 40.0  # for the rehearsal to listen, an earlier one to leave its port included
AFTER_SECONDS = 15.0  # for the launcher itself, once its ranks have ended


def write_secrets(path: Path, secrets: Mapping[str, Any]) -> None:
    """A file that its owner alone can read; the launcher deletes it once read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(secrets), file)


def write_files(folder: Path, files: Mapping[str, str], *, check: bool) -> list[str]:
    """Writes texts below the folder where they differ, whole or not at all; names of those that did."""
    different = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            different.append(name)
            if not check:
                folder.mkdir(parents=True, exist_ok=True)
                if name == "plan.json" and path.is_file():
                    keep_plan(folder)
                write_atomic(path, text)
    return different


def launch(folder: Path, given: Mapping[str, Any], secrets: Mapping[str, str], password: str) -> None:
    """Starts the run's launcher, detached, and returns once it lives. Raises HostError with what it said.

    `secrets` are the ranks'; `password` is that of this user, for a task of Windows that signs in with one.
    """
    if secrets:
        write_secrets(folder / "secrets.json", secrets)
    command = [given["python"], "-m", "winfleet.launch", "--detach", "--plan", str(folder / "plan.json"),
               "--machine-rank", str(given["machine_rank"]), "--logon", given["logon"]]  # fmt: skip
    package = folder.parent.parent / "agent" / given["agent"][:12]
    environment = {**os.environ, "PYTHONPATH": str(package), "WINFLEET_TASK_PASSWORD": password}
    started = subprocess.run(command, env=environment, cwd=package, capture_output=True, check=False)
    if started.returncode:
        (folder / "secrets.json").unlink(missing_ok=True)
        said = (started.stderr or started.stdout).decode("utf-8", "replace").strip()
        said = said or f"the launcher ended with {started.returncode}"
        raise HostError(said if "hint:" in said else said + advise(said, "this host"))


def rehearse(home: Path, given: Mapping[str, Any], token: str, password: str) -> None:
    """Starts this host's part of a rehearsal, detached, and returns once it listens. Raises HostError with what it said."""
    folder, package = home / "rehearsal", home / "agent" / given["agent"][:12]
    shutil.rmtree(folder, ignore_errors=True)  # ends one whose controller has gone away
    folder.mkdir(parents=True)
    job = {"host": given["host"], "plan": given["plan"], "home": str(home), "token": token,
           "controllers": [*given["controllers"], *seen_controllers()]}  # fmt: skip
    write_secrets(folder / "job.json", job)
    words, process = ["-m", "winfleet.rehearsal.host", "--job", str(folder / "job.json")], None
    if os.name == "nt":
        from winfleet.core.plan import PlanError
        from winfleet.machine.windows import start_task

        try:
            start_task("rehearsal", words, package, given["logon"], password, given["python"])
        except PlanError as error:
            raise HostError(str(error)) from None
    else:
        process = subprocess.Popen(
            [given["python"], *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(package)},
        )  # fmt: skip
    ready, deadline = folder / "ready", time.monotonic() + READY_SECONDS
    while not ready.exists() and time.monotonic() < deadline and (process is None or process.poll() is None):
        time.sleep(0.05)
    said = ready.read_text("utf-8") if ready.exists() else last_words(folder / "rehearsal.log")
    if said:
        raise HostError(f"the rehearsal did not start: {said}")


def last_words(log: Path) -> str:
    """The last line of a log file, or that it has none."""
    with contextlib.suppress(OSError):
        if lines := log.read_text("utf-8", "replace").strip().splitlines():
            return lines[-1]
    return f"nothing was heard of it for {READY_SECONDS:.0f} s"


def seen_controllers() -> list[str]:
    """Addresses from which the controller comes, as this task sees it: by SSH, or on this very machine."""
    ssh = os.environ.get("SSH_CONNECTION", "").split()
    return ssh[:1] or ["127.0.0.1"]


def stop(folder: Path, grace: int) -> dict[str, object]:
    """Asks, waits, and ends the launcher where it does not end itself; its ranks end with it."""
    write_atomic(folder / "stop", json.dumps({"grace_seconds": grace}))
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the one, which ends at once
    for patience, sign in ((grace + AFTER_SECONDS, signal.SIGTERM), (AFTER_SECONDS, kill), (5.0, None)):
        deadline = time.monotonic() + patience
        while (pid := launcher_pid(folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if pid is None or sign is None:
            break
        os.kill(pid, sign)
    status = read_status(folder)
    state, step = str(status.get("state")), step_of(folder)
    return {"run": folder.name, "state": state, "step": step, "text": f"run {folder.name} {state} after step {step}"}
