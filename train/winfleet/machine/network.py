"""Names, addresses and adapters of a Linux host. Standard library alone, for Ansible's module."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any


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


def adapter_of(address: str, among: list[dict[str, Any]]) -> str:
    """Name of the adapter that has the address; "" where it is not known. All of 127/8 is the loopback's."""
    if address.startswith("127."):
        return "lo"
    return next((str(adapter["name"]) for adapter in among if address in adapter["addresses"]), "")


def own_address_for(address: str) -> list[str]:
    """The address by which this machine reaches that one, if any; a host behind NAT sees another, and says so itself."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        return [str(probe.getsockname()[0])]
    return []
