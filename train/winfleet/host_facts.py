"""What a Linux host has for training, for the preflight. Standard library alone, for Ansible's module.

A Windows host is looked at by plugins/windows/winfleet_host.ps1, which needs no Python there; both give the same keys.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path

from .runs import GOING_ON, going_on, state_of

PORTS = range(29500, 29505)
GIB = 2**30


def resolve(address: str) -> str:
    """The IPv4 address of a name, the address itself if it is one, "" if it resolves to nothing."""
    try:
        return socket.gethostbyname(address)
    except OSError:
        return ""


def adapter_of(address: str) -> str:
    """Name of the adapter that has the address; "" where it is not known."""
    if address.startswith("127."):
        return "lo"
    try:
        found = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True, timeout=10)
        for adapter in json.loads(found.stdout):
            if any(entry.get("local") == address for entry in adapter.get("addr_info", [])):
                return str(adapter["ifname"])
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return ""


def bind_error(address: str, port: int) -> str:
    """Why the port cannot be listened on: "" for it can, "taken", or the system's words."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
            return ""
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else str(error.strerror)


def owner_of(port: int) -> str:
    """The process that listens on a port, "name (pid N)", where /proc tells; else "another process"."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                fields = [line.split() for line in list(lines)[1:]]
        except OSError:
            continue
        inodes |= {f"socket:[{f[9]}]" for f in fields if f[3] == "0A" and int(f[1].rpartition(":")[2], 16) == port}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) in inodes:
                pid = link.split("/")[2]
                with open(f"/proc/{pid}/comm") as name:
                    return f"{name.read().strip()} (pid {pid})"
        except OSError:
            continue
    return "another process"


def gpus() -> list[dict[str, object]]:
    """Name, driver and memory (MiB, 0 where it is not told) of each NVIDIA GPU, by nvidia-smi; [] where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, check=True, timeout=20, text=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in found.stdout.splitlines() if line.count(",") == 2]
    return [
        {
            "name": name,
            "driver": driver,
            "memory_mib": int(memory) if memory.isdigit() else 0,
        }  # [N/A] where it is shared
        for name, driver, memory in rows
    ]


def nearest_folder(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def look(home: str, address: str, run: str) -> dict[str, object]:
    """Everything that the preflight judges."""
    found = resolve(address)
    parent = nearest_folder(home)
    held = {port: error for port in PORTS if found and (error := bind_error(found, port))}
    taken = {str(port): owner_of(port) for port, error in held.items() if error == "taken"}
    return {
        "os": platform.system(),
        "release": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "disk_free_gb": round(shutil.disk_usage(parent).free / 1e9, 1),
        "home": home,
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "address": found,
        "address_error": next((error for error in held.values() if error != "taken"), ""),
        "adapter": adapter_of(found),
        "ports_taken": taken,
        "gpus": gpus(),
        "run_state": state_of(Path(home, "runs", run)) if run else "none",
        "going_on": [folder.name for folder in going_on(Path(home)) if state_of(folder) in GOING_ON],
    }
