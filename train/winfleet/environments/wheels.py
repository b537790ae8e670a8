"""A folder with all wheels of an environment for the workers' system, downloaded for hosts without internet."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from uv import find_uv_bin

from winfleet.environments.environment import index_strategy, is_cpu_build
from winfleet.environments.lock import LockError

TORCH_INDEX: Final = "https://download.pytorch.org/whl/"
TORCH_WHEEL: Final = re.compile(r"torch-(?P<version>[^-]+)-(?P<python>[^-]+)-[^-]+-(?P<platform>.+)\.whl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What the wheels are for."""

    requirements: str  # of the lock, with hashes, without torch
    torch: str  # its locked version
    python_version: str  # 3.11
    platform: str  # win_amd64, manylinux_2_28_x86_64
    torch_backend: str = ""  # cu130 …; auto and "": what the index has
    built: Path | None = None  # a folder with wheels that were built here
    own: Path | None = None  # a folder with wheels of the user's, as a torch with CUDA

    @property
    def windows(self) -> bool:
        """Whether the workers are Windows PCs."""
        return self.platform.startswith("win")

    @property
    def own_torch(self) -> str:
        """Version with its build of the torch in the user's folder, as 2.13.0+cu130; "" for none that fits."""
        tag, system = "cp" + self.python_version.replace(".", ""), "win" if self.windows else "linux"
        names = [unquote(path.name) for path in sorted(self.own.glob("torch-*.whl"))] if self.own else []
        found = [match for match in map(TORCH_WHEEL.fullmatch, names) if match]
        versions = [
            one["version"] for one in found if one["python"] == tag and system in one["platform"]
            and one["version"].partition("+")[0] == self.torch
        ]  # fmt: skip
        return versions[-1] if versions else ""

    @property
    def index(self) -> list[str]:
        """Options of pip for the index of torch's builds, where one is asked for by name and not in the user's folder."""
        if self.own_torch or self.torch_backend in ("", "auto"):
            return []
        return ["--extra-index-url", TORCH_INDEX + self.torch_backend]

    def folder(self, cache: Path) -> Path:
        """Where the wheels are kept."""
        build = self.own_torch or (self.torch_backend if self.index else "")
        named = f"{self.requirements}\n{self.torch}\n{self.python_version}\n{self.platform}" + (
            f"\n{build}" if build else ""
        )
        return cache / "wheels" / hashlib.sha256(named.encode()).hexdigest()[:12]


def download(folder: Path, wanted: Environment) -> None:
    """Downloads them into the folder, which appears once it is whole. Raises LockError with the programs' words."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = [word for folder in (wanted.own, wanted.built) if folder for word in ("--find-links", str(folder))]
    indexes = "".join(line for line in wanted.requirements.splitlines(keepends=True) if line.startswith("--"))
    backend = [f"--torch-backend={wanted.torch_backend}"] if wanted.index else []
    with tempfile.TemporaryDirectory(prefix="winfleet-", dir=folder.parent) as temporary:
        fresh, listed = Path(temporary, "wheels"), Path(temporary, "wanted.txt")
        listed.write_text(f"{wanted.requirements}\ntorch=={wanted.own_torch or wanted.torch}\n", "utf-8")
        # uv resolves for the workers' system; pip, which downloads, would judge the markers by this one
        resolved = run([find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", *own, *backend, *index_strategy(wanted.requirements), "--python-platform",
                        "windows" if wanted.windows else "linux", "--python-version", wanted.python_version, str(listed)])  # fmt: skip
        listed.write_text(indexes + resolved, "utf-8")
        if said := fetch(fresh, wanted.python_version, [wanted.platform], *own, *wanted.index, "-r", str(listed)):
            raise unavailable(said)
        shutil.move(fresh, folder)


def fetch(folder: Path, python_version: str, platforms: Sequence[str], *words: str) -> str:
    """Has pip download wheels of exactly these (names, or its own options) for another system; its complaint, "" for none."""
    on = [word for platform in platforms for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *on,
               "--python-version", python_version, "--dest", str(folder), *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or "no word of pip" if done.returncode else ""


def check_build(folder: Path, wanted: Environment, gpus: Mapping[str, Sequence[str]]) -> None:
    """Raises LockError where hosts have GPUs (host -> their names) and the folder's torch is the CPU build."""
    on = [f"{host} has {names[0]}" for host, names in gpus.items() if names]
    names = [unquote(path.name) for path in folder.glob("torch-*.whl")]
    versions = [match["version"] for match in map(TORCH_WHEEL.fullmatch, names) if match]
    if (
        wanted.torch_backend == "cpu"
        or not on
        or not any(is_cpu_build(one, windows=wanted.windows) for one in versions)
    ):
        return
    raise LockError(
        f"torch {versions[0]} for workers without internet is the build without GPUs, and {', '.join(on)}\n"
        f"hint: set uv_env_torch_backend to the build for the driver, as cu130; or put torch-{wanted.torch}+cu130-*.whl for the workers "
        "into a folder here and set uv_env_own_wheels to it; or train on CPUs: uv_env_torch_backend=cpu"
    )


def run(command: list[str]) -> str:
    """Runs it; its output. Raises LockError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise unavailable(done.stderr)
    return done.stdout


def unavailable(said: str) -> LockError:
    """The error with a program's last words."""
    return LockError(
        f"the wheels for the workers cannot be had: {said.strip()[-800:]}\n"
        "hint: the controller needs a package index, or set uv_env_wheels to a folder of wheels on the workers"
    )
