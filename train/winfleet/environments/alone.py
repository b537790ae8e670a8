"""The packages of a user's project where it trains on one PC: what a cluster would install, found on that PC itself."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from winfleet.core.errors import HostError
from winfleet.core.files import replace
from winfleet.environments.lock import blocks, export, read_lock
from winfleet.transfer.folders import content_of

SAY_PACKAGES: Final = ("uv.lock", "requirements.txt", "pyproject.toml")
READER: Final = "packaging"  # what reads requirements; the Python that uv brought has it not


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """What this PC makes environments with."""

    ours: Path  # the folder of winfleet's own lock
    uv: str
    torch_backend: str
    kept: Path  # where locks are kept
    wheels: Path | None = None  # a PC without internet has all packages there

    @property
    def offline(self) -> list[str]:
        """Options of uv."""
        return ["--offline", "--no-index", "--find-links", str(self.wheels.resolve())] if self.wheels else []


def project_of(command: Sequence[str]) -> Path | None:
    """The folder that says which packages a script needs: the current one, else the script's; None where neither does."""
    script = [Path(command[0]).resolve().parent] if command and command[0] != "-m" else []
    folders = [Path.cwd(), *script]
    return next((folder for folder in folders if any((folder / name).is_file() for name in SAY_PACKAGES)), None)


def packages_here(project: Path | None, here: Here, *, dry_run: bool) -> dict[str, Any]:
    """What read_lock() gives, with "said": lines for the user. Under `dry_run` nothing is kept. Raises LockError, HostError."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if project is None:
        return {**read_lock(here.ours, here.ours, here.uv, version, here.torch_backend), "said": []}
    with folder_for(here.kept, dry_run=dry_run) as kept:
        bring_reader(here, kept / "reader")
        from winfleet.environments.project import find_packages
        from winfleet.environments.resolving import Workers

        workers = Workers(windows=sys.platform == "win32", python_version=version)
        found = find_packages(
            project, here.ours, here.uv, workers, here.torch_backend, kept, lambda text: print(text, flush=True),
            alone=True, options=here.offline,
        )  # fmt: skip
    if here.wheels:
        found["requirements"] = hashed(found["requirements"], here.wheels)
    return found


@contextlib.contextmanager
def folder_for(kept: Path, *, dry_run: bool) -> Iterator[Path]:
    """Where locks are kept; under `dry_run` a folder that goes again, where there is none yet."""
    if dry_run and not kept.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept


def bring_reader(here: Here, folder: Path) -> None:
    """Makes the package `packaging` of winfleet's lock importable. Raises HostError."""
    if importlib.util.find_spec(READER):
        return
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=".winfleet-", dir=folder.parent) as temporary:
            fresh, listed = Path(temporary, "fresh"), Path(temporary, "wanted.txt")
            listed.write_text(blocks(export(here.ours, here.uv))[READER], "utf-8")
            command = [here.uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable,
                       *here.offline, "--target", str(fresh), "-r", str(listed)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
            if done.returncode:
                raise HostError(
                    f"the package {READER}, which reads requirements, cannot be had: {done.stderr.strip()}\n"
                    "hint: is the package index reachable from this PC? It is needed once, or -Wheels with a folder that has it"
                )
            replace(fresh, folder)
    sys.path.append(str(folder))


def hashed(requirements: str, wheels: Path) -> str:
    """The requirements with hashes of the folder's wheels where a lock has none, as uv writes none of such a folder."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import Version

    hashes: dict[tuple[str, Version], list[str]] = {}
    for path in sorted(wheels.glob("*.whl")):
        with contextlib.suppress(InvalidWheelFilename):
            hashes.setdefault(parse_wheel_filename(unquote(path.name))[:2], []).append(content_of(path)[0])
    texts = blocks(requirements)
    for name, text in texts.items():
        found = re.match(r"[\w.-]+==([^\s;\\]+)", text)
        if found and "--hash=" not in text:
            known = hashes.get((name, Version(found[1])), [])
            texts[name] = " \\\n    ".join([text.rstrip(), *(f"--hash=sha256:{one}" for one in known)]) + "\n"
    head = "".join(line for line in requirements.splitlines(keepends=True) if line.startswith("--"))
    return head + "".join(texts.values())
