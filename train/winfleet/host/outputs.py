"""What a run left on a host, packed for the controller. Standard library alone, for Ansible's module."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.files import new_temporary
from ..runs.state import read_status, state_of
from ..transfer.folders import SHORT, add


def files_below(folder: Path) -> Iterator[Path]:
    """Plain files, not through links."""
    for parent, folders, names in os.walk(folder):  # nothing where the folder is missing
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def outputs(work: Path, code: Path, data: Path) -> list[Path]:
    """What the command wrote into its working folder: files that neither code nor data have, the newest checkpoint alone.

    On Windows work/data is a junction or hard links, which files_below() goes into.
    """
    found = []
    for path in files_below(work):
        name = path.relative_to(work)
        sent = [code / name, *([data.joinpath(*name.parts[1:])] if name.parts[0] == "data" else [])]
        if not any(place.exists() for place in sent):
            found.append(path)
    saved = {path for path in work.rglob("checkpoints/*") if path.is_dir()}
    newest = max(saved, key=lambda path: path.stat().st_mtime, default=None)
    return [path for path in found if not any(old in path.parents for old in saved if old != newest)]


def pack(home: Path, run: str, *, code: str, data: str, all_outputs: bool, limit_mb: int) -> dict[str, Any]:
    """{"archive": path of a .tar.gz in "folder", a new one, "outputs_mb", "left": folder of outputs that were too large, else ""}."""
    folder = home / "runs" / run
    work = folder / "work"
    kept = outputs(work, home / "code" / (code or "none")[:SHORT], home / "data" / (data or "none")[:SHORT])
    if not all_outputs:
        kept = [path for path in kept if "wandb" in path.relative_to(work).parts]
    size = sum(path.stat().st_size for path in kept) / 1e6
    logs = [*folder.glob("*.log"), *folder.glob("*.jsonl"), *folder.glob("*.stack.txt"), *folder.glob("oom.json")]
    temporary = new_temporary(home)
    archive = temporary / "run.tar.gz"
    with tarfile.open(archive, mode="w:gz", compresslevel=1) as tar:
        for path in logs:
            tar.add(path, arcname=path.name)
        if status := read_status(folder):  # which says "running" where its launcher is gone
            add(tar, "status.json", json.dumps({**status, "state": state_of(folder)}).encode())
        for path in kept if size <= limit_mb else []:
            tar.add(path, arcname=str(PurePosixPath("work", path.relative_to(work).as_posix())))
    left = str(work) if size > limit_mb else ""
    return {
        "changed": False,
        "archive": str(archive),
        "folder": str(temporary),
        "outputs_mb": round(size, 1),
        "left": left,
    }
