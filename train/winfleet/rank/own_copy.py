"""Gives the run a copy of its own of a large file of data/ before the script writes into it: data/<digest> keeps as it came.

In the work folder such a file is a link, as a second copy would fill the disk. Python tells before it opens a file; what
other programs write is refused by the file's mode on Linux, and noticed at the end (winfleet.runs.work).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch

from winfleet.core.files import held, replace

WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_TRUNC
LOOK_SECONDS: Final = 0.1


def linked_files(folder: Path) -> frozenset[str]:
    """Absolute paths of the links below the run's work/, as its record has them."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        files = json.loads((folder / "work.json").read_text("utf-8"))["files"]
        return frozenset(path_of(folder / "work" / name) for name, entry in files.items() if "source" in entry)
    return frozenset()


def path_of(path: Any) -> str:
    """The path as it is compared: absolute, on Windows without capitals."""
    return os.path.normcase(os.path.abspath(os.fsdecode(path)))


def is_link(path: Path) -> bool:
    """Whether it is still shared with data/<digest>."""
    return path.is_symlink() or (path.exists() and path.stat().st_nlink > 1)


def make_own(path: Path, lock: Path, *, empty: bool) -> None:
    """A copy in the link's place, an empty one where the writer begins anew; once, whichever ranks ask. Raises OSError."""
    if path.exists() and not is_link(path) and not os.access(path, os.W_OK):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)  # the other names of it are gone
    while is_link(path):
        with held(lock) as mine:
            if mine and is_link(path):
                fresh = path.with_name(f".{os.getpid()}.new")
                try:
                    if empty:
                        fresh.touch()
                    else:
                        shutil.copy2(path, fresh)
                    fresh.chmod(fresh.stat().st_mode | stat.S_IWUSR)
                    replace(fresh, path)
                finally:
                    fresh.unlink(missing_ok=True)
                print(f"winfleet: {path.name} gets written to; the run has a copy of its own now", flush=True)
                return
        time.sleep(LOOK_SECONDS)


def watch_writes(folder: Path) -> None:
    """Looks at every file that this process is about to open, where the run has links at all."""
    if not (links := linked_files(folder)):
        return
    lock = folder / "work.lock"

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & WRITING and not isinstance(given[0], int):
            path = path_of(given[0])
            if path in links:
                make_own(Path(path), lock, empty=bool(given[2] & os.O_TRUNC))

    sys.addaudithook(hook)
    save = torch.save

    def watched_save(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | os.PathLike):  # C++ opens it
            sys.audit("open", f, "wb", os.O_WRONLY | os.O_TRUNC)
        save(obj, f, *args, **kwargs)

    torch.save = watched_save
