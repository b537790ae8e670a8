"""What a host tells of itself in a rehearsal: versions, the digests of what it really has, and what its own name resolves to."""

from __future__ import annotations

import contextlib
import hmac
import importlib.metadata
import platform
import socket
import sys
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any, Final

import psutil

from winfleet.core.plan import Plan
from winfleet.environments.environment import lock_of
from winfleet.transfer.folders import digest

DIGEST_BYTES: Final = 256 * 2**20  # larger folders are compared by names and sizes alone
RESOLVE_SECONDS: Final = 5.0


def tell(plan: Plan, home: Path) -> dict[str, Any]:
    """All of it, as checks.Facts reads it."""
    found = {}
    for kind, named in (("code", plan.code), ("data", plan.data)):
        if named is not None:
            found[kind] = folder_digest(home / kind / named)
    name, addresses, seconds = resolve_own_name()
    return {
        "python": platform.python_version(), "lock": lock_of_this(home), "packages": versions(), "folders": found,
        "host_name": name, "resolves": addresses, "resolve_seconds": seconds,
        "memory_free_bytes": psutil.virtual_memory().available,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Name (lower case) -> version of every package of this Python."""
    found = {}
    for package in importlib.metadata.distributions():
        with contextlib.suppress(KeyError, TypeError):
            found[package.metadata["Name"].lower().replace("_", "-")] = package.version
    return found


def lock_of_this(home: Path) -> str:
    """Digest of the lock that this Python's environment was made from; "" where an interpreter was given."""
    folder = Path(sys.prefix)
    return lock_of(folder) if folder.is_relative_to(home / "env") else ""


def folder_digest(folder: Path) -> tuple[str, bool]:
    """(digest, whether it covers the content): of a large folder names and sizes alone. ("", True) where there is none."""
    if not folder.is_dir():
        return "", True
    sizes = {
        PurePosixPath(path.relative_to(folder).as_posix()): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    if sum(sizes.values()) <= DIGEST_BYTES:
        return digest(folder, sizes), True
    listing = "".join(f"{size} {name}\n" for name, size in sorted(sizes.items()))
    return hmac.new(b"", listing.encode("utf-8", "surrogateescape"), "sha256").hexdigest(), False


def resolve_own_name() -> tuple[str, list[str], float]:
    """(host name, its IPv4 addresses, seconds it took to look them up); [] where it resolves to nothing in time."""
    name, found, begin = socket.gethostname(), list[str](), time.monotonic()

    def look() -> None:
        with contextlib.suppress(OSError):
            found.extend(socket.gethostbyname_ex(name)[2])

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(RESOLVE_SECONDS)
    return name, list(found), time.monotonic() - begin
