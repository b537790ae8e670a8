"""What the benches share: the machine that figures belong to, programs and when their lines come, goals, and the exit status."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from namespaces import NetError
from winfleet.machine.system import usable_cores

ROOT: Final = Path(__file__).resolve().parent.parent


class BenchError(RuntimeError):
    """A program that failed, figures that are not there, or a machine that lacks what this needs."""


def measure(function: Callable[[], None]) -> int:
    """Measures; the exit status: 0 whatever the figures say, 1 where something fails."""
    try:
        function()
    except (BenchError, NetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def need_root(parser: argparse.ArgumentParser) -> None:
    """Ends with a usage error without root. SIGTERM becomes an exit, so that namespaces and programs go with it."""
    if os.geteuid() != 0:
        parser.error("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def print_machine(*packages: str, note: str = "") -> None:
    """Prints the machine and the versions that the figures belong to, its load and the time."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        model = found[1] if found else model
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "accelerate", *packages))
    print(f"{usable_cores()} cores ({model}), {platform.system()}, Python {platform.python_version()}, {versions}")
    print(f"load {os.getloadavg()[0]:.2f} at {time.strftime('%Y-%m-%d %H:%M')}{note}", flush=True)


def goal(value: float, limit: float, *, sign: str = "≤", form: str = "g") -> str:
    """A goal, and whether it is met."""
    met = value <= limit if sign == "≤" else value >= limit
    return f"goal {sign} {limit:{form}}: {'met' if met else 'missed'}"


def children_seconds() -> float:
    """CPU seconds of child processes that have ended, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def tool(name: str) -> str:
    """A program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def hosts_of(inventory: str, group: str) -> list[str]:
    """Names of a group's hosts, as Ansible lists them."""
    command = [tool("ansible"), group, "-i", inventory, "--list-hosts"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()[2:]  # behind "hosts (N):"


class Program:
    """A program, and what it prints, each line with the time at which it came. Where its context ends it is ended, too."""

    def __init__(self, command: Sequence[str | Path], **how: Any) -> None:
        self.lines: list[tuple[float, str]] = []
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **how)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.perf_counter(), line.rstrip("\n")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float | None = None) -> int:
        """Its exit status, once it has printed all; after so many seconds it is asked to end."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.process.terminate()
            self._thread.join()
        return self.process.wait()

    def when(self, text: str) -> float | None:
        """When a line with the text came first."""
        return next((moment for moment, line in list(self.lines) if text in line), None)

    def said(self) -> str:
        """The whole of what it printed, once it has ended."""
        self._thread.join(10)
        return "\n".join(line for _, line in self.lines)


@contextlib.contextmanager
def programs(commands: Sequence[Sequence[str]], log: Path, **how: Any) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs in the background, whose output goes to the log's end; those that still run at the end are ended."""
    started: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as file:
        try:
            started.extend(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **how)
                for command in commands
            )
            yield started
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()
