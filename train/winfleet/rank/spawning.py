"""A script that starts ranks by itself, although the launcher has started one for each GPU."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from types import CodeType
from typing import Any, Final

import wrapt

# A function that says one of these, or calls one of its own file that does, makes a rank of its process.
JOINS: Final = frozenset({"init_process_group", "Accelerator"})
MOST_CALLS: Final = 4  # functions deep
STARTERS: Final = ("torchrun", "deepspeed")
MODULES: Final = ("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch")


class SpawningError(RuntimeError):
    """A script starts ranks; the text says by what, and what to do instead."""


def refusal(what: str) -> SpawningError:
    """The error for a script that starts its ranks by `what`."""
    return SpawningError(
        f"the script starts ranks by itself ({what}), but it is rank {os.environ.get('RANK', '0')} of "
        f"{os.environ.get('WORLD_SIZE', '1')} already: the launcher has started one process for each GPU of each PC\n"
        "hint: give the command that one process runs. A function given to mp.spawn is called once instead, with "
        "int(os.environ['RANK']) and int(os.environ['WORLD_SIZE']); torchrun and accelerate launch are left out; yolo gets a "
        "device for each process of the run: device=0,1 for one PC with two GPUs, device=0,0 for two PCs with one. "
        "fleet_processes says how many processes a PC has"
    )


def joins(target: Any, depth: int = MOST_CALLS) -> bool:
    """Whether a function makes a process group, as far as its code and that of the functions it calls by name tell."""
    if isinstance(target, functools.partial):
        target = target.func
    elif type(target).__name__ == "PrepareForLaunch":  # Accelerate's own
        target = target.launcher
    if inspect.isclass(target):
        return any(joins(member, depth) for member in vars(target).values() if inspect.isfunction(member))
    target = getattr(target, "__func__", target) if inspect.ismethod(target) else target
    if not inspect.isfunction(target):
        return False
    names = set(_names(target.__code__))
    if names & JOINS:
        return True
    called = (target.__globals__.get(name) for name in names) if depth else ()
    return any(joins(one, depth - 1) for one in called if getattr(one, "__module__", "") == target.__module__)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def starts_ranks(command: Any) -> str:
    """What in a command of subprocess starts ranks, "" where nothing does."""
    try:
        words = shlex.split(command) if isinstance(command, str) else list(map(os.fspath, command))
    except (TypeError, ValueError):
        return ""
    words = [str(word) for word in words]
    program = os.path.basename(words[0]).lower().removesuffix(".exe") if words else ""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] and program.startswith("python") else ""
    if module in MODULES:
        return module
    if program == "accelerate" and words[1:2] == ["launch"]:
        return "accelerate launch"
    return program if program in STARTERS else ""


def watch_spawning(joined: Callable[[], bool]) -> None:
    """Refuses processes that are to become ranks. `joined` tells whether this rank is in its group already."""
    start: Any = BaseProcess.start
    popen: Any = subprocess.Popen.__init__

    def watched_start(self: Any) -> None:
        given = [self._target, *self._args, *self._kwargs.values()]
        if not joined() and (found := next(filter(joins, given), None)) is not None:
            raise refusal(f"a process of its own for {getattr(found, '__name__', 'it')}(), as mp.spawn makes them")
        start(self)

    def refuse_agent(*_: Any, **__: Any) -> None:
        raise refusal("torch.distributed.run")

    def watched_popen(self: Any, args: Any, *more: Any, **kwargs: Any) -> None:
        if found := starts_ranks(args):
            raise refusal(found)
        popen(self, args, *more, **kwargs)

    BaseProcess.start = watched_start  # type: ignore[method-assign]
    subprocess.Popen.__init__ = watched_popen  # type: ignore[method-assign]
    wrapt.register_post_import_hook(
        lambda module: setattr(module, "launch_agent", refuse_agent), "torch.distributed.launcher.api"
    )


def check_group(rank: Any, world_size: Any) -> None:
    """Before a process group is made. Raises SpawningError where the script gives it another size than the run has."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and isinstance(world_size, int) and 0 < world_size != ranks:
        raise refusal(f"init_process_group(rank={rank}, world_size={world_size})")
