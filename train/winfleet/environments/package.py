"""The package winfleet as a host gets it: its files, and the entry point by which torchrun finds its rendezvous."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import winfleet
from winfleet.transfer.folders import SHORT, digest, list_files

KEPT_SECONDS: Final = 86_400.0  # for a deployment that still sends from it


def keep(cache: Path) -> Path:
    """The package laid out below the folder, once for its content: two deployments at a time get the same. Raises OSError."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=cache) as place:
        staged = stage(Path(place, "package"))
        kept = cache / digest(staged, list_files(staged, honour_git=False))[:SHORT]
        with contextlib.suppress(OSError):  # there it is already
            staged.rename(kept)
    os.utime(kept)
    for other in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another deployment's
            if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    return kept


def stage(folder: Path) -> Path:
    """Lays the package out in the folder, which is new, and returns it. Raises OSError."""
    shutil.copytree(Path(winfleet.__file__).parent, folder / "winfleet", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / f"winfleet-{winfleet.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: winfleet\nVersion: {winfleet.__version__}\n", "utf-8"
    )
    points = [
        point
        for point in importlib.metadata.distribution("winfleet").entry_points
        if point.group == "torchrun.handlers"
    ]
    lines = [f"{point.name} = {point.value}\n" for point in points]
    (metadata / "entry_points.txt").write_text("[torchrun.handlers]\n" + "".join(lines), "utf-8")
    return folder
