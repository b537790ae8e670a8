"""Keeps what was set aside out of a script's sight: many take the highest number among the names that a folder lists.

A checkpoint that was not whole is called step_000140.incomplete, which glob("step_*") would still find, and last.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

ASIDE = "aside.json"  # in the run's folder: paths below work/


def hidden_paths(folder: Path) -> frozenset[str]:
    """Absolute paths of what was set aside in this run."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        names = json.loads((folder / ASIDE).read_text("utf-8"))
        return frozenset(os.path.normcase(os.path.abspath(folder / "work" / name)) for name in names)
    return frozenset()


class Shown:
    """What os.scandir() gives, without hidden entries."""

    def __init__(self, entries: Any, hidden: frozenset[str]) -> None:
        self.entries, self.hidden = entries, hidden

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while os.path.normcase(os.path.abspath(os.fsdecode((entry := next(self.entries)).path))) in self.hidden:
            pass
        return entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it early."""
        self.entries.close()


def hide(folder: Path) -> None:
    """From now on, in this process, where the run has set something aside at all."""
    if not (hidden := hidden_paths(folder)):
        return
    listdir, scandir = os.listdir, os.scandir
    parents = {os.path.dirname(path) for path in hidden}

    def place_of(path: Any) -> str:
        """The folder, "" where it has nothing hidden in it."""
        if isinstance(path, int):
            return ""
        place = os.path.normcase(os.path.abspath(os.fsdecode(os.curdir if path is None else path)))
        return place if place in parents else ""

    def shown_names(path: Any = None) -> list[Any]:
        names: list[Any] = listdir(path)
        if not (place := place_of(path)):
            return names
        return [name for name in names if os.path.normcase(os.path.join(place, os.fsdecode(name))) not in hidden]

    def shown_entries(path: Any = None) -> Any:
        return Shown(scandir(path), hidden) if place_of(path) else scandir(path)

    for name, function in (("listdir", shown_names), ("scandir", shown_entries)):
        setattr(os, name, function)
    for name in ("_Globber", "_StringGlobber"):  # Python 3.13's keep it
        keeper: Any = getattr(glob, name, None)
        if hasattr(keeper, "scandir"):
            keeper.scandir = staticmethod(shown_entries)
