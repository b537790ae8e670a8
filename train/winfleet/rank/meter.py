"""What a rank has done, measured from beside the user's script: steps, losses, samples/s, and where a step's time goes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import torch

from winfleet.core.files import write_atomic
from winfleet.core.status import Rank
from winfleet.rank.apart import Togetherness
from winfleet.rank.losses import Loss, read, undivided
from winfleet.rank.numbering import Numbering
from winfleet.rank.oom import check_taken
from winfleet.rank.stacks import Teller
from winfleet.rank.timing import Clock, Mark, split
from winfleet.rank.trial import tensor_bytes
from winfleet.rank.turns import Turns

WRITE_SECONDS: Final = 0.5
JOIN_SECONDS: Final = 5.0
RATE_SECONDS: Final = 10.0  # samples/s is the mean over this window
STEP_KEYS: Final = ("max_steps", "total_steps", "max_train_steps", "num_training_steps")
LOSS_KEYS: Final = (
    "loss",
    "train_loss",
    "train/loss",
    "training_loss",
    "train_loss_step",
    "train/loss_step",
    "loss/train",
)
MOST_AHEAD: Final = 100_000  # batches of one DataLoader that are kept in mind until they are trained on


class Meter:
    """What this rank has done so far; a thread writes it to rank<r>.json for the launcher, twice a second."""

    def __init__(self, folder: Path | None) -> None:
        environ = os.environ
        self.rank, self.folder = int(environ.get("RANK", "0")), folder
        said = Rank(rank=self.rank, local_rank=int(environ.get("LOCAL_RANK", "0")), pid=os.getpid())
        generation = int(environ.get("WINFLEET_GENERATION", "1"))
        self.values: dict[str, Any] = {**dataclasses.asdict(said), "generation": generation}
        self.clock = Clock()
        self.together = Togetherness()
        self._told_at = 0  # its moves when it last told its place
        self.count = 0  # optimizer steps of this process; `step` adds what the script says it had done before
        self.turns, self.numbering = Turns(), Numbering()
        self.inside = False  # a library's own backward(), which has told of the loss, calls torch's
        self.shares = False  # the losses are shares of a step's, to be added, and not losses of their own
        self._new: list[Loss] = []  # of the backward passes since an optimizer last stepped
        self._losses: list[torch.Tensor] = []  # of those before it, since the last step
        self._last: list[torch.Tensor] = []  # of the step before
        self._fresh: float | None = None  # a loss that the script told since the last note
        self._samples = 0
        self.batches = 0  # backward passes of this process
        self._ahead: weakref.WeakKeyDictionary[Any, collections.deque[int]] = weakref.WeakKeyDictionary()
        self._drawn: collections.deque[int] = collections.deque()  # of the DataLoader's iterator that last gave a batch
        self._merged: int | None = None  # samples that are drawn as one batch
        self._passes = self._step_passes = 0  # backward passes since an optimizer last stepped, and since the last step
        self._usual: int | None = None  # of them in the optimizer step before
        self._window: collections.deque[Mark] = collections.deque()
        self._bytes: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
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

    def batch(self, size: int, seconds: float = 0.0, source: Any = None) -> None:
        """A batch of `size` samples was drawn from a DataLoader's iterator, in so many seconds.

        It counts once it is trained on, however far ahead it was drawn; without `source` the newest one alone is kept in
        mind. What is drawn where no gradients are kept, as for a validation, does not count.
        """
        self.sizes.add(size)
        self.clock.data += seconds
        self.clock.moves += 1
        if self._merged is not None:
            self._merged += size
        elif torch.is_grad_enabled():
            ahead = MOST_AHEAD if source is not None else 1
            source = self if source is None else source
            self._drawn = self._ahead.setdefault(source, collections.deque(maxlen=ahead))
            self._drawn.append(size)

    @contextlib.contextmanager
    def one_batch(self, source: Any) -> Iterator[None]:
        """What is drawn meanwhile is one batch, as Accelerate's dispatcher puts them together for all ranks."""
        begin, self._merged = self.clock.data, 0
        try:
            yield
        finally:
            size, self._merged = self._merged, None
            if size:
                seconds, self.clock.data = self.clock.data - begin, begin
                self.batch(size, seconds, source)

    def backward(self, loss: torch.Tensor) -> None:
        """A backward pass begins. The last one before the optimizer's step is not told apart: micro-batches add up."""
        if loss.numel() == 1:
            self._new.append(Loss(loss.detach(), 1.0) if self.shares else read(loss))
        if self._drawn:
            self.values["batch_size"] = self._drawn[0]
            self._samples += self._drawn.popleft()
        self.batches += 1
        self._passes += 1
        self._step_passes += 1
        self.clock.moves += 1
        if self.values["state"] != "training":
            check_taken(json.loads(os.environ.get("WINFLEET_BATCH", "{}")), self.told, self.sizes)
            self.values["state"] = "training"
            self.values["apart"] = self.together.alone()
            self.write()

    def between_steps(self) -> bool:
        """Whether no micro-batch of the next step was trained on yet, and all optimizers that take turns have stepped."""
        return not self._passes and self.turns.complete

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has stepped; of several that take turns the first one's steps are the script's."""
        if self._passes:
            losses = (
                [loss.value for loss in self._new] if self.shares else undivided(self._new, self._passes, self._usual)
            )
            self._losses += losses
            self._usual = self._passes
        self._new, self._passes = [], 0
        steps = self.turns.stepped(optimizer)
        if optimizer not in self._bytes:
            self._bytes[optimizer] = sum(tensor_bytes(optimizer))
        self.clock.moves += 1
        if not steps:
            return
        self.count += steps
        self.values["gradient_bytes"] = sum(self._bytes.get(one, 0) for one in self.turns.active)
        self.values["apart"] = self.together.look(self.count, optimizer, wrapped=bool(self.clock.exchanges))
        now = time.time()
        self._window.append(Mark(now, self._samples, self.clock.data, self.clock.waiting))
        while now - self._window[0].time > RATE_SECONDS and len(self._window) > 2:
            self._window.popleft()
        self.values["micro_batches"], self._step_passes = self._step_passes, 0
        if now - self._written_at >= WRITE_SECONDS or self.count == 1:
            self._written_at = now
            self._note_step(self._losses)
        self._last, self._losses = self._losses, []
        self.values.update(count=self.count, step=self.numbering.shown(self.count))

    def exchanged(self, sent_bytes: int, seconds: float, spread: float) -> None:
        """Hosts have averaged their weights in so many seconds; `spread`: how far this rank's own were from what all have now, as a share of their norm."""
        self.values.update(
            rounds=self.values["rounds"] + 1, round_bytes=self.values["round_bytes"] + sent_bytes,
            round_seconds=round(self.values["round_seconds"] + seconds, 3), spread=round(spread, 6),
        )  # fmt: skip

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
        self.values.update(
            step=self.numbering.shown(self.count), samples_per_second=rate, steps_per_second=pace, **parts
        )
        noted = {"step": self.values["step"], "samples_per_second": rate, "steps_per_second": pace, **parts}
        if self.values["loss_told"]:  # the script's own word wins over what is measured from beside
            loss, self._fresh = self._fresh, None
        else:
            loss = self.values["loss"] = self._mean(losses)
        self._append({**noted, "loss": loss})

    def _mean(self, losses: list[torch.Tensor]) -> float | None:
        if not losses:
            return None
        stacked = torch.stack([loss.float().reshape(()).cpu() for loss in losses])
        return float(stacked.sum() if self.shares else stacked.mean())

    def logged(self, values: Mapping[str, Any], step: int | None = None, losses: Sequence[str] = LOSS_KEYS) -> None:
        """The script logged `values` through its library; its own step counts where it goes on as the optimizer does.

        The first of `losses` that is among them is the training's loss.
        """
        if step is not None:
            self.numbering.tell(self.count, int(step))
            self._renumbered()
        numbers = {str(name): number for name, value in values.items() if (number := _number(value)) is not None}
        told = next((numbers[name] for name in losses if name in numbers), None)
        if told is not None:
            self._fresh = self.values["loss"] = told
            self.values["loss_told"] = True
        self._append({"step": self.values["step"], "logged": numbers})

    def goes_on(self, step: int, steps: int | None) -> None:
        """The script's library says how many steps are done, and at how many it ends; None: it has no end."""
        self.numbering.goes_on(self.count, step)
        self._renumbered()
        self.values["steps"] = steps

    def _renumbered(self) -> None:
        numbering = self.numbering
        self.values.update(step=numbering.shown(self.count), stride=numbering.stride)
        if self.values["steps"] and self.values["step"] > self.values["steps"]:
            self.values["steps"] = None  # they are of another kind
        begun = numbering.base.step - numbering.stride * numbering.base.steps
        if not numbering.told:
            self.values["begun"] = None
        elif self.values["begun"] is None:
            self.values["begun"] = begun

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


def _number(value: Any) -> float | None:
    """A number that a script logs, as a tensor of one element too."""
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
