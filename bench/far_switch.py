"""A switch in user space that hands every frame on after a delay: what netem would do, which not every kernel has.

Hosts are tap devices, moved into their namespaces; a frame goes to the tap whose number ends its address. Frames may have
60 kB in place of 1.5, as each one costs this process some 20 microseconds.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import multiprocessing
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final

TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MTU: Final = 60_000
FRAMES_AT_ONCE: Final = 64
NICE: Final = -20  # late is a longer way


def hardware_address(host: int) -> bytes:
    """Of a host, from 0 on; a locally administered one."""
    return bytes((2, 0, 0, 0, 0, host))


def open_tap(name: str) -> int:
    """A new tap device of this namespace, as a file descriptor. Raises OSError."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap


@contextlib.contextmanager
def switching(taps: Sequence[int], delay_seconds: float) -> Iterator[None]:
    """Frames go between these taps meanwhile; the taps are closed afterwards."""
    process = multiprocessing.get_context("fork").Process(target=_switch, args=(taps, delay_seconds), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()
        for tap in taps:
            os.close(tap)


def _switch(taps: Sequence[int], delay_seconds: float) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    addresses = {hardware_address(host): tap for host, tap in enumerate(taps)}
    queue: collections.deque[tuple[float, bytes]] = collections.deque()  # in the order of time, as all wait as long
    poll = select.epoll()
    for tap in taps:
        poll.register(tap, select.EPOLLIN)
    while True:
        while queue and queue[0][0] <= time.monotonic():
            _, frame = queue.popleft()
            one = addresses.get(frame[:6])
            for tap in taps if one is None else (one,):  # a broadcast goes to all
                with contextlib.suppress(OSError):  # a host that is down or full loses it, as on a real switch
                    os.write(tap, frame)
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
        for tap, _ in poll.poll(wait):
            for _ in range(FRAMES_AT_ONCE):
                try:
                    frame = os.read(tap, MTU + 100)
                except OSError:
                    break
                queue.append((time.monotonic() + delay_seconds, frame))
