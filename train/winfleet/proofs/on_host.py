"""Proofs on one host: what its detached task can do, what Windows says of it, and a rank or launcher that is ended.

Standard library alone, for Ansible's module on Linux. What needs packages is proved in the task (in_task.py), by the run's own
environment. All that is made lies in the folder `proof` and in the scheduled task of that name; undo() takes both away.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..core.errors import HostError
from ..core.files import read_object
from ..machine.detached import start
from ..runs import control
from ..runs.state import command_line, going_on, launcher_pid, read_status
from .outcome import Outcome, failed, holds, not_applicable, proved, read_outcomes

NAME: Final = "proof"  # of the folder below home, and of the task
RUNS: Final = "proof-"  # what the names of our runs begin with
ALIVE_SECONDS: Final = 60.0
RESULT_SECONDS: Final = 180.0  # torch is imported, from a disk that may be slow
GONE_SECONDS: Final = 10.0  # for ranks to end with their launcher
SCAN_SECONDS: Final = 3.0
WINRM_HTTP: Final = 5985
# What start_task.ps1 asks for, as Get-ScheduledTask shows it: text of an enumeration's name or number.
ASKED: Final[Mapping[str, Sequence[str]]] = {
    "Priority": ("4",),
    "DisallowStartIfOnBatteries": ("False",),
    "StopIfGoingOnBatteries": ("False",),
    "ExecutionTimeLimit": ("PT0S",),
    "MultipleInstances": ("Parallel", "0"),
}
LOOK: Final = f"""
$task = Get-ScheduledTask -TaskPath '\\winfleet\\' -TaskName '{NAME}'
$told = @{{ RunLevel = "$($task.Principal.RunLevel)"; LogonType = "$($task.Principal.LogonType)"; PowerShell = "$($PSVersionTable.PSVersion)" }}
foreach ($name in '{"', '".join(ASKED)}') {{ $told[$name] = "$($task.Settings.$name)" }}
ConvertTo-Json $told -Compress
"""
UNREGISTER: Final = f"Get-ScheduledTask -TaskPath '\\winfleet\\' -TaskName '{NAME}' -ErrorAction SilentlyContinue | Unregister-ScheduledTask -Confirm:$false"


def prove(home: Path, means: Mapping[str, Any]) -> dict[str, Any]:
    """{"outcomes": {claim: {"state", "seen"}}, "facts": {…}}; `means` as control.means() gives them. Raises HostError, OSError."""
    folder = home / NAME
    undo(home)
    folder.mkdir(parents=True)
    log, alive, go, result = (folder / name for name in ("proof.log", "alive.json", "go", "result.json"))
    found: dict[str, Outcome] = {}
    facts: dict[str, Any] = {}
    try:
        process = start(NAME, "winfleet.proofs.in_task", ["--folder", str(folder)], log, **means)
        control.wait_for(process, ALIVE_SECONDS, alive.exists)
        if not alive.exists():
            return {"outcomes": {"task-runs": failed(control.last_words(log, NAME, ALIVE_SECONDS)).told()}, "facts": {}}
        if os.name == "nt":
            found, facts = of_windows(read_object(alive))
        else:
            found["task-runs"] = proved("a process of its own session, as this is no Windows")
        go.touch()
        control.wait_for(process, RESULT_SECONDS, result.exists)
        told = read_object(result)
        found |= read_outcomes(told.get("outcomes"))
        facts |= told.get("facts") or {}
        if not told:
            found["task-runs"] = failed(control.last_words(log, NAME, RESULT_SECONDS))
    finally:
        undo(home)
    return {"outcomes": {name: one.told() for name, one in found.items()}, "facts": facts}


def of_windows(alive: Mapping[str, Any]) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """What Windows tells of the task that runs now; facts of this PC's PowerShell."""
    told = ask_powershell(LOOK)
    values = {name: str(told.get(name, "")) for name in ASKED}
    wrong = [f"{name} is {value or 'not told'}" for name, value in values.items() if value not in ASKED[name]]
    limited = str(told.get("RunLevel")) in ("Limited", "0") or str(told.get("LogonType")) in ("Password", "1")
    wrong += [] if limited else [f"RunLevel is {told.get('RunLevel')}"]
    settings = ", ".join(f"{name} {value}" for name, value in values.items())
    session, logon = alive.get("session"), told.get("LogonType")
    return {
        "task-settings": holds(not wrong, "; ".join(wrong) or f"{settings}, RunLevel {told.get('RunLevel')}"),
        "task-runs": holds(session is not None, f"it runs in session {session}, signed in by {logon}"),
        "keeps-awake": power_requests(str(alive.get("python", ""))),
    }, {"PowerShell": told.get("PowerShell")}


def power_requests(python: str) -> Outcome:
    """Whether `powercfg /requests` names the task's python.exe; it takes an administrator, as WinRM's session is."""
    from winfleet.machine.windows import powershell

    done = powershell("powercfg /requests; exit $LASTEXITCODE")
    said = " ".join((done.stdout + done.stderr).decode("utf-8", "replace").split())
    if done.returncode:
        return not_applicable(f"powercfg /requests does not answer here: {said[:200]}")
    return holds(Path(python).name.lower() in said.lower(), f"powercfg /requests: {said[:300]}")


def ask_powershell(script: str) -> dict[str, Any]:
    """The JSON object that a script prints last; {} where it prints none."""
    from winfleet.machine.windows import powershell

    done = powershell(script)
    try:
        told = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def undo(home: Path) -> list[str]:
    """Takes away what a proof made here, and one that was cut off; what that was."""
    undone = []
    for folder in going_on(home):
        if folder.name.startswith(RUNS):
            control.stop(folder, 0)
            undone.append(f"run {folder.name}")
    for folder in [*home.glob(f"runs/{RUNS}*"), home / NAME]:
        if folder.is_dir():
            end_task(folder)
            shutil.rmtree(folder, ignore_errors=True)  # what a scanner holds goes with the next proof
            undone += [] if folder.exists() else [str(folder)]
    if os.name == "nt":
        from winfleet.machine.windows import powershell

        powershell(UNREGISTER)
    return undone


def end_task(folder: Path) -> None:
    """Ends the task's process where it still lives."""
    pid = read_object(folder / "alive.json").get("pid")
    if isinstance(pid, int) and "winfleet.proofs.in_task" in command_line(pid):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        wait_until_gone([pid], "winfleet.proofs.in_task")


def end(home: Path, run: str, what: str) -> list[int]:
    """Kills the `launcher` or the last `rank` of a run of ours here; its ranks that live on. Raises HostError."""
    if not run.startswith(RUNS):
        raise HostError(f"run {run} is none of the proofs'\nhint: stop it by stop.yml")
    return end_in(home / "runs" / run, what)


def end_in(folder: Path, what: str) -> list[int]:
    """The same in the folder that has the status."""
    ranks = [rank.get("pid") for rank in read_status(folder).get("ranks", []) if isinstance(rank, dict)]
    pids = [pid for pid in ranks if isinstance(pid, int) and "winfleet.runner" in command_line(pid)]
    pid = launcher_pid(folder) if what == "launcher" else next(reversed(pids), None)
    if pid is None:
        raise HostError(f"no {what} of run {folder.name} lives here\nhint: look into {folder}")
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    return wait_until_gone(pids if what == "launcher" else [pid], "winfleet.runner")


def wait_until_gone(pids: Sequence[int], word: str) -> list[int]:
    """Which of these processes, known by a word of their command line, still live after GONE_SECONDS."""
    deadline = time.monotonic() + GONE_SECONDS
    while (left := [pid for pid in pids if word in command_line(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def scan(addresses: Mapping[str, str]) -> dict[str, Outcome]:
    """Whether WinRM's port without encryption is shut at other hosts, {name: address}, as seen from here."""
    found = {name: is_open(address, WINRM_HTTP) for name, address in addresses.items()}
    opened = [f"{name}: port {WINRM_HTTP} is open" for name, there in found.items() if there]
    return {"port-scan": holds(not opened, "; ".join(opened) or f"port {WINRM_HTTP} is shut at {', '.join(found)}")}


def is_open(address: str, port: int) -> bool:
    """Whether somebody takes a connection there."""
    with socket.socket() as client:
        client.settimeout(SCAN_SECONDS)
        return client.connect_ex((address, port)) == 0
