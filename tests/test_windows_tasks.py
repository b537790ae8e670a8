"""What a launcher and its task are to Windows, on one PC of the lab."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT
from windows_lab import Lab, in_the_lab, windows

pytestmark = in_the_lab

PYTHON = r"C:\lab\python\python.exe"
# Each call tells what was asked for before.
AWAKE = """
import ctypes, sys
sys.path.insert(0, {package!r})
from winfleet.machine.windows import keep_awake
keep_awake()
set_state = ctypes.WinDLL("kernel32").SetThreadExecutionState
set_state.restype = ctypes.c_uint32
print(hex(set_state(ctypes.c_uint32(0x80000000))))
"""
DESKTOP_SECONDS = 3.0  # by then who opened the window is done with it
# The task is registered and Windows does not start it.
LAUNCH = """
import subprocess, sys
sys.path.insert(0, {package!r})
from pathlib import Path
from winfleet.runs import control
control.LAUNCH_SECONDS = 2
for words in (["-Command", "1"], ["-Command", "[Console]::In.ReadToEnd()"]):
    subprocess.run(["powershell.exe", "-NoProfile", "-NonInteractive", *words], input=b"x", capture_output=True)
given = {{"machine_rank": 0, "agent": "0" * 12, "python": sys.executable, "logon": "password"}}
try:
    control.launch(Path(sys.argv[1]), given, {{}}, "lab")
except control.HostError as error:
    print(error)
"""


@contextlib.contextmanager
def ending_desktops(lab: Lab, pc: str) -> Iterator[None]:
    """Ends Wine's desktop meanwhile: it comes with a first window, and holds the pipes of whoever waits for that one to end."""
    over = threading.Event()

    def end() -> None:
        while not over.wait(DESKTOP_SECONDS):
            for pid in lab.processes(pc, "explorer.exe /desktop"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    ending = threading.Thread(target=end)
    ending.start()
    try:
        yield
    finally:
        over.set()
        ending.join()


def test_a_launcher_keeps_its_pc_awake(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "awake.py"
    script.write_text(AWAKE.format(package=windows(ROOT / "train")), "utf-8")
    done = lab.command("run", lab.up(1)[0], PYTHON, windows(script))
    assert done.stdout.split() == ["0x80000001"], done.stdout + done.stderr  # ES_CONTINUOUS and ES_SYSTEM_REQUIRED


def test_a_task_that_windows_does_not_start_is_told_with_its_result_and_the_fix(lab: Lab, tmp_path: Path) -> None:
    pc, script, folder = lab.up(1)[0], tmp_path / "launch.py", tmp_path / "home" / "runs" / "refused"
    folder.mkdir(parents=True)
    script.write_text(LAUNCH.format(package=windows(ROOT / "train")), "utf-8")
    refused = f"$null = mkdir -Force C:\\lab\\tasks; Set-Content C:\\lab\\tasks\\launcher.refused {0x80070569 - 2**32}"
    with ending_desktops(lab, pc):
        assert lab.command("run", pc, "powershell.exe", "-Command", refused).returncode == 0
        try:
            done = lab.command("run", pc, PYTHON, windows(script), windows(folder))
        finally:
            (lab.prefix(pc) / "lab" / "tasks" / "launcher.refused").unlink()
    words = "the launcher said nothing within 2 s, and Windows says 0x80070569 of its scheduled task: this account may not sign in as a batch job"
    assert done.stdout.splitlines()[:1] == [words], done.stdout + done.stderr
    assert "[task-batch]\n  hint: in secpol.msc, " in done.stdout.replace("\r", "")
    task = "$t = Get-ScheduledTask -TaskPath '\\winfleet\\' -TaskName launcher; $t.Principal.LogonType, $t.Settings.MultipleInstances"
    assert lab.command("run", pc, "powershell.exe", "-Command", task).stdout.split() == ["Password", "Parallel"]
