"""The package winfleet as a host gets it: its files, and the entry point by which torchrun finds its rendezvous."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import winfleet


def stage(folder: Path) -> Path:
    """Lays the package out in the folder, replacing what is there, and returns it. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
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
