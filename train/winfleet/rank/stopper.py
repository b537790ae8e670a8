"""How a rank stops when it is asked to: with a checkpoint, and after the same step as all others."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from winfleet.core.status import STOP_AT, STOPPING, stop_step
from winfleet.rank.meter import Meter

HOLD_SECONDS: Final = 20.0

Save = Callable[
    [], bool
]  # saves a checkpoint on all ranks; False where its name is taken, so that the next step is tried


class Stopper:
    """Ends this rank after the step that the launcher names: all ranks then stand at the same place."""

    def __init__(self, meter: Meter, folder: Path | None) -> None:
        self.meter = meter
        self.folder = folder
        self.accelerators: list[Any] = []
        self.save: Save = lambda: True  # what plain torch has: nothing; a library puts its own here
        self.together: Callable[[], None] = lambda: None  # brings the ranks' weights together where they differ
        self._asked = False
        self._patience: float | None = None  # until when (monotonic) this rank holds still for the step to be named
        self._leading = 0  # training loops of libraries that stop by themselves

    def look(self) -> None:
        """Called as a step's first backward pass begins. Raises SystemExit(0) out of it when it is time.

        Nothing happens within a library's own loop, which asks is_due() by itself.
        """
        if self._leading or not self.is_due() or not self.save_for_stop(self.save):
            return
        self.meter.values["stopped"] = True
        self.meter.write()
        raise SystemExit(0)

    def is_due(self) -> bool:
        """Whether this rank is to stop between the steps where it stands.

        Once somebody has asked, a rank holds still here until the step is named; the others then wait for it in the
        step's all-reduce, so that no rank is past the step when it is named.
        """
        if self._asked or self.folder is None or not (self.folder / STOPPING).exists():
            return False
        if self._patience is None:
            self._patience = time.monotonic() + HOLD_SECONDS
        while (step := stop_step(self.folder / STOP_AT)) is None and time.monotonic() < self._patience:
            time.sleep(0.02)
        return step is not None and self.meter.count >= step

    def save_for_stop(self, save: Save) -> bool:
        """Saves, and is not asked again; False where the step's name was taken, and the next step is to be tried."""
        step = self.meter.values["step"]
        self.together()
        if not save():
            print(f"winfleet: asked to stop, but there is a checkpoint of step {step}: goes on by a step", flush=True)
            return False
        self._asked = True
        print(f"winfleet: asked to stop after step {step}", flush=True)
        return True

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """A library's own loop runs."""
        self._leading += 1
        try:
            yield
        finally:
            self._leading -= 1

    def leave(self) -> None:
        """Ends the process at once, without a return to the script: what it does behind its training is not for a stop.

        What was registered for the end of Python runs, so that trackers are closed.
        """
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # the first rank may still write, and holds the others' store
        self.meter.values["stopped"] = True
        self.meter.finish()
        with contextlib.suppress(Exception):  # a tracker that cannot be closed must not hold the stop up
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def is_alone() -> bool:
    """Whether there is no other rank to agree with."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def of_all(value: Any) -> list[Any]:
    """What each rank has. Every rank must call it."""
    if is_alone():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def is_taken(path: Path) -> bool:
    """Whether any rank sees it: each host has a disk of its own. Every rank must call it."""
    return any(of_all(path.exists()))


def agree(value: Any) -> Any:
    """What rank 0 has: it decides for all. Every rank must call it."""
    if is_alone():
        return value
    values = [value]
    nccl = "nccl" in dist.get_backend()
    dist.broadcast_object_list(
        values, src=0, device=torch.device("cuda", torch.cuda.current_device()) if nccl else None
    )
    return values[0]
