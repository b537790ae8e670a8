"""What Windows alone needs: ranks that end with their launcher, and a launcher that outlives who started it. Elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from winfleet.core.causes import advise
from winfleet.core.causes_table import START
from winfleet.core.errors import HostError

KILL_ON_JOB_CLOSE, EXTENDED_LIMITS = 0x2000, 9  # winnt.h
ES_CONTINUOUS, ES_SYSTEM_REQUIRED = 0x80000000, 0x1  # winnt.h
START_TASK: Final = Path(__file__).with_name("start_task.ps1")
# What Windows says of a task's last run: constants of the Task Scheduler (taskschd), errors of Windows (0x8007….) and statuses
# with which programs end (0xC…).
TASK_RESULTS: Final = {
    0x00000000: "it ran and ended",
    0x00041301: "it is running",
    0x00041302: "it is disabled",
    0x00041303: "it was not run yet",
    0x00041306: "somebody ended it",
    0x0004131C: "this account may not sign in as a batch job",
    0x00041325: "it waits to be run",
    0x80041313: "its account is not known",
    0x8004131F: "an earlier one is running",
    0x80041320: "its account is not signed in",
    0x80041322: "the Task Scheduler does not answer",
    0x80041323: "the Task Scheduler is too busy",
    0x80041324: "one of its conditions did not hold",
    0x80041326: "it is disabled",
    0x80070002: "its program or folder is not there",
    0x80070005: "access is denied",
    0x800704DD: "its account is not signed in",
    0x800704EC: "a policy blocks its program",
    0x8007052E: "the user name or password is wrong",
    0x8007052F: "the account has no password, or may not sign in at this time",
    0x80070532: "the password has expired",
    0x80070533: "the account is disabled",
    0x80070569: "this account may not sign in as a batch job",
    0x80070775: "the account is locked",
    0x800710E0: "Windows refused to run it",
    0xC0000005: "its program crashed",
    0xC000013A: "its program was closed, by Ctrl-C, signing out or shutting down",
    0xC0000135: "a DLL that its program needs is missing",
    0xC0000142: "a DLL of its program did not start",
}


class BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION, winnt.h."""

    _fields_ = [
        ("PerProcessUserTimeLimit", ctypes.c_int64), ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32), ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t), ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t), ("PriorityClass", ctypes.c_uint32), ("SchedulingClass", ctypes.c_uint32),
    ]  # fmt: skip


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, winnt.h."""

    _fields_ = [
        ("Basic", BasicLimits), ("IoCounters", ctypes.c_uint64 * 6), ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t), ("PeakProcessMemory", ctypes.c_size_t), ("PeakJobMemory", ctypes.c_size_t),
    ]  # fmt: skip


def end_children_with_me() -> None:
    """Every process this one starts ends when this one ends, however it ends. Raises OSError.

    This process joins a job object that only it holds: the system closes the handle at its end, and with it the job.
    """
    if os.name != "nt":
        return
    windll: Any = ctypes.__dict__["WinDLL"]  # mypy looks at Linux
    kernel32 = windll("kernel32", use_last_error=True)
    kernel32.CreateJobObjectW.restype = kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.SetInformationJobObject.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
    kernel32.AssignProcessToJobObject.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    job = kernel32.CreateJobObjectW(None, None)  # never closed by us, not inheritable
    limits = ExtendedLimits()
    limits.Basic.LimitFlags = KILL_ON_JOB_CLOSE
    if not (
        job
        and kernel32.SetInformationJobObject(job, EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
        and kernel32.AssignProcessToJobObject(job, kernel32.GetCurrentProcess())
    ):
        raise OSError(ctypes.__dict__["get_last_error"](), "no job object for the launcher")


def keep_awake() -> None:
    """This PC does not go to sleep by itself while the calling thread lives; who closes its lid may still have it sleep."""
    if os.name != "nt":
        return
    windll: Any = ctypes.__dict__["WinDLL"]
    set_state = windll("kernel32").SetThreadExecutionState
    set_state.argtypes, set_state.restype = [ctypes.c_uint32], ctypes.c_uint32
    set_state(ES_CONTINUOUS | ES_SYSTEM_REQUIRED)  # it fails for flags that Windows does not know, and for nothing else


def powershell(script: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a script to its end, without profile and questions. Raises OSError."""
    command = ["powershell.exe", "-NoProfile", "-NonInteractive", "-Command", script]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def task_result(name: str) -> str:
    """What Windows says of the last run of a task of ours, to stand behind a sentence; "" where it says nothing."""
    try:
        said = powershell(
            f"(Get-ScheduledTaskInfo -TaskPath '\\winfleet\\' -TaskName '{name}').LastTaskResult"
        ).stdout.split()
        result = int(said[-1]) % 2**32
    except (OSError, IndexError, ValueError):
        return ""
    words = TASK_RESULTS.get(result, "")
    return f", and Windows says 0x{result:08X} of its scheduled task{f': {words}' if words else ''}"


def start_task(name: str, arguments: Sequence[str], folder: Path, logon: str, password: str, python: str) -> None:
    """Starts a Python with the arguments as a scheduled task of this user in the folder winfleet; it outlives the session.

    `logon` is s4u (no stored password), interactive (while the user is signed in) or password. Raises HostError with what
    Windows said.
    """
    if logon == "interactive" and (without := Path(python).with_name("pythonw.exe")).exists():
        python, arguments = str(without), ["-m", "winfleet.machine.windowless", *arguments]
    call = {
        "name": name, "execute": python, "arguments": subprocess.list2cmdline(arguments), "folder": str(folder), "logon": logon,
        "password": password,
    }  # fmt: skip
    command = [
        "powershell.exe",
        "-NoProfile",
        "-NonInteractive",
        "-ExecutionPolicy",
        "Bypass",
        "-File",
        str(START_TASK),
    ]
    done = subprocess.run(command, input=json.dumps(call).encode(), capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        text = f"the scheduled task {name} was refused: {said}"
        raise HostError(text + advise(text, "this host", START))
