"""Files that others read or hold while they are written. Standard library alone, for Ansible's modules too."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPLACE_SECONDS = 5.0


def replace(source: Path, target: Path) -> None:
    """os.replace, tried again for seconds on Windows: scanners and indexers hold files open for moments (WinError 5 and 32).

    Raises OSError where it still fails.
    """
    deadline = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def write_atomic(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader sees the old text or the new one, as UTF-8 and without a change of line ends.

    Raises OSError.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8"))
        replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def as_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object that somebody else wrote, {} where it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """The same of a file; {} also where it cannot be read."""
    try:
        return as_object(path.read_bytes())
    except OSError:
        return {}


def end_of(path: Path, most: int) -> str:
    """The last bytes of a log as text, "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def nearest_folder(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), path)


def temporary_variables(home: Path) -> dict[str, str]:
    """TEMP and TMP for Windows: a folder below fleet_home, made where it is missing. Raises OSError.

    Windows' own is below the user's folder: on another disk perhaps, and with letters that libraries of packages,
    which open files by the ANSI code page, cannot read.
    """
    folder = home / "temp"
    folder.mkdir(parents=True, exist_ok=True)
    return {"TEMP": str(folder), "TMP": str(folder)}


def new_temporary(home: Path) -> Path:
    """A new folder for what is packed for the controller; on Windows below fleet_home. Raises OSError."""
    place = temporary_variables(home)["TEMP"] if os.name == "nt" else None
    return Path(tempfile.mkdtemp(prefix="ansible-tmp-winfleet-", dir=place))


@contextlib.contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Holds the lock's file if nobody does, and says so; the system lets go of it when a process ends, however it ends.

    plugins/windows/winfleet_host.ps1 looks whether somebody has it open. Raises OSError where there is no such folder.
    """
    with lock.open("ab") as file:
        try:
            if os.name == "nt":
                import msvcrt

                file.seek(0)
                msvcrt.__dict__["locking"](file.fileno(), msvcrt.__dict__["LK_NBLCK"], 1)  # mypy looks at Linux
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def send_output_to(log_file: Path) -> None:
    """All output of this process and of its children goes to the file's end, as UTF-8 whatever the system's code page is."""
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout, sys.stderr = (  # a scheduled task of Windows has none of its own
        io.TextIOWrapper(io.FileIO(stream, "w", closefd=False), encoding="utf-8", errors="replace", write_through=True)
        for stream in (1, 2)
    )
