"""Holds a rank back before its process group until all ranks have come, however long one of them prepares its data.

init_process_group has a time limit of its own, which begins with the first rank that calls it. So ranks meet before it, in
the store that torch makes for env:// (torch/distributed/rendezvous.py): a second TCPStore of one process on one port, with
multi_tenant, is the same server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from torch.distributed import TCPStore

from winfleet.machine.ports import listener

POLL_SECONDS: Final = 0.02
CONNECT_SECONDS: Final = 1.0
STORE_SECONDS: Final = 60.0  # for an answer of a store that listens
MET: Final = "winfleet/ranks that have come"


def is_by_environment(kwargs: dict[str, Any]) -> bool:
    """Whether the script leaves rank, world size and store to the environment, or says the same, as Lightning does."""
    told = {"rank": os.environ.get("RANK"), "world_size": os.environ.get("WORLD_SIZE")}
    plain = (
        kwargs.get("init_method") in (None, "env://") and kwargs.get("store") is None and "MASTER_PORT" in os.environ
    )
    return plain and all(str(kwargs.get(name, value)) in ("-1", value) for name, value in told.items())


def wait_for_port(address: tuple[str, int]) -> None:
    """Until rank 0 listens: torch's own retry sleeps 0.25 to 0.75 s the first time, then ever longer, and gives up."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=CONNECT_SECONDS):
            return
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def held(say: Callable[[str], object]) -> Iterator[None]:
    """Waits for all ranks, then lets this one go; `say` is told "joining" and, while others are missing, "waiting".

    The launcher ends ranks that are "joining" for too long: rank 0 listens, and they cannot reach it.
    """
    address, world_size = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), int(os.environ["WORLD_SIZE"])
    first = os.environ["RANK"] == "0"
    say("joining")
    if not first:
        wait_for_port(address)
    bound = None
    if first:
        with contextlib.suppress(OSError):  # torch says it in its own words
            bound = listener(*address)
    store = TCPStore(
        *address, None, first, timedelta(seconds=STORE_SECONDS), wait_for_workers=False, multi_tenant=True,
        master_listen_fd=bound, use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
    )  # fmt: skip
    come = store.add(MET, 1)
    if come < world_size:
        say("waiting")
        while store.add(MET, 0) < world_size:
            time.sleep(POLL_SECONDS)
    say("joining")
    yield
    del store  # the server is torch's own store's by now
