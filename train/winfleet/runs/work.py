"""The folder in which a run's command works: a copy of the code, with the data in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from winfleet.core.causes import advise
from winfleet.core.causes_table import MACHINE
from winfleet.core.plan import Host, Plan, PlanError

NO_WORK_HINT: Final = "\nhint: is there room on the disk, and may this user write there?"


def prepare_work(plan: Plan, run_folder: Path) -> Path:
    """Copies the code to runs/<run>/work, where the command runs and writes, with `data` in it if the code has none.

    The copy keeps code/<digest> as it came. A second start of the same run finds its outputs and checkpoints there.
    """
    work, home = run_folder / "work", run_folder.parent.parent
    work.mkdir(exist_ok=True)
    if plan.code is not None:
        shutil.copytree(home / "code" / plan.code, work, dirs_exist_ok=True)
    if plan.data is not None and not (work / "data").exists():
        link_folder(home / "data" / plan.data, work / "data")
    if plan.config is not None:
        (run_folder / "config.yaml").write_text(plan.config, encoding="utf-8")
    return work


def enter_work(plan: Plan, host: Host, run_folder: Path) -> None:
    """Makes the folder in which the command runs the current one. Raises PlanError where the disk does not let it."""
    try:
        os.chdir(prepare_work(plan, run_folder))
    except OSError as error:
        raise PlanError(f"{host.name}: {error}{advise(str(error), host.name, MACHINE) or NO_WORK_HINT}") from error


def link_folder(target: Path, link: Path) -> None:
    """A symbolic link; on Windows a junction, which needs no right of its own, or where a disk has none, hard links."""
    if sys.platform == "win32":
        import _winapi

        try:
            _winapi.CreateJunction(str(target), str(link))
        except OSError:  # exFAT, and Wine
            shutil.rmtree(link, ignore_errors=True)  # what a failed junction leaves
            shutil.copytree(target, link, copy_function=link_or_copy)
    else:
        link.unlink(missing_ok=True)  # one that points to data since pruned
        link.symlink_to(target, target_is_directory=True)


def link_or_copy(source: str, target: str) -> None:
    """A hard link, or a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def fill_in(command: Sequence[str], plan: Plan, run_folder: Path) -> list[str]:
    """The command with {data}, {config} and {run} replaced by paths on this host; other braces stay as they are."""
    data = "" if plan.data is None else str(run_folder.parent.parent / "data" / plan.data)
    values = {"{data}": data, "{config}": str(run_folder / "config.yaml"), "{run}": str(run_folder)}
    words = list(command)
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return words
