"""Turns the project's uv.lock into what hosts install: requirements with hashes, and a digest that names the environment."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from uv import find_uv_bin

OURS = ("psutil", "wrapt", "nvidia-ml-py")  # what the launcher and the runner import beside torch


class ActionModule(ActionBase):
    """winfleet_lock: returns {"requirements": text, "direct": {name: versions}, "torch", "digest", "uv"}."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        ours = Path(self._task.args["fallback"]).expanduser()
        project = Path(self._task.args["project"]).expanduser()
        project = project if (project / "uv.lock").is_file() else ours
        try:
            versions = locked_versions(project / "uv.lock")
            direct = {name: versions[name] for name in direct_names(project / "pyproject.toml") if name in versions}
            direct |= {
                name: version
                for name, version in locked_versions(ours / "uv.lock").items()
                if name in OURS and name not in direct
            }
            text = export(project)
            text += "".join(
                block for name, block in blocks(export(ours)).items() if name in OURS and name not in blocks(text)
            )
        except (OSError, KeyError, tomllib.TOMLDecodeError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            raise AnsibleActionFail(
                f"controller: {project}/uv.lock: {said}\n  hint: run `uv lock` in {project}"
            ) from None
        if "torch" not in versions:
            raise AnsibleActionFail(
                f"controller: {project}/uv.lock has no torch\n  hint: run `uv add torch` in {project}"
            )
        torch = versions["torch"][-1]
        named = "\n".join([text, torch, str(self._task.args["python"]), str(self._task.args["torch_backend"])])
        return {
            **result, "changed": False, "requirements": text, "direct": direct, "torch": torch,
            "digest": hashlib.sha256(named.encode()).hexdigest(), "uv": find_uv_bin(),
        }  # fmt: skip


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


def export(project: Path) -> str:
    """The lock as requirements with hashes, without torch and what only torch needs. Raises CalledProcessError."""
    command = [find_uv_bin(), "export", "--quiet", "--frozen", "--no-emit-project", "--no-annotate", "--no-header",
               "--no-dev", "--prune", "torch", "--project", str(project)]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def blocks(requirements: str) -> dict[str, str]:
    """Name -> its lines of a requirements file with hashes."""
    found: dict[str, str] = {}
    name = ""
    for line in requirements.splitlines(keepends=True):
        if not line.startswith((" ", "\t", "#")) and "==" in line:
            name = line.partition("==")[0].strip()
        if name:
            found[name] = found.get(name, "") + line
    return found
