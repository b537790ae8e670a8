"""Prepares one rank's process, then runs the user's script in it as `python script.py` would.

The script need not know winfleet: the runner gives gloo its device by the plan's address, counts optimizer steps, notes
losses, passes on what the script logs through Accelerate, turns a request to stop into a checkpoint and a clean exit, and
leaves word where a GPU's memory was too small.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch
import torch.distributed as dist
import wrapt
from torch.distributed.elastic.multiprocessing.errors import record
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import DataLoader, _BaseDataLoaderIter

from winfleet.files import send_output_to, write_atomic
from winfleet.rank.oom import MAX_SIZES, Note, check_taken, is_out_of_memory
from winfleet.rank.stacks import Teller
from winfleet.rank.timing import Clock, Mark, split, watch_waits
from winfleet.rank.trial import Stopwatch, tensor_bytes, watch
from winfleet.status import STOP_AT, STOPPING, plain, stop_step

WRITE_SECONDS: Final = 0.5
JOIN_SECONDS: Final = 5.0
HOLD_SECONDS: Final = 20.0
RATE_SECONDS: Final = 10.0  # samples/s is the mean over this window
STORE_SECONDS: Final = 60.0  # then torch waits in its own way
STEP_KEYS: Final = ("max_steps", "total_steps", "max_train_steps", "num_training_steps")
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Meter:
    """What this rank has done so far; a thread writes it to rank<r>.json for the launcher, twice a second."""

    def __init__(self, folder: Path | None) -> None:
        environ = os.environ
        self.rank, self.folder = int(environ.get("RANK", "0")), folder
        self.values: dict[str, Any] = {
            "rank": self.rank, "local_rank": int(environ.get("LOCAL_RANK", "0")), "pid": os.getpid(),
            "generation": int(environ.get("WINFLEET_GENERATION", "1")), "state": "starting",
            "count": 0, "step": 0, "begun": None, "steps": None, "loss": None, "samples_per_second": None, "steps_per_second": None,
            "data_seconds": None, "communication_seconds": None, "compute_seconds": None, "gradient_bytes": 0, "stopped": False,
            "batch_size": None, "micro_batches": None, "moves": 0, "place": None, "waits": False,
        }  # fmt: skip
        self.clock = Clock()
        self._told_at = 0  # its moves when it last told its place
        self.count = 0  # optimizer steps of this process; `step` adds what the script says it had done before
        self._offset = 0
        self._losses: list[torch.Tensor] = []  # of the micro-batches since the last step
        self._last: list[torch.Tensor] = []  # of those before it
        self._samples, self._pending = 0, 0
        self._passes = 0  # backward passes since the last step
        self._window: collections.deque[Mark] = collections.deque()
        self._optimizers: dict[int, int] = {}  # id: bytes of its gradients; the first one's steps are the script's
        self.sizes: set[int] = set()  # of the batches drawn
        self.told: dict[str, int] = {}  # whole numbers of the script's configuration
        self.saved = False  # it saved or loaded a checkpoint
        self._written_at = 0.0
        self._metrics: IO[str] | None = None
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        if folder is not None:
            self._metrics = (folder / f"metrics-rank{self.rank}.jsonl").open("a", encoding="utf-8", buffering=1)
            self._beats = threading.Thread(
                target=self._beat, args=[Teller(folder, self.rank)], daemon=True, name="winfleet-beat"
            )
            self._beats.start()

    def _beat(self, teller: Teller) -> None:
        while not self._over.wait(WRITE_SECONDS):
            with contextlib.suppress(OSError):  # a full disk must not end the beats
                if place := teller.look():
                    self.values.update(place=place.text, waits=place.waits)
                    self._told_at = self.clock.moves
                elif self._told_at != self.clock.moves:
                    self.values.update(place=None, waits=False)  # it has moved on
                self.write()

    def write(self) -> None:
        """Writes rank<r>.json now."""
        if self.folder is not None:
            with self._writing:  # else an older beat could replace a rank's last words
                told = {**self.values, "count": self.count, "moves": self.clock.moves, "beat": time.time()}
                write_atomic(self.folder / f"rank{self.rank}.json", json.dumps(told))

    def joined(self) -> None:
        """The rank's process group stands."""
        if self.values["state"] == "starting":
            self.values["state"] = "joined"
            self.write()

    def batch(self, size: int, seconds: float = 0.0) -> None:
        """A batch of `size` samples was drawn, in so many seconds; it counts once it is trained on."""
        self._pending = size
        self.sizes.add(size)
        self.clock.data += seconds
        self.clock.moves += 1

    def backward(self, loss: torch.Tensor) -> None:
        """A backward pass begins. The last one before the optimizer's step is not told apart: micro-batches add up."""
        if loss.numel() == 1:
            self._losses.append(loss.detach())
        if self._pending:
            self.values["batch_size"] = self._pending
        self._samples += self._pending
        self._pending = 0
        self._passes += 1
        self.clock.moves += 1
        if self.values["state"] != "training":
            check_taken(json.loads(os.environ.get("WINFLEET_BATCH", "{}")), self.told, self.sizes)
            self.values["state"] = "training"
            self.write()

    def between_steps(self) -> bool:
        """Whether no micro-batch of the next step was trained on yet."""
        return not self._losses

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has stepped. Of several optimizers the first one's steps are the script's."""
        if id(optimizer) not in self._optimizers:
            self._optimizers[id(optimizer)] = sum(tensor_bytes(optimizer))
            self.values["gradient_bytes"] = sum(self._optimizers.values())
        if id(optimizer) != next(iter(self._optimizers)):
            return
        self.count += 1
        self.clock.moves += 1
        now = time.time()
        self._window.append(Mark(now, self._samples, self.clock.data, self.clock.waiting))
        while now - self._window[0].time > RATE_SECONDS and len(self._window) > 2:
            self._window.popleft()
        self.values["micro_batches"], self._passes = self._passes, 0
        if now - self._written_at >= WRITE_SECONDS or self.count == 1:
            self._written_at = now
            self._note_step(self._losses)
        self._last, self._losses = self._losses, []
        self.values.update(count=self.count, step=self.count + self._offset)

    def finish(self) -> None:
        """The script has ended, well or not: the last step is noted too."""
        if self._last and self._window:
            self._note_step(self._last)
        self._over.set()
        if self._beats is not None:
            self._beats.join(
                JOIN_SECONDS
            )  # a thread that still runs while Python takes itself down may abort the process
        self.values["state"] = "ended"
        self.write()

    def _note_step(self, losses: list[torch.Tensor]) -> None:
        begin, end = self._window[0], self._window[-1]
        seconds, steps = end.time - begin.time, len(self._window) - 1
        rate = (
            round((end.samples - begin.samples) / seconds, 2) if seconds > 0 and end.samples > begin.samples else None
        )
        pace = round(steps / seconds, 4) if seconds > 0 else None
        exposed = 0.0
        with contextlib.suppress(Exception):  # a measurement must never end a training
            exposed = self.clock.exposed(self.count, pace)
        parts = split(begin, end, steps, exposed)
        loss = float(torch.stack([loss.float().cpu() for loss in losses]).mean()) if losses else None
        self.values.update(step=self.count + self._offset, loss=loss, samples_per_second=rate, steps_per_second=pace)
        self.values.update(parts)
        self._append({"step": self.values["step"], "loss": loss, "samples_per_second": rate, **parts})

    def logged(self, values: Mapping[str, Any], step: int | None) -> None:
        """The script logged `values` through Accelerate; its own step corrects ours, which began at 0 after a resume."""
        if step is not None:
            self._offset = int(step) - self.count
            self.values["step"] = int(step)
            if self.values["begun"] is None:
                self.values["begun"] = self._offset
        numbers = {str(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._append({"step": self.values["step"], "logged": numbers})

    def configured(self, config: Mapping[str, Any]) -> None:
        """The script told its trackers a configuration, from which the number of steps may be had."""
        self.told.update({name: value for name, value in config.items() if type(value) is int})
        for name in STEP_KEYS:
            if isinstance(config.get(name), int) and config[name] > 0:
                self.values["steps"] = config[name]
                return

    def _append(self, values: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            line = {"time": round(time.time(), 3), "generation": self.values["generation"], **values}
            self._metrics.write(json.dumps(line) + "\n")


class Stopper:
    """Ends this rank after the step that the launcher names: all ranks then stand at the same place."""

    def __init__(self, meter: Meter, folder: Path | None) -> None:
        self.meter = meter
        self.folder = folder
        self.accelerators: list[Any] = []
        self.checkpoints = Path("output", "checkpoints")  # beside the script's own, once it saves one
        self._asked = False
        self._patience: float | None = None  # until when (monotonic) this rank holds still for the step to be named

    def look(self) -> None:
        """Called as a step's first backward pass begins. Raises SystemExit(0) out of it when it is time.

        Once somebody has asked, a rank holds still here until the step is named; the others then wait for it in the
        step's all-reduce, so that no rank is past the step when it is named.
        """
        if self._asked or self.folder is None or not (self.folder / STOPPING).exists():
            return
        if self._patience is None:
            self._patience = time.monotonic() + HOLD_SECONDS
        while (step := stop_step(self.folder / STOP_AT)) is None and time.monotonic() < self._patience:
            time.sleep(0.02)
        if step is None or self.meter.count < step:
            return
        self._asked = True
        print(f"winfleet: asked to stop after step {self.meter.values['step']}", flush=True)
        for accelerator in self.accelerators[:1]:
            self._save(accelerator)
        self.meter.values["stopped"] = True
        self.meter.write()
        raise SystemExit(0)

    def _save(self, accelerator: Any) -> None:
        if accelerator.project_configuration.automatic_checkpoint_naming:
            accelerator.save_state()
        else:
            accelerator.save_state(str(self.checkpoints / f"step_{self.meter.values['step']:06d}"))
        accelerator.wait_for_everyone()


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
