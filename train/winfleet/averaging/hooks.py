"""Where an Averager meets torch and a script's libraries, so that no script has to know of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
import wrapt
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from winfleet.averaging.averager import HINT, Averager, AveragingError, check_layers

# Methods that every rank calls at the same place, and behind which the weights are looked at: module -> class, method
TOGETHER: Final = (
    ("transformers.trainer", "Trainer", "evaluate"),
    ("transformers.trainer", "Trainer", "_save_checkpoint"),
    ("accelerate.accelerator", "Accelerator", "save_state"),
    ("lightning.pytorch.trainer.trainer", "Trainer", "save_checkpoint"),
    ("pytorch_lightning.trainer.trainer", "Trainer", "save_checkpoint"),
    ("lightning.pytorch.loops.evaluation_loop", "_EvaluationLoop", "run"),
    ("pytorch_lightning.loops.evaluation_loop", "_EvaluationLoop", "run"),
)
# Trainings, behind which each rank does what it likes
TRAININGS: Final = (
    ("transformers.trainer", "Trainer", "train"),
    ("lightning.pytorch.trainer.trainer", "Trainer", "fit"),
    ("pytorch_lightning.trainer.trainer", "Trainer", "fit"),
)
# Ways to share a model whose ranks need one another on every step
REFUSED: Final = (
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "FSDP"),
    ("torch.distributed.optim", "ZeroRedundancyOptimizer", "ZeroRedundancyOptimizer"),
    ("deepspeed", "initialize", "DeepSpeed"),
)


def install(averager: Averager) -> None:
    """Before the script is run."""
    _meet_models(averager)
    _meet_optimizers(averager)
    _meet_waits(averager)
    for module, owner, method in TOGETHER:
        _once_imported(module, functools.partial(_flush_at, averager, owner, method))
    for module, owner, method in TRAININGS:
        _once_imported(module, functools.partial(_flush_at, averager, owner, method, behind=True))
    for module, owner, name in REFUSED:
        _once_imported(module, functools.partial(_refuse, owner, name))


def _once_imported(name: str, hook: Callable[[Any], None]) -> None:
    wrapt.register_post_import_hook(hook, name)


def _meet_models(averager: Averager) -> None:
    """DDP sends within its host. All go by its attribute require_backward_grad_sync: forward(), no_sync(), Accelerate, nanoGPT."""
    construct: Any = DistributedDataParallel.__init__
    signature = inspect.signature(construct)

    def constructed(*args: Any, **options: Any) -> None:
        given = signature.bind(*args, **options).arguments
        model, group = given["self"], given.pop("process_group", None)
        if given.get("device_mesh") is not None or (group is not None and group is not dist.group.WORLD):
            raise AveragingError(
                f"a DistributedDataParallel has a process group of the script's own, not all ranks\n{HINT}"
            )
        check_layers(given["module"])
        if averager.everyone is None:
            averager.form_groups()
        if averager.alone:  # nothing is reduced; the first would fail
            given |= {"static_graph": False, "find_unused_parameters": False}
        construct(**given, process_group=averager.inside)
        averager.add(model)

    def sends(self: DistributedDataParallel) -> bool:
        quiet = averager.everyone is not None and averager.alone and any(self is model for model in averager.models)
        return False if quiet else bool(self.__dict__.get("_sends", True))

    DistributedDataParallel.__init__ = constructed  # type: ignore[method-assign]
    DistributedDataParallel.require_backward_grad_sync = property(  # type: ignore[assignment]
        sends, lambda self, value: self.__dict__.update(_sends=value)
    )


def _meet_optimizers(averager: Averager) -> None:
    """A step that a GradScaler skips, as something was infinite on this rank alone, is a step all the same."""
    register_optimizer_step_pre_hook(lambda optimizer, *_: averager.before_step(optimizer))
    register_optimizer_step_post_hook(lambda optimizer, *_: averager.after_step(optimizer))
    scaled: Any = torch.amp.GradScaler.step

    def step(self: Any, optimizer: Any, *args: Any, **options: Any) -> Any:
        seen = averager.seen
        done = scaled(self, optimizer, *args, **options)
        if averager.seen == seen:
            averager.before_step(optimizer)
            averager.after_step(optimizer)
        return done

    torch.amp.GradScaler.step = step  # type: ignore[method-assign]


def _meet_waits(averager: Averager) -> None:
    """A rank at a barrier of all, or at its end, takes part in the others' rounds, and what is saved behind it is the mean."""
    for module in (dist, dist.distributed_c10d):
        for name in ("barrier", "destroy_process_group"):
            setattr(module, name, _flushing(averager, getattr(module, name)))
    join: Any = Join.__init__

    def joined(self: Any, *args: Any, **options: Any) -> None:
        if averager.everyone is not None and not averager.alone:
            raise AveragingError(
                f"Join lets ranks of one host take unequal steps, and averages need equal ones there\n{HINT}"
            )
        join(self, *args, **{**options, "enable": False})  # uneven hosts are no trouble here

    Join.__init__ = joined  # type: ignore[method-assign]


def _flushing(averager: Averager, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **options: Any) -> Any:
        group = args[0] if args else options.get("group")
        if group is None or group is dist.group.WORLD:
            averager.flush()
        return function(*args, **options)

    return wrapper


def _flush_at(averager: Averager, owner: str, method: str, module: Any, *, behind: bool = False) -> None:
    def wrapper(wrapped: Any, _: Any, args: Any, options: Any) -> Any:
        if not behind:
            averager.flush()
        done = wrapped(*args, **options)
        if behind:
            averager.flush()
        return done

    wrapt.wrap_function_wrapper(module, f"{owner}.{method}", wrapper)


def _refuse(owner: str, name: str, module: Any) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AveragingError(
            f"{name} needs all ranks on every step, so its weights cannot be averaged every few steps\n{HINT}"
        )

    place = getattr(module, owner)
    if isinstance(place, type):
        place.__init__ = refuse  # type: ignore[misc]
    else:
        setattr(module, owner, refuse)
