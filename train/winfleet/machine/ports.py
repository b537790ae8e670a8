"""TCP ports of this machine: why one cannot be had, and who has it. Standard library alone on Linux, for Ansible's module."""

from __future__ import annotations

import contextlib
import glob
import os
import socket
import sys
import time
from pathlib import Path

from ..core.errors import HostError

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
BACKLOG = 64
LEAVE_SECONDS = 20.0  # for an earlier program of ours to leave a port


def bind_error(address: str, port: int) -> OSError | None:
    """Why nobody could listen there now; None where it can be had. Connections of an earlier program that fade away are no one's."""
    with socket.socket() as probe:
        try:
            _listen(probe, address, port)
        except OSError as error:
            return error
    return None


def listener(address: str, port: int) -> int | None:
    """A socket's descriptor that listens there alone, for a TCPStore, which by itself binds every address.

    None on Windows, where TCPStore takes none. Raises OSError where the port cannot be had.
    """
    if os.name == "nt":
        return None
    with socket.socket() as bound:
        _listen(bound, address, port)
        return bound.detach()


def _listen(opened: socket.socket, address: str, port: int) -> None:
    if os.name != "nt":  # there it would let two programs share a port
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    opened.listen(BACKLOG)


def wait_for_port(address: str, port: int, seconds: float = LEAVE_SECONDS) -> None:
    """Waits until nobody listens there: an earlier program of ours may still tell its result. Raises HostError."""
    deadline = time.monotonic() + seconds
    while error := bind_error(address, port):
        if time.monotonic() > deadline:
            raise HostError(
                f"cannot listen on {address}:{port}: {error.strerror}\n"
                "hint: end what uses the port there, or set fleet_address to an address that this host has"
            )
        time.sleep(0.2)


def owner_of(address: str, port: int) -> str:
    """The process that listens there, "name (pid N)"; "" where the system does not tell."""
    return _owner_by_psutil(address, port) if os.name == "nt" else _owner_by_proc(address, port)


def _owner_by_psutil(address: str, port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status != psutil.CONN_LISTEN or not each.pid or not each.laddr:
                continue
            if each.laddr.port == port and each.laddr.ip in (address, *EVERYWHERE):
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})"
    return ""


def _owner_by_proc(address: str, port: int) -> str:
    own, inodes = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}", set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            fields = [line.split() for line in Path(table).read_text("ascii").splitlines()[1:]]
        except OSError:
            continue
        for field in fields:  # number, local address, remote one, state (0A listens) …, inode
            place, _, number = field[1].partition(":")
            if field[3] == "0A" and int(number, 16) == port and (place.endswith(own) or not place.strip("0")):
                inodes.add(f"socket:[{field[9]}]")
    for link in glob.glob("/proc/[0-9]*/fd/*") if inodes else ():
        try:
            if os.readlink(link) in inodes:
                process = Path(link).parents[1]
                return f"{(process / 'comm').read_text('utf-8').strip()} (pid {process.name})"
        except OSError:
            continue
    return ""


def dynamic_ports() -> list[int] | None:
    """First and last port that the system hands out by chance."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
        return [int(first), int(last)]
    except (OSError, ValueError):
        return None
