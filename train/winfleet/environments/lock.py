"""A project's uv.lock in the words that hosts install by: requirements with hashes, and a digest. Standard library alone."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

# What the launcher and the runner import beside torch.
OURS = ("nvidia-ml-py", "prometheus-client", "psutil", "pyyaml", "wrapt")


class LockError(Exception):
    """A lock that cannot be used; the text names the project, then gives a hint."""


def read_lock(project: Path, ours: Path, uv: str, python_version: str, torch_backend: str) -> dict[str, Any]:
    """The lock of the project, or ours where it has none: {"requirements": text, "direct": {name: versions}, "torch", "digest"}.

    Raises LockError.
    """
    project = project if (project / "uv.lock").is_file() else ours
    try:
        versions = locked_versions(project / "uv.lock")
        direct = {name: versions[name] for name in direct_names(project / "pyproject.toml") if name in versions}
        direct |= {
            name: version
            for name, version in locked_versions(ours / "uv.lock").items()
            if name in OURS and name not in direct
        }
        text = export(project, uv)
        text += "".join(
            block for name, block in blocks(export(ours, uv)).items() if name in OURS and name not in blocks(text)
        )
    except (OSError, KeyError, tomllib.TOMLDecodeError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise LockError(f"{project / 'uv.lock'}: {said}\nhint: run `uv lock` in {project}") from None
    if "torch" not in versions:
        raise LockError(f"{project / 'uv.lock'} has no torch\nhint: run `uv add torch` in {project}")
    torch = versions["torch"][-1].partition("+")[0]  # uv_env_torch_backend says which build of it
    digest = digest_of(text, torch, python_version, torch_backend)
    return {"requirements": text, "direct": direct, "torch": torch, "digest": digest}


def digest_of(requirements: str, torch: str, python_version: str, torch_backend: str) -> str:
    """SHA-256 (64 hex digits) that names an environment."""
    named = f"{requirements}\n{torch}\n{python_version}\n{torch_backend}"
    return hashlib.sha256(named.encode()).hexdigest()


def locked_versions(lock: Path) -> dict[str, list[str]]:
    """Name -> versions of every package of a uv.lock: several where they differ by Python or system."""
    found: dict[str, list[str]] = {}
    for package in tomllib.loads(lock.read_text("utf-8"))["package"]:
        if "version" in package:
            found.setdefault(package["name"], []).append(package["version"])
    return found


def direct_names(project: Path) -> list[str]:
    """Names of the project's own dependencies, in their normal form."""
    specs = tomllib.loads(project.read_text("utf-8"))["project"].get("dependencies", [])
    return [re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", spec, maxsplit=1)[0]).lower() for spec in specs]


def export(project: Path, uv: str) -> str:
    """The lock as requirements with hashes, without torch and what only torch needs. Raises CalledProcessError."""
    command = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-annotate", "--no-header",
               "--no-dev", "--prune", "torch", "--project", str(project)]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def blocks(requirements: str) -> dict[str, str]:
    """Name -> its lines of a requirements file with hashes."""
    found: dict[str, str] = {}
    name = ""
    for line in requirements.splitlines(keepends=True):
        if begun := re.match(r"([\w.-]+)(==| @ )", line):
            name = begun[1]
        if name:
            found[name] = found.get(name, "") + line
    return found
