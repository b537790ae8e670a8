"""NVIDIA's own program nvidia-smi: where it is, what it answers, and the GPUs that it lists. Standard library alone, for Ansible's module."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

FULL = ("name", "driver_version", "memory.total", "uuid", "memory.free", "compute_cap")
PLAIN = FULL[:3]  # what drivers know that have no compute_cap yet (before 510)
PROCESSES = ("gpu_uuid", "pid", "process_name", "used_gpu_memory")
SECONDS = 20.0


def find(environ: Mapping[str, str] = os.environ, *, windows: bool = os.name == "nt") -> str:
    """The program, by PATH or where a driver puts it while a task's PATH may lack that folder; its bare name where it is not there."""
    places = [environ.get("PATH", os.defpath)]
    if windows:  # drivers before 2019 had a folder of their own
        places += [
            f"{environ.get('SystemRoot', '')}\\System32",
            f"{environ.get('ProgramFiles', '')}\\NVIDIA Corporation\\NVSMI",
        ]
    else:
        places += ["/usr/lib/wsl/lib"]
    name = "nvidia-smi.exe" if windows else "nvidia-smi"
    return shutil.which(name, path=os.pathsep.join(places)) or "nvidia-smi"


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


def query(what: str, fields: Sequence[str], seconds: float = SECONDS) -> list[list[str]]:
    """Rows of nvidia-smi's answer; [] where there is no driver, or where it does not know a field."""
    command = [find(), f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=seconds, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(", ")] for line in said.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def whole(told: str) -> int | None:
    """The number; None for [N/A], which shared GPUs and most Windows drivers say."""
    return int(told) if told.isascii() and told.isdigit() else None
