"""What a rank has done, measured from beside the user's script: steps, losses, samples/s, and where a step's time goes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch

from winfleet.core.files import write_atomic
from winfleet.core.status import Rank
from winfleet.rank.oom import check_taken
from winfleet.rank.stacks import Teller
from winfleet.rank.timing import Clock, Mark, split
from winfleet.rank.trial import tensor_bytes

WRITE_SECONDS: Final = 0.5
JOIN_SECONDS: Final = 5.0
RATE_SECONDS: Final = 10.0  # samples/s is the mean over this window
STEP_KEYS: Final = ("max_steps", "total_steps", "max_train_steps", "num_training_steps")


class Meter:
    """What this rank has done so far; a thread writes it to rank<r>.json for the launcher, twice a second."""

    def __init__(self, folder: Path | None) -> None:
        environ = os.environ
        self.rank, self.folder = int(environ.get("RANK", "0")), folder
        said = Rank(rank=self.rank, local_rank=int(environ.get("LOCAL_RANK", "0")), pid=os.getpid())
        generation = int(environ.get("WINFLEET_GENERATION", "1"))
        self.values: dict[str, Any] = {**dataclasses.asdict(said), "generation": generation}
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

    def joins(self, state: str) -> None:
        """How far the rank is on its way into its process group: joining, or waiting for other ranks."""
        self.values["state"] = state
        self.write()

    def joined(self) -> None:
        """The rank's process group stands."""
        if self.values["state"] in ("starting", "joining"):
            self.joins("joined")

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
            self._beats.join(JOIN_SECONDS)  # one that still runs while Python takes itself down may abort the process
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
