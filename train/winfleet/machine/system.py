"""Cores and memory of this machine, and whether it waits for a restart. Standard library alone, for Ansible's module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

GIB = 2**30


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def memory_gib() -> float:
    """The machine's memory, GiB (Linux)."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)


def free_memory_gib() -> float | None:
    """Memory that programs can still have, GiB; the least of the machine's and the container's own."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit, used = (
            Path("/sys/fs/cgroup", name).read_text("ascii").strip() for name in ("memory.max", "memory.current")
        )
        limits += [int(limit) - int(used)] if limit.isdigit() else []
    except (OSError, ValueError):
        pass
    return round(max(0, min(limits)) / GIB, 1) if limits else None


def pending_restart() -> list[str]:
    """Why Debian and its kin want a restart; [] where they want none, or do not tell."""
    if not os.path.exists("/run/reboot-required"):
        return []
    try:
        packages = Path("/run/reboot-required.pkgs").read_text("utf-8", "replace").split()
    except OSError:
        packages = []
    return sorted(set(packages)) or ["updates"]
