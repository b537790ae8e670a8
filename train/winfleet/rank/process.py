"""A rank's process: it ends with its launcher, and its process group takes the plan's address and backend."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any, Final

import torch.distributed as dist

from winfleet.rank import gate
from winfleet.rank.meter import Meter
from winfleet.rank.spawning import check_group

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with_launcher() -> None:
    """Linux: this process ends when the launcher ends, however it ends. On Windows the launcher's job object does it."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we had asked
            os.kill(os.getpid(), signal.SIGKILL)


def bind_gloo(address: str) -> None:
    """Gloo listens on `address` and nowhere else.

    By itself it takes the address that the host's name resolves to, or an adapter by name, which fails on Windows where
    the name is not ASCII. torch 2.13 passes no options on to gloo, so its class is replaced by one that makes the device.
    """
    gloo: Any = dist.ProcessGroupGloo

    class PlannedGloo(dist.ProcessGroupGloo):
        def __init__(self, store: Any, rank: int, size: int, timeout: Any = None) -> None:
            options: Any = gloo._Options()
            options._devices = [gloo.create_device(hostname=address)]
            if timeout is not None:
                options._timeout = timeout
            super().__init__(store, rank, size, options)

    dist.distributed_c10d.ProcessGroupGloo = PlannedGloo  # type: ignore[misc]


def force_backend(backend: str, meter: Meter) -> None:
    """Where the plan says gloo the script's process groups use it, whatever it or Accelerate asks for; notes the joining."""
    original, together = dist.init_process_group, int(os.environ.get("WORLD_SIZE", "1")) > 1

    def init_process_group(asked: str | None = None, *args: Any, **kwargs: Any) -> None:
        nonlocal together
        asked = kwargs.pop("backend", asked)
        check_group(kwargs.get("rank"), kwargs.get("world_size"))
        if backend == "gloo" and (asked is None or "nccl" in asked):
            asked = "gloo"
        hold, together = together and not args and gate.is_by_environment(kwargs), False  # once: all have come then
        with gate.held(meter.joins) if hold else contextlib.nullcontext():
            original(asked, *args, **kwargs)
        meter.joined()

    if backend == "gloo":
        # Accelerate refuses some GPUs without these, although NCCL is not used
        os.environ.setdefault("NCCL_P2P_DISABLE", "1")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")
    for module in (dist, dist.distributed_c10d):
        setattr(module, "init_process_group", init_process_group)  # noqa: B010 (mypy knows no such member)
