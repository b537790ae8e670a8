"""One Windows PC that is a Wine prefix: boots it, and runs command lines in it as WinRM does, each remote shell in a Windows job object."""

from __future__ import annotations

import math
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 128 * 1024  # bytes of output handed out at once
QUIET = 0.1  # seconds without output after which a finished program has none left in its pipes
CHATTY = 5.0  # seconds in which a finished program's left-behind children may still add output
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"  # of Debian's package libfaketime
PROGRAMS_HOME = r"C:\lab\powershell"  # the engine and the programs beside it; not where Windows has its own, where it would take its modules for those of 5.1
WINE_NOISE = re.compile(rb"^wine: Read access denied for device .*\r?\n", re.MULTILINE)


class Silence(Exception):
    """A command had nothing to say for the time that its reader would wait."""


@dataclass
class Command:
    """One process in a shell, and the output that nobody has fetched yet."""

    process: subprocess.Popen[bytes]
    ready: threading.Condition = field(default_factory=threading.Condition)
    output: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    finished: bool = False
    ended: float = math.inf  # when the process did, monotonic

    def __post_init__(self) -> None:
        collectors = [threading.Thread(target=self._collect, args=(name,), daemon=True) for name in self.output]
        for thread in (*collectors, threading.Thread(target=self._wait, args=(collectors,), daemon=True)):
            thread.start()

    def _collect(self, name: str) -> None:
        """Until nobody has the pipe any more, or the process has ended and its pipe is empty, however late this thread runs."""
        stream = getattr(self.process, name)
        while time.monotonic() < self.ended + CHATTY:
            over = self.ended < math.inf  # asked before the pipe is
            if not select.select([stream], [], [], QUIET)[0]:
                if over:
                    return
                continue
            if not (data := os.read(stream.fileno(), CHUNK)):
                return
            if name == "stderr":
                data = WINE_NOISE.sub(b"", data)
            with self.ready:
                self.output[name] += data
                self.ready.notify_all()

    def _wait(self, collectors: list[threading.Thread]) -> None:
        """The command is over when its process is, although a child may hold the pipes open."""
        self.process.wait()
        self.ended = time.monotonic()
        for thread in collectors:
            thread.join()
        with self.ready:
            self.finished = True
            self.ready.notify_all()

    def receive(self, timeout: float) -> tuple[dict[str, bytes], int | None]:
        """What has come since the last call, and the exit code once all is over. Raises Silence after `timeout` seconds."""
        with self.ready:
            if not self.ready.wait_for(lambda: any(self.output.values()) or self.finished, timeout):
                raise Silence
            taken = {}
            for name, buffer in self.output.items():
                taken[name] = bytes(buffer[:CHUNK])
                del buffer[:CHUNK]
            done = self.finished and not any(self.output.values())
        return taken, self.process.wait() & 0xFFFFFFFF if done else None

    def end(self) -> None:
        """Ends the process; what it started goes on until the shell ends."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Shell:
    """A remote shell: its variables, and the Windows job object (winrshost.c) that all its processes are in."""

    name: str
    environment: dict[str, str]
    working_directory: str | None
    job: subprocess.Popen[bytes]
    commands: dict[str, Command] = field(default_factory=dict)

    def end(self) -> None:
        """Ends every process of the shell, except what left its job."""
        assert self.job.stdin
        self.job.stdin.close()
        try:
            self.job.wait(10)
        except subprocess.TimeoutExpired:
            self.job.kill()
        for command in self.commands.values():
            command.end()


class Wine:
    """One PC's Windows: boots it, and starts command lines in it."""

    POWERSHELL = re.compile(r'^\s*"?(?:[^"\s]*[\\/])?(?:powershell|pwsh)(?:\.exe)?"?(?=\s|$)', re.IGNORECASE)

    def __init__(self, prefix: str, powershell: str, wine: str = "wine") -> None:
        self.drive, self.wine = Path(prefix, "drive_c"), wine
        self.programs = os.path.dirname(os.path.abspath(powershell))
        self.environment = {
            **os.environ,
            "WINEDEBUG": "-all",
            "WINEPREFIX": prefix,
            "WINEARCH": "win64",
            "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8"),
            "WINEPATH": PROGRAMS_HOME,  # powershell, powercfg, winrm, … for every program
            "DOTNET_EnableWriteXorExecute": "0",  # .NET's W^X mapping crashes under Wine 8
            # a task's program lives for a second: counts for a better compilation, and collections of garbage, are a tenth of it
            "DOTNET_TieredPGO": "0",
            "DOTNET_gcConcurrent": "0",
            "DOTNET_GCgen0size": "0x4000000",
            "WINEDLLOVERRIDES": f"{os.environ.get('WINEDLLOVERRIDES', '')};shutdown.exe=n".lstrip(";"),
        }  # ours, not Wine's

    def call(self, *arguments: str) -> int:
        return subprocess.run(
            arguments,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode

    def boot(self) -> None:
        """Starts Windows with its automatic services, and keeps it running when no program does."""
        lab = self.drive / "lab"
        lab.mkdir(exist_ok=True)
        for stale in ("winrm.running", "mpssvc.running", "reboot"):
            (lab / stale).unlink(missing_ok=True)
        (lab / "booted").touch()
        home = lab / "powershell"
        home.unlink(missing_ok=True)
        home.symlink_to(self.programs)
        system = self.drive / "windows/system32"
        names = ("winrshost.exe", "shutdown.exe", "fltmc.exe", "WindowsPowerShell/v1.0/powershell.exe")
        for name in names:  # of one program
            copy = system / name
            copy.unlink(missing_ok=True)  # it may be a link to the template's
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{self.programs}/winrshost.exe", copy)
        self.call("wineserver", "-p")
        for _ in range(20):  # the service manager may not be up yet
            code = self.call(
                self.wine,
                "sc",
                "create",
                "WinRM",
                "binPath=",
                r"C:\windows\system32\winrshost.exe service",
                "start=",
                "demand",
                "DisplayName=",
                "Windows Remote Management (WS-Management)",
            )
            if code in (0, 1073 & 0xFF):  # made, or there from an earlier boot (ERROR_SERVICE_EXISTS)
                break
            time.sleep(0.2)
        self.call(self.wine, f"{self.programs}/winrshost.exe", "shell", "boot")  # brings up the desktop
        # Windows makes this key when the logon screen is up; win_reboot waits for it
        self.call(
            self.wine,
            "reg",
            "add",
            r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon\AutoLogonChecked",
            "/f",
        )
        for _ in range(100):  # that of the firewall starts with Windows, a moment later
            if (lab / "mpssvc.running").exists():
                break
            time.sleep(0.1)

    def sockets(self) -> str:
        """PORT PID PROGRAM, a line for each socket."""
        done = subprocess.run(
            [self.wine, f"{self.programs}/winrshost.exe", "sockets"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
        )
        return done.stdout.decode().replace("\r", "")

    def halt(self) -> None:
        self.call("wineserver", "-k")
        self.call("wineserver", "-w")

    def open_job(self, name: str) -> tuple[subprocess.Popen[bytes], bool]:
        """A job object for a new shell, and whether LocalAccountTokenFilterPolicy is set."""
        for _ in range(3):  # a program sometimes ends as it starts on Wine; that says nothing of the policy
            job = subprocess.Popen(
                [self.wine, f"{self.programs}/winrshost.exe", "shell", name],
                env=self.environment,
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert job.stdout
            policy = job.stdout.readline().strip()
            if policy in (b"0", b"1"):
                return job, policy == b"1"
            job.wait()
        raise RuntimeError(f"winrshost.exe says {policy!r} of the token filter's policy")

    def clock(self) -> dict[str, str]:
        r"""Variables by which what starts sees a clock that is off by the seconds in C:\lab\clock; none without that file."""
        try:
            seconds = float((self.drive / "lab" / "clock").read_text())
        except FileNotFoundError:
            return {}
        return {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME": f"{seconds:+.0f}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def start(self, line: str, shell: Shell) -> subprocess.Popen[bytes]:
        match = self.POWERSHELL.match(line)
        command = f'"{PROGRAMS_HOME}\\powershell.exe"{line[match.end() :]}' if match else f"cmd.exe /c {line}"
        return subprocess.Popen(
            [self.wine, f"{self.programs}/winrshost.exe", "run", shell.name],
            start_new_session=True,
            env={**self.environment, **shell.environment, **self.clock(), "WINRS_COMMAND": command},
            cwd=self.unix_path(shell.working_directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def unix_path(self, windows_path: str | None) -> Path:
        if windows_path and windows_path[:2].lower() == "c:":
            path = self.drive / windows_path[2:].replace("\\", "/").strip("/")
            if path.is_dir():
                return path
        return self.drive
