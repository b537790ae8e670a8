"""The batch with which a run went on after a GPU's memory was too small, proposed to its user as a small YAML file.

It is written beside the user's settings, which are never changed, as train_config.oom.yaml for train_config.yaml.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan
from winfleet.core.reading import plain
from winfleet.rank.oom import Change, read_change
from winfleet.transfer.folders import PROPOSAL


def proposal(change: Change, run: str, settings: str) -> str:
    """YAML with the two values and why. `settings` names what they belong into."""
    (batch, smaller), (accumulation, larger) = change.values
    why = [
        f"Proposed after run {run}: rank {change.rank} of {change.host} ran out of memory at step {change.step}.",
        f"The effective batch stays: {batch.value} x {accumulation.value} = {smaller} x {larger}.",
        f"{settings} was not changed; put these values there, or the next run finds them anew.",
    ]
    values: dict[str, Any] = {}
    for setting, value in change.values:
        place = values
        for key in setting.keys[:-1]:
            place = place.setdefault(key, {})
        place[setting.keys[-1] if setting.keys else setting.name] = value
    lines = [f"# {' '.join(plain(line).split())}\n" for line in why]
    return "".join(lines) + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def proposal_name(settings: Path | None) -> str:
    """train_config.oom.yaml for train_config.yaml; command.oom.yaml where options hold the values."""
    return (settings.stem if settings else "command") + PROPOSAL


def write_proposal(text: str, name: str, folders: Sequence[Path]) -> Path | None:
    """Writes it into the first folder that can be written, and returns the file; None where none can."""
    for folder in folders:
        with contextlib.suppress(OSError):
            write_atomic(folder / name, text)
            return folder / name
    return None


def propose(folder: Path, plan: Plan, config: Path | None) -> list[str]:
    """On the controller: writes what the hosts had to change into the run's folder and beside `config`; what to say of it.

    `config` is left alone where the run was of another text, or its values came from elsewhere.
    """
    found = (
        read_change(path.read_bytes()) for host in plan.hosts if (path := folder / host.name / "oom.json").is_file()
    )
    change = next(filter(None, found), None)
    if change is None:
        return []
    own = change.batch.keys and change.batch.word < len(plan.command) and "{config}" in plan.command[change.batch.word]
    settings = config if own and config and config.is_file() and config.read_text("utf-8") == plan.config else None
    text = proposal(change, plan.run, settings.name if settings else "the command or its settings")
    name = proposal_name(settings)
    kept = write_proposal(text, name, [folder])
    beside = write_proposal(text, name, [settings.parent]) if settings else None
    said = [f"proposed after its memory ran out: {os.path.relpath(path)}" for path in (beside or kept,) if path]
    return [*said, f"{settings.parent} cannot be written"] if settings and not beside else said
