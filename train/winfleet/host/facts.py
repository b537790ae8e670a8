"""What a Linux host has for training, for the preflight. Standard library alone, for Ansible's module.

A Windows host is looked at by plugins/windows/winfleet_host.ps1, which needs no Python there; both give the same keys, and what
a system cannot tell is None. train/winfleet/preflight/found.py reads them.
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
import time
from pathlib import Path
from typing import Any

from ..machine.nvidia_smi import gpus
from ..runs.state import GOING_ON, going_on, state_of

PORTS = range(29500, 29505)
GIB = 2**30


def resolve(address: str) -> str:
    """The IPv4 address of a name, the address itself if it is one, "" if it resolves to nothing."""
    try:
        return socket.gethostbyname(address)
    except OSError:
        return ""


def own_addresses(name: str) -> list[str]:
    """What the host's own name resolves to, in the order in which gloo would take it; [] where to nothing."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def adapters() -> list[dict[str, Any]]:
    """Name, kind by the system, speed (Mbit/s) and IPv4 addresses of each adapter that is up; [] where `ip` is not there."""
    try:
        said = subprocess.run(["ip", "-json", "-details", "address"], capture_output=True, check=True, timeout=10)
        told = [adapter for adapter in json.loads(said.stdout) if "UP" in adapter.get("flags", [])]
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return []
    return [
        {
            "name": each.get("ifname"), "description": "", "type": adapter_type(each), "mbit": speed(str(each.get("ifname"))),
            "addresses": [
                entry["local"] for entry in each.get("addr_info", []) if entry.get("family") == "inet" and "local" in entry
            ],
        }
        for each in told
    ]  # fmt: skip


def adapter_type(told: dict[str, Any]) -> str:
    """What the kernel calls it: loopback, wlan, or the kind of a virtual one such as tun, wireguard, bridge, veth."""
    if told.get("link_type") == "loopback":
        return "loopback"
    if os.path.isdir(f"/sys/class/net/{told.get('ifname')}/wireless"):
        return "wlan"
    return str(told.get("linkinfo", {}).get("info_kind", ""))


def speed(adapter: str) -> int | None:
    """Mbit/s of the link; None where there is none to tell, as of a virtual adapter."""
    try:
        found = int(Path("/sys/class/net", adapter, "speed").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return found if found > 0 else None


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


def dynamic_ports() -> list[int] | None:
    """First and last port that the system hands out by chance."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
        return [int(first), int(last)]
    except (OSError, ValueError):
        return None


def pending_restart() -> list[str]:
    """Why Debian and its kin want a restart; [] where they want none, or do not tell."""
    if not os.path.exists("/run/reboot-required"):
        return []
    try:
        packages = Path("/run/reboot-required.pkgs").read_text("utf-8", "replace").split()
    except OSError:
        packages = []
    return sorted(set(packages)) or ["updates"]


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


def nearest_folder(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def look(home: str, address: str, run: str, interpreter: str = "") -> dict[str, Any]:
    """Everything that the preflight judges."""
    found = resolve(address)
    parent = nearest_folder(home)
    held = {port: error for port in PORTS if found and (error := bind_error(found, port))}
    taken = {str(port): owner_of(port) for port, error in held.items() if error == "taken"}
    all_adapters, name = adapters(), socket.gethostname()
    return {
        "os": platform.system(),
        "release": platform.platform(),
        "python": interpreter_version(interpreter),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "memory_free_gib": free_memory_gib(),
        "disk_free_gb": round(shutil.disk_usage(parent).free / 1e9, 1),
        "home": home,
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "name": name,
        "resolves": own_addresses(name),
        "address": found,
        "address_error": next((error for error in held.values() if error != "taken"), ""),
        "adapter": adapter_of(found, all_adapters),
        "adapters": all_adapters,
        "ports_taken": taken,
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


def adapter_of(address: str, among: list[dict[str, Any]]) -> str:
    """Name of the adapter that has the address; "" where it is not known. All of 127/8 is the loopback's."""
    if address.startswith("127."):
        return "lo"
    return next((str(adapter["name"]) for adapter in among if address in adapter["addresses"]), "")
