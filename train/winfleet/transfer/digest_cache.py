"""SHA-256 of files as they were last read, so that a folder that has not changed is digested without reading it again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Final

from winfleet.core.files import read_object, write_atomic
from winfleet.transfer.folders import content_of

YOUNG_NS: Final = 2 * 10**9  # what changed so recently may change again within one tick of the disk's clock


class DigestCache:
    """Content of a folder's files by their path, size, inode and times (ns) of change.

    A file that was restored with its old size and time is found too, as the system itself sets st_ctime. What stays is
    a disk whose clock was set back, or that keeps no st_ctime of its own (some network disks).
    """

    def __init__(self, cache: Path, folder: Path) -> None:
        named = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
        self.path = cache / "digests" / f"{named[:12]}.json"
        self.before: dict[str, list[int | str]] = read_object(self.path)
        self.now: dict[str, list[int | str]] = {}

    def content_of(self, path: Path) -> tuple[str, int]:
        """SHA-256 (64 hex digits) and size of a file, read where it may have changed. Raises OSError."""
        begun, name = time.time_ns(), str(path)
        seen = _identity(path)
        known = self.before.get(name)
        if known is not None and known[:-1] == seen:
            self.now[name] = known
            return str(known[-1]), int(known[0])
        content, size = content_of(path)
        if _identity(path) == seen and max(seen[1:3]) < begun - YOUNG_NS:
            self.now[name] = [*seen, content]
        return content, size

    def save(self) -> None:
        """Keeps what is known now, in place of what was known before. Raises OSError."""
        if self.now != self.before:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps(self.now))


def _identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
