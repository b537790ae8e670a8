"""One console for the ranks and for our own lines: a progress bar of the script is no line, so ours must not go on in it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Final

STDOUT, STDERR = 1, 2
BLOCK_BYTES: Final = 65_536
DRAIN_SECONDS: Final = (
    5.0  # for what ranks have written when they end; what a script left running may hold its pipe longer
)


class Relay:
    """Hands on what ranks write to standard output and error, and knows whether it stands in the middle of a line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets = {fd: os.dup(fd) for fd in (STDOUT, STDERR)}
        found = {fd: os.fstat(target) for fd, target in self._targets.items()}
        # 2>&1 makes them one
        self._places = {fd: (stat.st_dev, stat.st_ino) for fd, stat in found.items()}
        self._in_line = dict.fromkeys(self._places.values(), False)
        self._pumps = [self._begin(fd) for fd in (STDOUT, STDERR)]

    def _begin(self, fd: int) -> threading.Thread:
        source, drain = os.pipe()
        os.dup2(drain, fd)
        os.close(drain)
        pump = threading.Thread(target=self._pump, args=(source, fd), daemon=True, name="winfleet-console")
        pump.start()
        return pump

    def _pump(self, source: int, fd: int) -> None:
        while block := os.read(source, BLOCK_BYTES):
            with self._lock, contextlib.suppress(OSError):  # nobody reads any more; the training goes on
                self._write(fd, block)
        os.close(source)

    def _write(self, fd: int, block: bytes) -> None:
        self._in_line[self._places[fd]] = not block.endswith(b"\n")
        while block:
            block = block[os.write(self._targets[fd], block) :]

    def say(self, text: str) -> None:
        """A line of ours, on standard error."""
        with self._lock, contextlib.suppress(OSError):
            begin = "\n" if self._in_line[self._places[STDERR]] else ""
            self._write(STDERR, f"{begin}{text}\n".encode("utf-8", "replace"))

    def end(self) -> None:
        """What was written comes out, and both are as they were."""
        for fd, target in self._targets.items():
            os.dup2(target, fd)
        for pump in self._pumps:
            pump.join(DRAIN_SECONDS)


class Lines(logging.Handler):
    """Log records as lines of the console: over a progress bar, which draws itself anew, where it is a terminal."""

    def __init__(self, relay: Relay | None) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        """Writes it."""
        text = self.format(record)
        if self._relay is not None:
            self._relay.say(text)
        else:
            print("\r" + text.ljust(shutil.get_terminal_size().columns - 1), file=sys.stderr, flush=True)


@contextlib.contextmanager
def shared_with(log: logging.Logger, formatter: logging.Formatter) -> Iterator[None]:
    """The log's records are lines of their own on a console that ranks write to as well."""
    terminal = sys.stderr.isatty()
    relay = None if terminal or os.name == "nt" else Relay()  # a terminal stays one for the script
    lines = Lines(relay)
    lines.setFormatter(formatter)
    log.addHandler(lines)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(lines)
        if relay is not None:
            relay.end()
