"""What a rank that does not move is doing: the stacks of its threads, and the line of the user's code that it stands at.

A rank writes them itself, from the thread that beats, when its launcher asks by a file. That needs no rights and no signal,
so it is the same on Windows; it works while the main thread waits inside gloo, which gives Python's lock back.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from winfleet.core.files import write_atomic

REQUEST: Final = "stacks"  # in the run's folder; a new text in it is a new request
OURS: Final = os.path.dirname(os.path.dirname(__file__))
LIBRARIES: Final = tuple(
    {os.path.normcase(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")} | {os.path.normcase(OURS)}
)
PACKAGES: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
DISTRIBUTED: Final = f"{os.sep}torch{os.sep}distributed{os.sep}"
BACKWARD: Final = "_engine_run_backward"  # torch's own call, in which DDP waits for its gradients
WRAPPERS: Final = ("wrapper", "inner", "decorate_context", "_fn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a rank stands."""

    text: str  # train.py:88 in main, in all_reduce
    waits: bool  # inside a collective or a backward pass, where ranks wait for one another


def is_library(path: str) -> bool:
    """Whether the file is Python's own, an installed package's, or ours, and so not the user's."""
    path = os.path.normcase(path)
    return path.startswith(("<", *LIBRARIES)) or any(part in path for part in PACKAGES)


def find_place(frame: FrameType | None) -> Place:
    """The innermost line of the user's code, and the call that it waits in."""
    inner: list[tuple[str, str]] = []  # file and function of the libraries' frames, the innermost first
    while frame is not None and is_library(frame.f_code.co_filename):
        inner.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    collective = [name for path, name in inner if DISTRIBUTED in path and name not in WRAPPERS]
    called = [name for path, name in inner if not path.startswith(OURS) and name not in WRAPPERS]
    waits = bool(collective) or any(name == BACKWARD for _, name in inner)
    within = (collective or called)[-1:]
    if frame is None:
        return Place(text=f"in {within[0]}" if within else "outside the script", waits=waits)
    code = frame.f_code
    text = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
    return Place(text=", in ".join([text, *within]), waits=waits)


def describe_threads() -> str:
    """The stacks of all threads of this process, the main one first, the innermost call last."""
    frames, main = sys._current_frames(), threading.main_thread()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident in sorted(frames, key=lambda ident: ident != main.ident):
        lines = "".join(traceback.format_stack(frames[ident]))
        parts.append(f"Thread {names.get(ident, ident)}:\n{lines}")
    return "\n".join(parts)


class Teller:
    """Answers the launcher's requests for this rank's stacks."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self._answered = self._read()  # what stands there was meant for an earlier generation

    def _read(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / REQUEST).read_text("utf-8")
        return ""

    def look(self) -> Place | None:
        """Writes rank<r>.stack.txt and returns the place, once for each request; None where nobody asks."""
        request = self._read()
        if request in ("", self._answered):
            return None
        self._answered = request
        place = find_place(sys._current_frames().get(threading.main_thread().ident or 0))
        write_atomic(self.folder / f"rank{self.rank}.stack.txt", f"{place.text}\n\n{describe_threads()}")
        return place
