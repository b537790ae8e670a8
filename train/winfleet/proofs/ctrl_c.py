"""Runs a program, presses Ctrl-C in its console once a file is there, and ends as it ends. Standard library alone.

    python -m winfleet.proofs.ctrl_c --go FILE -- program words…

On Windows it must have been started in a console of its own, whose processes all get the key.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

CTRL_C_EVENT: Final = 0  # wincon.h
GO_SECONDS: Final = 600.0


def press() -> None:
    """Ctrl-C for every process of this console, or of this session, but this one."""
    if os.name == "nt":
        windll: Any = ctypes.__dict__["WinDLL"]
        kernel32 = windll("kernel32")
        kernel32.SetConsoleCtrlHandler(None, 1)  # from here on, not inherited by who runs already
        kernel32.GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(os.getpgid(0), signal.SIGINT)


def main() -> int:
    """The command line; returns the program's exit status."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.proofs.ctrl_c")
    parser.add_argument("--go", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    found = parser.parse_args()
    process = subprocess.Popen(found.command[1:])
    deadline = time.monotonic() + GO_SECONDS
    while not found.go.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    press()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
