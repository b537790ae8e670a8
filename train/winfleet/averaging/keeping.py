"""Momentum in a checkpoint's folder: a file of ours for each host beside what the library has saved there."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import wrapt

from winfleet.averaging.segments import Segments

NAME: Final = "winfleet_momentum_{}.pt"  # of a host's segment


def trainer_folder(trainer: Any, _: Any) -> Path:
    """Where Hugging Face's Trainer has just saved."""
    return Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")


def state_folder(_: Any, saved: Any) -> Path:
    """Where Accelerate's save_state() has."""
    return Path(saved)


SAVES: Final = (
    ("transformers.trainer", "Trainer", "_save_checkpoint", trainer_folder),
    ("accelerate.accelerator", "Accelerator", "save_state", state_folder),
)
LOADS: Final = (
    ("transformers.trainer", "Trainer", "_load_from_checkpoint"),
    ("accelerate.accelerator", "Accelerator", "load_state"),
)


class Keeper:
    """Saves this host's momentum with a checkpoint, and finds it again once the script has loaded one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._loaded: Path | None = None

    def save(self, folder: Path, segments: Segments | None) -> None:
        """Behind the library's own saving, on every rank; a host's first one has a segment."""
        if segments is not None and segments.momentum is not None and folder.is_dir():
            kept = {"momentum": segments.momentum, "hosts": dist.get_world_size(segments.group)}
            torch.save(kept, folder / NAME.format(dist.get_rank(segments.group)))

    def loaded(self, folder: Any) -> None:
        """The script goes on from this one."""
        self._loaded = Path(folder) if folder is not None and Path(folder).is_dir() else None

    def restore(self, segments: Segments | None, numbers: int) -> None:
        """As a round begins from what was loaded; `numbers` are a segment's. Without a fitting file momentum begins anew."""
        folder, self._loaded = self._loaded, None
        if folder is None or segments is None or not segments.outer[1]:
            return
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError):
            # not torch.load, which tells what the script loads
            found = torch.serialization.load(folder / NAME.format(dist.get_rank(segments.group)), weights_only=True)
        if found.get("hosts") == dist.get_world_size(segments.group) and len(found.get("momentum", ())) == numbers:
            segments.momentum = found["momentum"]
            self.say(f"the momentum of averages goes on from {os.path.relpath(folder)}")
        else:
            self.say(f"{os.path.relpath(folder)} has no momentum of averages for these hosts, so it begins anew")

    def install(self, segments: Callable[[], Segments | None]) -> None:
        """Meets the libraries once the script imports them."""
        for module, owner, method, place in SAVES:
            wrapt.register_post_import_hook(
                functools.partial(self._behind_saving, owner, method, place, segments), module
            )
        for module, owner, method in LOADS:
            wrapt.register_post_import_hook(functools.partial(self._before_loading, owner, method), module)

    def _behind_saving(
        self,
        owner: str,
        method: str,
        place: Callable[[Any, Any], Path],
        segments: Callable[[], Segments | None],
        module: Any,
    ) -> None:
        save = getattr(getattr(module, owner), method)

        def wrapper(own: Any, *args: Any, **options: Any) -> Any:
            done = save(own, *args, **options)
            self.save(place(own, done), segments())
            return done

        setattr(getattr(module, owner), method, wrapper)

    def _before_loading(self, owner: str, method: str, module: Any) -> None:
        load = getattr(getattr(module, owner), method)

        def wrapper(own: Any, *args: Any, **options: Any) -> Any:
            given = [*args, *(options[name] for name in ("input_dir", "resume_from_checkpoint") if name in options)]
            self.loaded(given[0] if given else None)
            return load(own, *args, **options)

        setattr(getattr(module, owner), method, wrapper)
