"""Hugging Face Accelerate: losses before they are divided, what a script logs, and where and how it saves."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from winfleet.libraries.resume import Resume
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper, agree, is_taken, of_all

NUMBERED: Final = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)")


def after(method: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """The method, which lets `note` know of each call that has succeeded."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        with contextlib.suppress(Exception):  # a note must never end a training
            note(self, *args, **kwargs)
        return result

    return wrapper


class Place(NamedTuple):
    """The number in a checkpoint's name, and what this process had done when it was saved or loaded."""

    number: int
    steps: int
    batches: int


class Names:
    """How the script names its checkpoints, from those it saves and loads."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.folder: Path | None = None  # that of the script's own, once it saves one
        self.saved_at: int | None = None  # steps done when it last saved
        self._before, self._width, self._after = "step_", 6, ""
        self._known: Place | None = None  # the newest one that it named by its steps
        self._by_batch = False  # whether its numbers are of micro-batches
        self._epochs = 0  # done in the checkpoint from which it went on, where that says epochs alone
        self._trains: Any = ()  # the DataLoader that it trains on

    def saved(self, path: Path) -> None:
        """The script has saved."""
        self.folder, self.saved_at = path.parent, self.meter.count
        if (number := _step_of(path.name)) is not None:
            before = self._known or Place(0, 0, 0)
            grown = number - before.number
            if self.meter.batches - before.batches != self.meter.count - before.steps:
                self._by_batch = grown == self.meter.batches - before.batches
            self._learn(path.name, number)

    def loaded(self, path: Path, accelerator: Any) -> None:
        """The script goes on from this one."""
        self.folder = path.parent
        if (number := _step_of(path.name)) is not None:
            self._learn(path.name, number)
        elif found := NUMBERED.fullmatch(path.name):
            self._epochs = int(found["number"]) + 1
            self._trains = next(iter(accelerator._dataloaders), ())

    def _learn(self, name: str, number: int) -> None:
        found = NUMBERED.fullmatch(name)
        assert found is not None
        self._before, self._after = found["before"], found["after"]
        self._width = len(found["number"]) if found["number"].startswith("0") else 0
        self._known = Place(number, self.meter.count, self.meter.batches)

    def name(self) -> str:
        """For a checkpoint of now: as the script's own, in steps where it names by epochs."""
        meter = self.meter
        number = meter.values["step"]
        if self._known is not None:
            done = meter.batches - self._known.batches if self._by_batch else meter.count - self._known.steps
            number = self._known.number + done
        elif self._epochs:
            with contextlib.suppress(TypeError):  # a DataLoader without a length
                number = self._epochs * len(self._trains) + meter.batches
        return f"{self._before}{number:0{self._width or 1}d}{self._after}"


def _step_of(name: str) -> int | None:
    """The step that a name says; None where it says none, or an epoch."""
    found = NUMBERED.fullmatch(name)
    return int(found["number"]) if found and "epoch" not in found["before"].lower() else None


def hook(module: Any, meter: Meter, stopper: Stopper, _: Resume) -> None:
    """Once the script imports Accelerate."""
    accelerator, names = module.Accelerator, Names(meter)
    plain_backward = accelerator.backward

    def watched_backward(self: Any, loss: torch.Tensor, **kwargs: Any) -> None:
        if meter.between_steps():
            stopper.look()
        # an older Trainer has Accelerate make the shares
        meter.backward(loss / self.gradient_accumulation_steps if meter.shares else loss)
        meter.inside = True
        try:
            plain_backward(self, loss, **kwargs)
        finally:
            meter.inside = False

    def saved(_: Any, output_dir: str | None = None, **_kwargs: Any) -> None:
        meter.saved = True
        if output_dir is not None:
            names.saved(Path(output_dir))

    def loaded(self: Any, input_dir: str | None = None, **_kwargs: Any) -> None:
        meter.saved = True
        if input_dir is not None:
            names.loaded(Path(input_dir), self)

    def made(self: Any, *_: Any, **__: Any) -> None:
        stopper.accelerators.append(self)
        stopper.save = lambda: save(stopper.accelerators[0], names)

    accelerator.backward = watched_backward
    accelerator.__init__ = after(accelerator.__init__, made)
    accelerator.log = after(accelerator.log, lambda _, values, step=None, **__: meter.logged(values, step))
    accelerator.init_trackers = after(
        accelerator.init_trackers, lambda _, __=None, config=None, **___: meter.configured(config or {})
    )
    accelerator.save_state = after(accelerator.save_state, saved)
    accelerator.load_state = after(accelerator.load_state, loaded)


def save(accelerator: Any, names: Names) -> bool:
    """The checkpoint of a stop, on all ranks; False where its name is taken."""
    settings = accelerator.project_configuration
    if settings.automatic_checkpoint_naming:
        _save_automatically(accelerator, settings)
    elif names.saved_at is None or names.saved_at != names.meter.count:  # else the script has just saved it
        # until it saves one itself, where Accelerate keeps them that names them by itself
        folder = names.folder or Path(accelerator.project_dir or "output", "checkpoints")
        path = folder / agree(names.name())
        if is_taken(path):
            return False
        accelerator.save_state(str(path))
    accelerator.wait_for_everyone()
    return True


def _save_automatically(accelerator: Any, settings: Any) -> None:
    """As save_state() does, but an older checkpoint is neither removed for it nor in its way."""
    folder = Path(accelerator.project_dir, "checkpoints")
    taken = [int(found[0]) for path in folder.glob("checkpoint_*") if (found := re.search(r"\d+$", path.name))]
    settings.iteration = max(of_all(max([settings.iteration - 1, *taken]))) + 1
    limit, settings.total_limit = settings.total_limit, None
    try:
        accelerator.save_state()
    finally:
        settings.total_limit = limit


def hook_data(module: Any, meter: Meter, _: Stopper, __: Resume) -> None:
    """What rank 0 draws for all ranks at once is one batch."""
    dispatcher = module.DataLoaderDispatcher
    fetch = dispatcher._fetch_batches

    def watched_fetch(self: Any, iterator: Any) -> Any:
        with meter.one_batch(self):
            return fetch(self, iterator)

    dispatcher._fetch_batches = watched_fetch
