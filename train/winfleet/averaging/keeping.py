"""Momentum with a checkpoint: a file of ours for each host beside what the library has saved."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
import wrapt

from winfleet.averaging.segments import Segments

NAME: Final = "winfleet_momentum_{}.pt"  # of a host's segment, in a checkpoint that is a folder
BESIDE: Final = (
    "winfleet_momentum.pt"  # beside checkpoints that are files, of the newest one alone: each host has its own
)


class Place(NamedTuple):
    """Where momentum lies."""

    path: Path
    of: str = ""  # the checkpoint's name, where others may lie in the same folder


def place_of(checkpoint: Path, host: int, *, is_file: bool) -> Place:
    """Of a checkpoint."""
    return Place(checkpoint.with_name(BESIDE), checkpoint.name) if is_file else Place(checkpoint / NAME.format(host))


def trainer_folder(trainer: Any, *_: Any) -> Path:
    """Where Hugging Face's Trainer has just saved."""
    return Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")


def state_folder(_: Any, saved: Any, __: Any) -> Path:
    """Where Accelerate's save_state() has."""
    return Path(saved)


def lightning_file(_: Any, __: Any, given: Mapping[str, Any]) -> Path:
    """What Lightning's save_checkpoint() was told."""
    return Path(given["filepath"])


SAVES: Final = (
    ("transformers.trainer", "Trainer", "_save_checkpoint", trainer_folder, False),
    ("accelerate.accelerator", "Accelerator", "save_state", state_folder, False),
    ("lightning.pytorch.trainer.trainer", "Trainer", "save_checkpoint", lightning_file, True),
    ("pytorch_lightning.trainer.trainer", "Trainer", "save_checkpoint", lightning_file, True),
)
LIGHTNING: Final = "trainer.connectors.checkpoint_connector"
LOADS: Final = (
    ("transformers.trainer", "Trainer", "_load_from_checkpoint", "resume_from_checkpoint"),
    ("accelerate.accelerator", "Accelerator", "load_state", "input_dir"),
    (f"lightning.pytorch.{LIGHTNING}", "_CheckpointConnector", "resume_start", "checkpoint_path"),
    (f"pytorch_lightning.{LIGHTNING}", "_CheckpointConnector", "resume_start", "checkpoint_path"),
)


def _below_here(checkpoint: Path) -> str:
    """The path from the work folder on, or the whole one of what lies elsewhere."""
    whole = checkpoint.absolute()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)


class Keeper:
    """Saves this host's momentum with a checkpoint, and finds it again once the script has loaded one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._loaded: Path | None = None

    def save(self, checkpoint: Path, segments: Segments | None, *, is_file: bool) -> None:
        """Behind the library's own saving, on every rank; a host's first one has a segment.

        A file is written by rank 0 alone, which has told the others its own path: theirs is the same below their folders.
        """
        if segments is None or ":" in str(checkpoint)[2:]:  # a store elsewhere, as s3://
            return
        if is_file:
            told: list[Any] = [_below_here(checkpoint)]
            dist.broadcast_object_list(told, dist.get_process_group_ranks(segments.group)[0], group=segments.group)
            checkpoint = Path(told[0])
            if not checkpoint.is_absolute():
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if not (checkpoint.parent if is_file else checkpoint).is_dir():
            return
        if segments.momentum is not None:
            host, hosts = dist.get_rank(segments.group), dist.get_world_size(segments.group)
            place = place_of(checkpoint, host, is_file=is_file)
            torch.save({"momentum": segments.momentum, "hosts": hosts, "host": host, "of": place.of}, place.path)

    def loaded(self, checkpoint: Any) -> None:
        """The script goes on from this one."""
        self._loaded = Path(checkpoint) if checkpoint is not None and Path(checkpoint).exists() else None

    def restore(self, segments: Segments | None, numbers: int) -> None:
        """As a round begins from what was loaded; `numbers` are a segment's. Without a fitting file momentum begins anew."""
        checkpoint, self._loaded = self._loaded, None
        if checkpoint is None or segments is None or not segments.outer[1]:
            return
        hosts, host = dist.get_world_size(segments.group), dist.get_rank(segments.group)
        place, found = place_of(checkpoint, host, is_file=checkpoint.is_file()), dict[str, Any]()
        with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError):
            # not torch.load, which tells what the script loads
            found = torch.serialization.load(place.path, weights_only=True)
        fits = (found.get("hosts"), found.get("host", host), found.get("of", "")) == (hosts, host, place.of)
        if fits and len(found.get("momentum", ())) == numbers:
            segments.momentum = found["momentum"]
            self.say(f"the momentum of averages goes on from {os.path.relpath(checkpoint)}")
        else:
            self.say(f"{os.path.relpath(checkpoint)} has no momentum of averages for these hosts, so it begins anew")

    def install(self, segments: Callable[[], Segments | None]) -> None:
        """Meets the libraries once the script imports them."""
        for module, owner, method, place, is_file in SAVES:
            wrapt.register_post_import_hook(
                functools.partial(self._behind_saving, owner, method, place, is_file, segments), module
            )
        for module, owner, method, argument in LOADS:
            wrapt.register_post_import_hook(functools.partial(self._before_loading, owner, method, argument), module)

    def _behind_saving(
        self,
        owner: str,
        method: str,
        place: Callable[[Any, Any, Mapping[str, Any]], Path],
        is_file: bool,
        segments: Callable[[], Segments | None],
        module: Any,
    ) -> None:
        def wrapper(wrapped: Any, own: Any, args: Any, options: Any) -> Any:
            given = inspect.signature(wrapped).bind(*args, **options).arguments
            done = wrapped(*args, **options)
            self.save(place(own, done, given), segments(), is_file=is_file)
            return done

        wrapt.wrap_function_wrapper(module, f"{owner}.{method}", wrapper)

    def _before_loading(self, owner: str, method: str, argument: str, module: Any) -> None:
        def wrapper(wrapped: Any, _: Any, args: Any, options: Any) -> Any:
            self.loaded(inspect.signature(wrapped).bind(*args, **options).arguments.get(argument))
            return wrapped(*args, **options)

        wrapt.wrap_function_wrapper(module, f"{owner}.{method}", wrapper)
