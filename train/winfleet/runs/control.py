"""Writes a run's files on a host, starts its launcher or its part of the rehearsal, and stops it. Standard library alone on Linux."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.causes import LAUNCHER, advise
from ..core.errors import HostError
from ..core.files import end_of, write_atomic
from ..machine.detached import start, why_silent
from ..transfer.folders import SHORT
from .record import keep_plan
from .state import launcher_pid, read_status, step_of

LAUNCH_SECONDS = 60.0  # for a launcher to live, on a PC that is busy, or slow to import
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
    log, refused = folder / "launcher.log", folder / "refused"
    refused.unlink(missing_ok=True)
    begin, before, alive = log.stat().st_size if log.exists() else 0, time.time(), False

    def lives() -> bool:
        return float(read_status(folder).get("started", 0.0)) >= before

    words = ["--plan", str(folder / "plan.json"), "--machine-rank", str(given["machine_rank"]), "--log", str(log)]
    try:
        process = start("launcher", "winfleet.launch", words, log, **means(folder.parent.parent, given, password))
        wait_for(process, LAUNCH_SECONDS, lambda: refused.exists() or lives())
        alive = lives()
    finally:
        if not alive:
            (folder / "secrets.json").unlink(missing_ok=True)
    if not alive:
        said = log.read_bytes()[begin:].decode("utf-8", "replace")[-2_000:].strip() if log.exists() else ""
        said = said or f"the launcher said nothing within {LAUNCH_SECONDS:.0f} s{why_silent('launcher')}"
        raise HostError(said if "hint:" in said else said + advise(said, "this host"))


def means(home: Path, given: Mapping[str, Any], password: str) -> dict[str, Any]:
    """By what something is started detached: this run's Python and package, and how a task of Windows signs in."""
    package = home / "agent" / given["agent"][:SHORT]
    return {"python": given["python"], "package": package, "logon": given["logon"], "password": password}


def wait_for(process: subprocess.Popen[bytes] | None, seconds: float, ready: Callable[[], bool]) -> None:
    """Until it is ready or has ended, for so long at the most."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline and (process is None or process.poll() is None):
        time.sleep(0.05)


def rehearse(home: Path, given: Mapping[str, Any], token: str, password: str) -> None:
    """Starts this host's part of a rehearsal, detached, and returns once it listens. Raises HostError with what it said."""
    folder = home / "rehearsal"
    log, ready, job = folder / "rehearsal.log", folder / "ready", folder / "job.json"
    shutil.rmtree(folder, ignore_errors=True)  # ends one whose controller has gone away
    folder.mkdir(parents=True)
    controllers = [*given["controllers"], *seen_controllers()]
    values = {name: given[name] for name in ("host", "plan")}
    write_secrets(job, {**values, "home": str(home), "token": token, "controllers": controllers})
    process = start("rehearsal", "winfleet.rehearsal.host", ["--job", str(job)], log, **means(home, given, password))
    wait_for(process, READY_SECONDS, ready.exists)
    said = ready.read_text("utf-8") if ready.exists() else last_words(log, "rehearsal", READY_SECONDS)
    if said:
        raise HostError(f"the rehearsal did not start: {said}{advise(said, 'this host', LAUNCHER)}")


def last_words(log: Path, name: str, seconds: float) -> str:
    """The last line of a log file, or that what was started under that name has written none for so long."""
    lines = end_of(log, 2_000).strip().splitlines()
    return lines[-1] if lines else f"nothing was heard of it for {seconds:.0f} s{why_silent(name)}"


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
