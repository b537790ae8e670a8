"""A folder with all wheels of an environment for the workers' system, downloaded for hosts without internet."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from uv import find_uv_bin

from winfleet.lock import LockError


def wheels_folder(cache: Path, requirements: str, torch: str, python_version: str, platform: str) -> Path:
    """Where the wheels of this lock for a platform, as win_amd64, are kept."""
    named = f"{requirements}\n{torch}\n{python_version}\n{platform}"
    return cache / "wheels" / hashlib.sha256(named.encode()).hexdigest()[:12]


def download(folder: Path, requirements: str, torch: str, python_version: str, platform: str) -> None:
    """Downloads them into the folder, which appears once it is whole. Raises LockError with the programs' words."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="winfleet-", dir=folder.parent) as temporary:
        fresh, wanted = Path(temporary, "wheels"), Path(temporary, "wanted.txt")
        wanted.write_text(f"{requirements}\ntorch=={torch}\n", "utf-8")
        target = "windows" if platform.startswith("win") else "linux"
        # uv resolves for the workers' system; pip, which downloads, would judge the markers by this one
        resolved = run([find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-platform", target,
                        "--python-version", python_version, str(wanted)])  # fmt: skip
        wanted.write_text(resolved, "utf-8")
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", platform,
             "--python-version", python_version, "--dest", str(fresh), "-r", str(wanted)])  # fmt: skip
        shutil.move(fresh, folder)


def run(command: list[str]) -> str:
    """Runs it; its output. Raises LockError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LockError(
            f"the wheels for the workers cannot be had: {done.stderr.strip()[-800:]}\n"
            "hint: the controller needs a package index, or set uv_env_wheels to a folder of wheels on the workers"
        )
    return done.stdout
