"""One rank of a rehearsal: proves its device by a matrix product, then takes part in all-reduces of given size.

Started by `winfleet.rehearsal.host` with the environment of a rank; speaks in lines of JSON.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist

from winfleet.rank.process import bind_gloo, die_with_launcher

REPEATS: Final = 3
ENOUGH_SECONDS: Final = 4.0
TIMEOUT: Final = dt.timedelta(seconds=45)
SIZE: Final = 512


def product_error(device: torch.device) -> str:
    """What is wrong with a matrix product on the device; nothing where it is right."""
    ones = torch.ones(SIZE, SIZE, device=device)
    found = float((ones @ ones).sum())
    return "" if found == float(SIZE**3) else f"a matrix product on {device} is {found:.12g}, right is {SIZE**3}"


def describe(device: torch.device) -> dict[str, Any]:
    """The device, and torch's build."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "error": product_error(device),
    }


def join() -> dist.ProcessGroup | None:
    """Joins all ranks as the run would; the group of this host's own ranks, None where it has one."""
    environ = os.environ
    rank, world_size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    bind_gloo(environ["WINFLEET_ADDRESS"])
    store = dist.TCPStore(
        environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), world_size, rank == 0, timeout=TIMEOUT, use_libuv=False
    )
    dist.init_process_group(environ["WINFLEET_BACKEND"], store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    own = None
    for first, processes in json.loads(environ["WINFLEET_HOSTS"]):
        if processes > 1:
            group = dist.new_group(list(range(first, first + processes)), timeout=TIMEOUT)
            own = group if first <= rank < first + processes else own
    return own


def time_reduce(size: int, device: torch.device, group: dist.ProcessGroup | None = None) -> float:
    """Seconds of an all-reduce of `size` bytes (float32): the median after one that does not count."""
    values = torch.zeros(max(1, size // 4), dtype=torch.float32, device=device)
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    dist.all_reduce(values[:1], group=group)
    wait()
    found: list[float] = []
    spent = torch.zeros(1, device=device)
    while len(found) < REPEATS and float(spent) < ENOUGH_SECONDS:
        begin = time.perf_counter()
        dist.all_reduce(values, group=group)
        wait()
        found.append(time.perf_counter() - begin)
        spent.fill_(sum(found))
        dist.all_reduce(spent, dist.ReduceOp.MAX, group=group)  # so that all ranks stop at the same one
    return statistics.median(found)


def main() -> None:
    """`python -m winfleet.rehearsal.rank`."""
    die_with_launcher()
    cuda = os.environ["WINFLEET_DEVICE"] == "cuda" and torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if os.environ["WINFLEET_DEVICE"] == "cuda" and not cuda:
        print(json.dumps({"device": "none", "torch": torch.__version__, "cuda": torch.version.cuda or "",
                          "error": "torch finds no GPU"}), flush=True)  # fmt: skip
    else:
        if cuda:
            torch.cuda.set_device(device)
        print(json.dumps(describe(device)), flush=True)
    for line in sys.stdin:
        size = int(json.loads(line)["bytes"])
        own = join()
        # gloo moves tensors of a GPU through the CPU's memory, as it does in DDP
        seconds = time_reduce(size, device)
        local = None if own is None else time_reduce(size, device, own)
        print(json.dumps({"seconds": seconds, "local_seconds": local}), flush=True)
        break
    sys.stdout.flush()
    os._exit(0)  # leaving a process group in order would wait for the others


if __name__ == "__main__":
    main()
