"""A program that a host's part of the rehearsal starts: it speaks in lines of JSON, and ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.core.files import as_object, end_of
from winfleet.core.reading import plain

LAST_LINES: Final = 5


class RehearseError(RuntimeError):
    """Why something that was asked for could not be done; one sentence."""


class Child:
    """A program of the rehearsal that speaks in lines of JSON, and ends with it."""

    def __init__(self, words: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=dict(environment), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, start_new_session=os.name != "nt",
            )  # fmt: skip

    def read(self) -> dict[str, Any]:
        """Its next answer. Raises RehearseError with its last words where it ended instead."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                return as_object(line)
        self.process.wait()
        raise RehearseError(self.last_words())

    def ask(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a line and reads the answer. Raises RehearseError."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(values).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise RehearseError(self.last_words()) from None
        return self.read()

    def last_words(self) -> str:
        """The last lines that it wrote to its log."""
        lines = [line.strip() for line in plain(end_of(self.log, 4_000), 4_000).split("\n")]
        if said := [line for line in lines if line][-LAST_LINES:]:
            return said[-1] if len(said[-1]) > 20 else " / ".join(said)
        return f"it ended with {self.process.poll()} and said nothing"

    def end(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(OSError):
            if os.name == "nt":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
