"""What one host measures with another: whether TCP gets through, how long a round trip takes, and how much a second holds.

Each host of a rehearsal listens on its own cluster address, for the cluster's addresses alone, and answers who knows the
rehearsal's token. Bytes that arrive are counted and thrown away. Standard library alone.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import select
import socket
import statistics
import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

CONNECT_SECONDS: Final = 4.0  # a lost SYN is sent again after 1 s and after 3 s
SILENT_SECONDS: Final = 5.0  # then a peer that says nothing is dropped
ROUND_TRIPS: Final = 21
BLOCK_BYTES: Final = 2**18
MOST_BYTES: Final = 2**29  # of one measurement; a fast link is over sooner
MOST_SECONDS: Final = 5.0
MOST_CONNECTIONS: Final = 128  # 16 hosts need 45 at once
LINE_BYTES: Final = 128
MEET, PING, SINK = "meet", "ping", "sink"


class LinkError(OSError):
    """Why a peer could not be measured with, in a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One direction between two hosts, given by their names."""

    source: str
    target: str
    bytes_per_second: float  # what arrived of one TCP stream, as gloo has one for each pair
    round_trip_seconds: float  # median of small ones

    @property
    def name(self) -> str:
        """pc1 -> pc2."""
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A port that a host must be able to reach."""

    host: str
    address: str
    port: int


def rounds(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """All pairs in rounds in which nobody plays twice, so that no measurement disturbs another one.

    The circle method of round-robin tournaments: one stays, the others turn; n - 1 rounds for an even number n of hosts.
    """
    circle: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    found = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        found.append([(one, other) for one, other in pairs if one is not None and other is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return [pairs for pairs in found if pairs]


class Listener:
    """Answers the other hosts on one port. Raises OSError where the port cannot be had."""

    def __init__(self, address: str, port: int, token: str, allowed: Collection[str]) -> None:
        """`allowed` are the addresses that are listened to at all; port 0 takes one of the dynamic range."""
        self._token, self._allowed = token.encode(), frozenset(allowed)
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._socket = socket.socket()
        try:
            if os.name != "nt":  # there it would let two programs share a port
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address, port))
            self._socket.listen(MOST_CONNECTIONS)
        except OSError:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._open = True
        self._thread = threading.Thread(target=self._accept, daemon=True, name=f"winfleet-links-{self.port}")
        self._thread.start()

    def close(self) -> None:
        """Ends listening; the port is free afterwards."""
        self._open = False
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while self._open:
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            try:
                connection, (address, _port) = self._socket.accept()
            except OSError:  # it went away again
                continue
            if address not in self._allowed or not self._room.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError, ValueError):  # a peer that goes away says so itself
                connection.settimeout(SILENT_SECONDS)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                token, mode, seconds = _read_line(connection, SILENT_SECONDS).split(b" ")
                if not hmac.compare_digest(token, self._token):
                    return
                connection.sendall(b"ok\n")
                if mode == PING.encode():
                    for _ in range(ROUND_TRIPS):
                        connection.sendall(connection.recv(1))
                elif mode == SINK.encode():
                    connection.sendall(b"%f\n" % _swallow(connection, min(float(seconds), MOST_SECONDS)))
                    _drain(connection)
        finally:
            self._room.release()


def _read_line(connection: socket.socket, seconds: float) -> bytes:
    """A line without its end. Raises LinkError where none comes, however slowly bytes drip in."""
    line, deadline = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > LINE_BYTES or time.monotonic() > deadline:
            raise LinkError("no answer of a rehearsal")
        line += byte
    return line[:-1]


def _swallow(connection: socket.socket, seconds: float) -> float:
    """Bytes/s that arrive; the first quarter, in which TCP is still getting up to speed, does not count. 0: nothing came."""
    block = memoryview(bytearray(BLOCK_BYTES))
    begin = end = time.monotonic()
    counted_from, total, before = None, 0, 0
    while end - begin < seconds and total < MOST_BYTES:
        with contextlib.suppress(TimeoutError):
            connection.settimeout(max(0.01, begin + seconds - end))
            arrived = connection.recv_into(block)
            if not arrived:
                raise LinkError("the sender went away")
            total += arrived
        end = time.monotonic()
        if counted_from is None and (end - begin > seconds / 4 or total > MOST_BYTES / 4):
            counted_from, before = end, total
    if counted_from is None or end <= counted_from:
        return 0.0
    return (total - before) / (end - counted_from)


def _drain(connection: socket.socket) -> None:
    """Takes what is still on its way, so that the answer is read before the connection ends."""
    deadline = time.monotonic() + SILENT_SECONDS
    connection.settimeout(SILENT_SECONDS)
    while time.monotonic() < deadline and connection.recv(BLOCK_BYTES):
        pass


@contextlib.contextmanager
def _greet(address: str, port: int, token: str, mode: str, seconds: float = 0.0) -> Iterator[socket.socket]:
    """A connection to a listener that knows the token. Raises LinkError with a few words."""
    try:
        connection = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
    except TimeoutError:
        raise LinkError(f"no answer within {CONNECT_SECONDS:.0f} s") from None
    except OSError as error:
        raise LinkError((error.strerror or str(error)).lower()) from None
    with connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(SILENT_SECONDS)
            connection.sendall(f"{token} {mode} {seconds}\n".encode())
            if _read_line(connection, SILENT_SECONDS) != b"ok":
                raise LinkError("something else answers there")
            yield connection
        except TimeoutError:
            raise LinkError(f"no answer after it was reached, for {SILENT_SECONDS:.0f} s") from None
        except LinkError:
            raise
        except OSError as error:
            raise LinkError((error.strerror or str(error)).lower()) from None


def reach(targets: Sequence[Target], token: str) -> list[tuple[Target, str]]:
    """Tries all targets at once; those that cannot be reached, with why."""

    def attempt(target: Target) -> str:
        try:
            with _greet(target.address, target.port, token, MEET):
                return ""
        except LinkError as error:
            return str(error)

    if not targets:
        return []
    with ThreadPoolExecutor(min(len(targets), MOST_CONNECTIONS)) as pool:
        return [(target, why) for target, why in zip(targets, pool.map(attempt, targets), strict=True) if why]


def round_trip(address: str, port: int, token: str) -> float:
    """Seconds of a small round trip, the median of some. Raises LinkError."""
    found = []
    with _greet(address, port, token, PING) as connection:
        for _ in range(ROUND_TRIPS):
            begin = time.perf_counter()
            connection.sendall(b".")
            if not connection.recv(1):
                raise LinkError("the peer went away")
            found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


def bandwidth(address: str, port: int, token: str, seconds: float) -> float:
    """Bytes/s of one TCP stream, as they arrive there within `seconds`; 0 where nothing does. Raises LinkError."""
    block, deadline = bytes(BLOCK_BYTES), time.monotonic() + seconds + SILENT_SECONDS
    with _greet(address, port, token, SINK, seconds) as connection:
        # what is still queued when the answer comes is thrown away
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
        connection.setblocking(False)
        while time.monotonic() < deadline:
            readable, writable, _ = select.select([connection], [connection], [], 0.5)
            if readable:
                connection.setblocking(True)
                connection.settimeout(SILENT_SECONDS)
                return _as_rate(_read_line(connection, SILENT_SECONDS))
            if writable:
                with contextlib.suppress(BlockingIOError):
                    connection.send(block)
    raise LinkError(f"no answer for {seconds + SILENT_SECONDS:.0f} s while it was sent to")


def _as_rate(line: bytes) -> float:
    """A peer's number; what is none is an error of that peer."""
    with contextlib.suppress(ValueError):
        rate = float(line)
        if 0.0 <= rate < 1e13:
            return rate
    raise LinkError("an answer that is no rate")
