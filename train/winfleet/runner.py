"""Prepares one rank's process, then runs the user's script in it as `python script.py` would.

The script need not know winfleet: the runner gives gloo its device by the plan's address, counts optimizer steps, notes
losses, passes on what the script logs through Accelerate, turns a request to stop into a checkpoint and a clean exit, and
leaves word where a GPU's memory was too small.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data.dataloader import DataLoader

from winfleet.averaging import install as send_less
from winfleet.core.files import send_output_to
from winfleet.core.reading import plain
from winfleet.core.sending import Sending
from winfleet.libraries import install
from winfleet.rank.aside import hide
from winfleet.rank.meter import Meter
from winfleet.rank.oom import MAX_SIZES, Note, is_out_of_memory
from winfleet.rank.optimizer_steps import watch_loads, watch_optimizers
from winfleet.rank.own_copy import watch_writes
from winfleet.rank.process import bind_gloo, die_with_launcher, force_backend
from winfleet.rank.spawning import refusal, starts_ranks, watch_spawning
from winfleet.rank.stopper import Stopper
from winfleet.rank.timing import watch_waits
from winfleet.rank.trial import Stopwatch, watch
from winfleet.rank.watching import batch_size, watch_torch


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


def time_trial(steps: int) -> None:
    """Has the rehearsal know how long a step takes."""
    stopwatch = Stopwatch(steps, Path(os.environ["WINFLEET_TRIAL_FILE"]))
    watch(stopwatch, batch_size)
    atexit.register(stopwatch.write)  # of a script with fewer steps


def watch_files(folder: Path | None) -> None:
    """What the script writes is its own, and it does not see what was set aside."""
    if folder is not None:
        watch_writes(folder)
        hide(folder)


def run_command(command: list[str]) -> None:
    """Runs `script.py args…` or `-m package.module args…` as __main__ of this process.

    By runpy and not by exec(): DataLoader workers that are started by spawn find the script's classes by its path.
    """
    if starter := starts_ranks(["python", *command]):
        raise refusal(starter)
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
    watch_files(folder)
    watch_waits(meter.clock)
    watch_torch(meter, stopper)
    watch_optimizers(meter)
    watch_loads(meter)
    meter.together.watch()
    install(meter, stopper)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or os.environ.get("WINFLEET_TRIAL"):
        watch_spawning(lambda: meter.values["state"] in ("joined", "training"))
    if trial := os.environ.get("WINFLEET_TRIAL"):
        time_trial(int(trial))
    elif sending := Sending.of_environment():
        stopper.together = send_less(*sending, meter)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        meter.joined()
    try:
        run_command(sys.argv[1:])
        stopper.together()  # others may still train
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            atexit.unregister(leave_groups)  # the others are in the middle of something
        else:
            stopper.together()
        if folder is not None and is_out_of_memory(error):
            note_memory(error, meter).write(folder)
        raise
    finally:
        meter.finish()


if __name__ == "__main__":
    main()
