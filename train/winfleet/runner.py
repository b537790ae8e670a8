"""Prepares one rank's process, then runs the user's script in it as `python script.py` would.

The script need not know winfleet: the runner gives gloo its device by the plan's address, counts optimizer steps, notes
losses, passes on what the script logs through Accelerate, turns a request to stop into a checkpoint and a clean exit, and
leaves word where a GPU's memory was too small.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import wrapt
from torch.distributed.elastic.multiprocessing.errors import record
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import DataLoader, _BaseDataLoaderIter

from winfleet.files import send_output_to
from winfleet.rank.meter import Meter
from winfleet.rank.oom import MAX_SIZES, Note, is_out_of_memory
from winfleet.rank.stopper import Stopper
from winfleet.rank.timing import watch_waits
from winfleet.rank.trial import Stopwatch, watch
from winfleet.status import plain

STORE_SECONDS: Final = 60.0  # then torch waits in its own way
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


def wait_for_ranks_store() -> None:
    """Waits until rank 0 listens: torch's own retry sleeps 0.25 to 0.75 s the first time, then ever longer."""
    if os.environ.get("RANK", "0") == "0" or "MASTER_PORT" not in os.environ:
        return
    address, deadline = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), time.monotonic() + STORE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
            return
        time.sleep(0.02)


def force_backend(backend: str, meter: Meter) -> None:
    """Where the plan says gloo the script's process groups use it, whatever it or Accelerate asks for; notes the joining."""
    original = dist.init_process_group

    def init_process_group(asked: str | None = None, *args: Any, **kwargs: Any) -> None:
        asked = kwargs.pop("backend", asked)
        if backend == "gloo" and (asked is None or "nccl" in asked):
            asked = "gloo"
        wait_for_ranks_store()
        original(asked, *args, **kwargs)
        meter.joined()

    if backend == "gloo":
        # Accelerate refuses some GPUs without these, although NCCL is not used
        os.environ.setdefault("NCCL_P2P_DISABLE", "1")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")
    for module in (dist, dist.distributed_c10d):
        setattr(module, "init_process_group", init_process_group)  # noqa: B010 (mypy knows no such member)


def watch_torch(meter: Meter, stopper: Stopper) -> None:
    """Counts batches, backward passes and optimizer steps of plain torch."""
    backward: Any = torch.Tensor.backward

    def watched_backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not stopper.accelerators:
            if meter.between_steps():
                stopper.look()
            meter.backward(self)
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = watched_backward  # type: ignore[method-assign]
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: meter.step(optimizer))

    following = _BaseDataLoaderIter.__next__

    def watched_next(self: Any) -> Any:
        begin = time.perf_counter()
        batch = following(self)
        meter.batch(batch_size(batch), time.perf_counter() - begin)
        return batch

    _BaseDataLoaderIter.__next__ = watched_next  # type: ignore[method-assign]


def watch_accelerate(meter: Meter, stopper: Stopper) -> None:
    """Once the script imports Accelerate: losses before they are divided, what it logs, and where it saves."""

    def after(method: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            with contextlib.suppress(Exception):  # a note must never end a training
                note(self, *args, **kwargs)
            return result

        return wrapper

    def hook(module: Any) -> None:
        accelerator = module.Accelerator
        plain_backward = accelerator.backward

        def watched_backward(self: Any, loss: torch.Tensor, **kwargs: Any) -> None:
            if meter.between_steps():
                stopper.look()
            meter.backward(loss)
            plain_backward(self, loss, **kwargs)

        def saved(_: Any, output_dir: str | None = None, **_kwargs: Any) -> None:
            meter.saved = True
            if output_dir is not None:
                stopper.checkpoints = Path(output_dir).parent

        accelerator.backward = watched_backward
        accelerator.__init__ = after(accelerator.__init__, lambda self, **_: stopper.accelerators.append(self))
        accelerator.log = after(accelerator.log, lambda _, values, step=None, **__: meter.logged(values, step))
        accelerator.init_trackers = after(
            accelerator.init_trackers, lambda _, __=None, config=None, **___: meter.configured(config or {})
        )
        accelerator.save_state = after(accelerator.save_state, saved)
        accelerator.load_state = after(accelerator.load_state, lambda *_, **__: setattr(meter, "saved", True))

    wrapt.register_post_import_hook(hook, "accelerate.accelerator")


def batch_size(batch: Any) -> int:
    """Length of the first dimension of the first tensor found in a batch; 0 where there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((size for size in map(batch_size, batch) if size), 0)
    return 0


def note_memory(error: BaseException, meter: Meter) -> Note:
    """What the launcher is to know of this rank's end, while the script's objects still live."""
    begun = meter.sizes or meter.values["state"] == "training"
    return Note(
        rank=meter.rank, generation=meter.values["generation"], step=meter.values["step"], saved=meter.saved,
        text=plain(f"{type(error).__name__}: {error}"), sizes=tuple(sorted(meter.sizes))[:MAX_SIZES], told=meter.told,
        waiting=not begun and any(issubclass(type(found), DataLoader) for found in gc.get_objects()),
    )  # fmt: skip


def leave_groups(stopper: Stopper) -> None:
    """Ends gloo's threads before Python takes itself down, for scripts that leave their group to the process' end.

    Such a thread may ask for the GIL then, which ends it and with it the process, by SIGABRT and "terminate called without
    an active exception": about one in several hundred good ends (https://github.com/pytorch/pytorch/pull/179291).
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        stopper.accelerators.clear()
        gc.collect()  # models that hold the group
        dist.destroy_process_group()


def run_command(command: list[str]) -> None:
    """Runs `script.py args…` or `-m package.module args…` as __main__ of this process.

    By runpy and not by exec(): DataLoader workers that are started by spawn find the script's classes by its path.
    """
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")


@record  # writes an exception where torch's agent looks for it
def main() -> None:
    """`python -m winfleet.runner [-m] script args…`, started by the launcher, or by torchrun by hand."""
    die_with_launcher()
    folder = Path(os.environ["WINFLEET_RUN_FOLDER"]) if "WINFLEET_RUN_FOLDER" in os.environ else None
    if folder is not None and os.environ.get("WINFLEET_LOG") == "file":
        send_output_to(folder / f"rank{os.environ['RANK']}.log")
    meter = Meter(folder)
    stopper = Stopper(meter, folder)
    atexit.register(leave_groups, stopper)  # before the script's own, so after them
    if address := os.environ.get("WINFLEET_ADDRESS"):
        bind_gloo(address)
    force_backend(os.environ.get("WINFLEET_BACKEND", "gloo" if os.name == "nt" else ""), meter)
    watch_waits(meter.clock)
    watch_torch(meter, stopper)
    watch_accelerate(meter, stopper)
    if trial := os.environ.get("WINFLEET_TRIAL"):
        stopwatch = Stopwatch(int(trial), Path(os.environ["WINFLEET_TRIAL_FILE"]))
        watch(stopwatch, batch_size)
        atexit.register(stopwatch.write)  # of a script with fewer steps
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        meter.joined()
    try:
        run_command(sys.argv[1:])
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            atexit.unregister(leave_groups)  # the others are in the middle of something
        if folder is not None and is_out_of_memory(error):
            note_memory(error, meter).write(folder)
        raise
    finally:
        meter.finish()


if __name__ == "__main__":
    main()
