"""The NVIDIA GPUs of a Linux host by nvidia-smi, for the preflight. Standard library alone, for Ansible's module."""

from __future__ import annotations

import os
import subprocess
from typing import Any

FULL = ("name", "driver_version", "memory.total", "uuid", "memory.free", "compute_cap")
PLAIN = FULL[:3]  # what drivers know that have no compute_cap yet (before 510)
PROCESSES = ("gpu_uuid", "pid", "process_name", "used_gpu_memory")
SECONDS = 20


def gpus() -> list[dict[str, Any]]:
    """Each GPU's name, driver, memory (MiB), compute capability and processes; [] without any. None: not told."""
    rows = query("gpu", FULL) or query("gpu", PLAIN)
    users = [dict(zip(PROCESSES, row, strict=True)) for row in query("compute-apps", PROCESSES)] if rows else []
    found = []
    for row in rows:
        told = dict(zip(FULL, row, strict=False))
        mine = [user for user in users if told.get("uuid") and user["gpu_uuid"] == told["uuid"]]
        found.append({
            "name": told["name"], "driver": told["driver_version"], "memory_mib": whole(told["memory.total"]) or 0,
            "free_mib": whole(told.get("memory.free", "")), "capability": told.get("compute_cap"),
            "processes": [
                {"name": os.path.basename(user["process_name"]), "pid": whole(user["pid"]), "mib": whole(user["used_gpu_memory"])}
                for user in mine
            ],
        })  # fmt: skip
    return found


def query(what: str, fields: tuple[str, ...]) -> list[list[str]]:
    """Rows of nvidia-smi's answer; [] where there is no driver, or where it does not know a field."""
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=SECONDS, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(", ")] for line in said.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def whole(told: str) -> int | None:
    """The number; None for [N/A], which shared GPUs and most Windows drivers say."""
    return int(told) if told.isascii() and told.isdigit() else None
