"""What a run left on a host, packed for the controller. Standard library alone, for Ansible's module."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.results import find_results
from ..core.errors import HostError
from ..core.files import new_temporary
from ..runs.record import outputs
from ..runs.state import read_status, state_of
from ..transfer.folders import add

MOST_LEFT = 1_000  # files that are named one by one
BIG_BYTES = 500_000_000  # a larger archive is made below fleet_home: /tmp may be memory


def choose(sizes: dict[str, int], first: Sequence[Sequence[str]], limit: float) -> list[str]:
    """What fits into `limit` bytes: each of `first` (files that go together), then the others from the smallest on."""
    chosen: dict[str, None] = {}
    total = 0
    rest = [[name] for name in sorted(sizes, key=lambda name: (sizes[name], name))]
    for group in [*first, *rest]:
        new = [name for name in group if name not in chosen]
        size = sum(sizes[name] for name in new)
        if total + size <= limit:
            total += size
            chosen.update(dict.fromkeys(new))
    return list(chosen)


def pack(home: Path, run: str, *, code: str, data: str, all_outputs: bool, limit_mb: float | None) -> dict[str, Any]:
    """Packs logs and outputs. `limit_mb` None: without a limit, and older checkpoints too.

    {"archive": path of a .tar.gz in "folder", a new one; "work"; "outputs_mb": what is in it; "left": [{"path" below work, "bytes"}] of
    what is not, "left_mb" of all of it}. Members below work/ are outputs of the first host; those below shared/ are other hosts' parts of the
    newest checkpoint. Raises HostError where the disk has no room for the archive.
    """
    folder = home / "runs" / run
    work = folder / "work"
    found = {
        path.relative_to(work).as_posix(): path.stat() for path in outputs(home, folder, code or None, data or None)
    }
    results = find_results({name: stat.st_mtime for name, stat in found.items()})
    older = frozenset() if limit_mb is None else results.older
    sizes = {name: stat.st_size for name, stat in found.items() if name not in older}
    prefix = {name: "work/" for name in sizes if all_outputs or "wandb" in name.split("/")}
    if (
        not all_outputs and results.checkpoint not in results.checkpoint_files
    ):  # a folder, perhaps with parts of each host
        prefix.update({name: "shared/" for name in results.checkpoint_files if name not in prefix})
    sizes = {name: size for name, size in sizes.items() if name in prefix}
    first = [[name for name in group if name in sizes] for group in (results.model_files, results.checkpoint_files)]
    kept = choose(sizes, first, float("inf") if limit_mb is None else limit_mb * 1e6)
    size = sum(sizes[name] for name in kept)
    archive = new_archive(home, size)
    with tarfile.open(archive, mode="w:gz", compresslevel=1) as tar:
        for pattern in ("*.log", "*.jsonl", "*.stack.txt", "oom.json"):
            for path in folder.glob(pattern):
                tar.add(path, arcname=path.name)
        if status := read_status(folder):  # which says "running" where its launcher is gone
            add(tar, "status.json", json.dumps({**status, "state": state_of(folder)}).encode())
        for name in kept:
            tar.add(work / name, arcname=prefix[name] + name)
    left = sorted(sizes.keys() - set(kept), key=lambda name: -sizes[name])
    return {
        "changed": False,
        "archive": str(archive),
        "folder": str(archive.parent),
        "work": str(work),
        "outputs_mb": round(size / 1e6, 1),
        "left": [{"path": name, "bytes": sizes[name]} for name in left[:MOST_LEFT]],
        "left_mb": round(sum(sizes[name] for name in left) / 1e6, 1),
        "older": len(older) if all_outputs else 0,
    }


def new_archive(home: Path, size: int) -> Path:
    """Where to pack so many bytes. Raises HostError where they do not fit."""
    if size < BIG_BYTES:
        return new_temporary(home) / "run.tar.gz"
    place = home / "temp"
    place.mkdir(exist_ok=True)
    free = shutil.disk_usage(place).free
    if size > free:
        raise HostError(
            f"outputs of {size / 1e6:.0f} MB are packed below {place} before they leave, where {free / 1e6:.0f} MB are free\n"
            "hint: make room there, or copy them from the run's work/ yourself"
        )
    return Path(tempfile.mkdtemp(prefix="ansible-tmp-winfleet-", dir=place)) / "run.tar.gz"
