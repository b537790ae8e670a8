"""What tells where a script goes on: the steps that its optimizer had done before this process, and whether it loads a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from winfleet.rank.meter import Meter


def steps_before(optimizer: torch.optim.Optimizer) -> int | None:
    """Called after its first step here; None where it does not count (SGD)."""
    counts = [state["step"] for state in optimizer.state.values() if isinstance(state, dict) and "step" in state]
    return max(int(count) for count in counts) - 1 if counts else None


def watch_optimizers(meter: Meter) -> None:
    """Notes it once for each optimizer; the highest one stands."""
    seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    def stepped(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if optimizer in seen:
            return
        seen.add(optimizer)
        with contextlib.suppress(Exception):  # a note must never end a training
            before = steps_before(optimizer)
            if before is not None:
                meter.values["optimizer_begun"] = max(before, meter.values.get("optimizer_begun") or 0)

    register_optimizer_step_post_hook(stepped)


def watch_loads(meter: Meter) -> None:
    """Notes whether the script reads a file of torch's in the folder in which it begins, data/ apart."""
    load, work = torch.load, Path.cwd()

    @functools.wraps(load)
    def watched_load(f: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = load(f, *args, **kwargs)
        with contextlib.suppress(Exception):  # a note must never end a training
            path = Path(os.path.abspath(getattr(f, "name", f)))
            if path.is_relative_to(work) and not path.is_relative_to(work / "data"):
                meter.values["loaded"] = True
        return loaded

    torch.load = watched_load
