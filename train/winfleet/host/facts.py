"""What a Linux host has for training, for the preflight. Standard library alone, for Ansible's module.

A Windows host is looked at by plugins/windows/winfleet_host.ps1, which needs no Python there; both give the same keys, and what
a system cannot tell is None. train/winfleet/preflight/found.py reads them.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from ..core.files import nearest_folder
from ..machine.network import adapter_of, adapters, own_addresses, resolve
from ..machine.nvidia_smi import gpus
from ..machine.ports import bind_error, dynamic_ports, owner_of
from ..machine.system import free_memory_gib, memory_gib, pending_restart, usable_cores
from ..runs.state import GOING_ON, going_on, state_of

PORTS = range(29500, 29505)


def interpreter_version(python: str) -> str | None:
    """Version of the interpreter that was given for training; None where none was, or where it does not run."""
    if not python:
        return None
    question = "import platform; print(platform.python_version())"
    try:
        said = subprocess.run([python, "-I", "-c", question], capture_output=True, check=True, timeout=30, text=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()


def folders_there(home: str) -> dict[str, list[str]]:
    """Digests (12 hex digits) of what was sent or made here, by kind. An environment counts once it is whole."""
    found = {
        kind: glob.glob(os.path.join(glob.escape(home), kind, "[0-9a-f]" * 12)) for kind in ("code", "data", "agent")
    }
    marks = glob.glob(os.path.join(glob.escape(home), "env", "[0-9a-f]" * 12, "winfleet.json"))
    found["env"] = [os.path.dirname(mark) for mark in marks]
    newest_first = {kind: sorted(paths, key=os.path.getmtime, reverse=True) for kind, paths in found.items()}
    return {kind: [os.path.basename(path) for path in paths] for kind, paths in newest_first.items()}


def look(home: str, address: str, run: str, interpreter: str = "") -> dict[str, Any]:
    """Everything that the preflight judges."""
    found = resolve(address)
    parent = nearest_folder(Path(home))
    held = {port: error for port in PORTS if found and (error := bind_error(found, port))}
    taken = {port for port, error in held.items() if error.errno == errno.EADDRINUSE}
    all_adapters, name = adapters(), socket.gethostname()
    return {
        "os": platform.system(),
        "release": platform.platform(),
        "python": interpreter_version(interpreter),
        "cores": usable_cores(),
        "memory_gib": memory_gib(),
        "memory_free_gib": free_memory_gib(),
        "disk_free_gb": round(shutil.disk_usage(parent).free / 1e9, 1),
        "home": home,
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "name": name,
        "resolves": own_addresses(name),
        "address": found,
        "address_error": next((str(error.strerror) for port, error in held.items() if port not in taken), ""),
        "adapter": adapter_of(found, all_adapters),
        "adapters": all_adapters,
        "ports_taken": {str(port): owner_of(found, port) for port in taken},
        "dynamic_ports": dynamic_ports(),
        "excluded_ports": [],
        "gpus": gpus(),
        "clock": time.time(),
        "power": None,
        "reboot": pending_restart(),
        "active_hours": None,
        "firewall": None,
        "app_control": None,
        "long_paths": None,
        "run_state": state_of(Path(home, "runs", run)) if run else "none",
        "going_on": [folder.name for folder in going_on(Path(home)) if state_of(folder) in GOING_ON],
        "there": folders_there(home),
    }
