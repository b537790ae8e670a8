"""What a machine is and has, asked in one place each: its driver's program, and who has a port."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, wait_until
from lab_place import LAB, SETTINGS
from windows_lab import Lab, in_the_lab, windows
from winfleet.machine import windowless
from winfleet.machine.nvidia_smi import find
from winfleet.machine.ports import bind_error, owner_of
from winfleet.machine.windows import start_task

ENVIRON = {"PATH": "/opt/driver/bin", "SystemRoot": r"D:\Windows", "ProgramFiles": r"C:\Program Files"}


@pytest.mark.parametrize(
    ("windows", "place"),
    [
        (False, "/opt/driver/bin"),
        (False, "/usr/lib/wsl/lib"),  # WSL's, which a task's PATH may lack
        (True, "/opt/driver/bin"),
        (True, r"D:\Windows\System32"),
        (True, r"C:\Program Files\NVIDIA Corporation\NVSMI"),  # of drivers before 2019
    ],
)
def test_nvidia_smi_is_found_wherever_a_driver_puts_it(
    windows: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: f"{place}|{name}" if place in path else None)
    assert find(ENVIRON, windows=windows) == f"{place}|nvidia-smi{'.exe' if windows else ''}"


def test_without_a_driver_nvidia_smi_is_its_bare_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert find(ENVIRON) == "nvidia-smi"


def test_a_port_is_had_by_who_listens_on_its_address_or_on_all() -> None:
    me = f"(pid {os.getpid()})"
    with socket.create_server(("127.0.7.1", 0)) as server:
        port = server.getsockname()[1]
        assert owner_of("127.0.7.1", port).endswith(me)
        assert str(bind_error("127.0.7.1", port)) == "[Errno 98] Address already in use"
        assert (owner_of("127.0.7.2", port), bind_error("127.0.7.2", port)) == ("", None)
    assert bind_error("127.0.7.1", port) is None
    for family in (socket.AF_INET, *([socket.AF_INET6] if socket.has_dualstack_ipv6() else [])):
        with socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as server:
            assert owner_of("127.0.7.1", server.getsockname()[1]).endswith(me)
    assert str(bind_error("192.0.2.99", 1)) == "[Errno 99] Cannot assign requested address"


@pytest.mark.parametrize(
    ("logon", "has_pythonw", "shows_none"),
    [("interactive", True, True), ("interactive", False, False), ("s4u", True, False), ("password", True, False)],
)
def test_a_task_of_who_is_signed_in_shows_no_window_to_be_closed(
    logon: str, has_pythonw: bool, shows_none: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **given: Any) -> "subprocess.CompletedProcess[bytes]":
        asked.append(json.loads(given["input"]))
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    python, without = tmp_path / "python.exe", tmp_path / "pythonw.exe"
    if has_pythonw:
        without.touch()
    start_task("launcher", ["-m", "winfleet.launch", "--log", "a b"], tmp_path, logon, "", str(python))
    execute, module = (without, "-m winfleet.machine.windowless ") if shows_none else (python, "")
    assert [(one["execute"], one["arguments"]) for one in asked] == [
        (str(execute), f'{module}-m winfleet.launch --log "a b"')
    ]


@pytest.mark.parametrize(("code", "shown"), [(0, 0), (3, 3), (0xC000013A, -0x3FFFFEC6), (0xFFFFFFFF, -1)])
def test_what_runs_without_a_window_has_a_console_and_its_end_is_told(
    code: int, shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int]] = []

    def call(command: list[str], *, creationflags: int) -> int:
        started.append((command, creationflags))
        return code

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "pythonw.exe"))
    assert windowless.main(["-m", "winfleet.launch", "--log", "a b"]) == shown
    words = [str(tmp_path / "python.exe"), "-m", "winfleet.launch", "--log", "a b"]
    assert started == [(words, 0x08000000)]  # CREATE_NO_WINDOW


# By a task, as a launcher is; what it wrote is as true without a window.
SHOWN = """
import sys
sys.path.insert(0, {package!r})
from pathlib import Path
from winfleet.machine.windows import start_task
code = "import sys; print('x'); open(sys.argv[1], 'w').write(sys.executable); sys.exit(7)"
start_task("shown", ["-c", code, {out!r}], Path({package!r}), "interactive", "", sys.executable)
"""


@in_the_lab
def test_an_interactive_task_runs_by_pythonw_and_its_end_is_known(lab: Lab, tmp_path: Path) -> None:
    pc, script, out = lab.up(1)[0], tmp_path / "shown.py", tmp_path / "out"
    script.write_text(SHOWN.format(package=windows(ROOT / "train"), out=windows(out)), "utf-8")
    command = [str(LAB), "run", pc, r"C:\lab\python\python.exe", windows(script)]
    null = subprocess.DEVNULL  # Wine's desktop may keep the other ends of pipes
    subprocess.run(command, env=SETTINGS, check=True, stdin=null, stdout=null, stderr=null)
    wait_until(out.exists, 60, "what the task writes")
    assert out.read_text("utf-8") == r"C:\lab\python\python.exe"
    ask = (
        "$t = Get-ScheduledTask -TaskPath '\\winfleet\\' -TaskName shown; $t.Actions[0].Execute; "
        "while ((Get-ScheduledTask -TaskName shown).State -eq 'Running') { Start-Sleep -Milliseconds 200 }; "
        "(Get-ScheduledTaskInfo -TaskPath '\\winfleet\\' -TaskName shown).LastTaskResult"
    )
    said = lab.command("run", pc, "powershell.exe", "-Command", ask).stdout
    assert said.split() == [r"C:\lab\python\pythonw.exe", "7"]
