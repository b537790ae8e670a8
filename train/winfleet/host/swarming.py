"""The swarm on a Linux host, where Ansible's own Python has no libtorrent: wheels that the controller sends lie beside it.

Standard library alone, and Ansible's Python may be older than winfleet's: then the host takes no part.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..transfer.folders import SHORT

OLDEST = (3, 11)  # that winfleet runs on


def by_wheels(home: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Does a swarm's operation by a Python that has the wheels of `versions` {package: version}; `archive` is a zip of them.

    {"lacks": {"python", "machine"}} where they are not here yet; {"torrent": False, "why": text} where this Python or system
    has none that work. The package `winfleet` is here already, as `agent` (64 hex digits).
    """
    if sys.version_info < OLDEST:
        return {"torrent": False, "why": f"its Python is {platform.python_version()}, not 3.11 or newer"}
    versions = "-".join(f"{name}-{version}" for name, version in sorted(given["versions"].items()))
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    place = home / "agent" / f"wheels-{tag}-{platform.machine()}-{versions}"
    if not place.is_dir():
        if not given["archive"]:
            return {"lacks": {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "machine": platform.machine()}}
        lay_out(Path(given["archive"]), place)
    asked = {name: value for name, value in given.items() if name not in ("versions", "archive")}
    call = {"operation": "swarm", "home": str(home), "arguments": {**asked, "wheels": str(place)}, "check": False}
    package = home / "agent" / given["agent"][:SHORT]
    done = subprocess.run(
        [sys.executable, "-m", "winfleet.host.remote"], input=json.dumps(call).encode(), capture_output=True, check=False,
        cwd=str(home), env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{place}"},
    )  # fmt: skip
    said = (done.stdout if done.returncode == 0 else done.stderr).decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        return {"torrent": False, "why": said[-1] if said else f"its Python ended with {done.returncode}"}
    answer: dict[str, Any] = json.loads(said[-1])
    return answer


def lay_out(archive: Path, place: Path) -> None:
    """The wheels of a zip, unpacked into the folder, which is there whole or not at all. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as folder:
        fresh = Path(folder, "wheels")
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                with packed.open(name) as wheel, zipfile.ZipFile(wheel) as inside:
                    inside.extractall(fresh)
        for older in place.parent.glob("wheels-*"):
            shutil.rmtree(older, ignore_errors=True)
        fresh.rename(place)
