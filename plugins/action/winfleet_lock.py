"""Turns what the project asks for into what hosts install: requirements with hashes, and a digest that names the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uv import find_uv_bin
from winfleet.controller.actions import Action
from winfleet.environments.lock import LockError, read_lock
from winfleet.environments.project import find_packages
from winfleet.environments.resolving import Workers


class ActionModule(Action):
    """winfleet_lock: project, fallback, python, torch_backend, interpreter, windows, cache.

    Returns what winfleet.environments.project.find_packages() does, and "uv". Where the workers' `interpreter` is given nothing
    is installed, so nothing is resolved. What was found before in this run is found again.
    """

    refused = (LockError,)

    def act(self) -> dict[str, Any]:
        """Reads or makes the lock of the project, or takes ours."""
        given = {key: str(value) for key, value in self.given.items()}
        before = self.variables.get("uv_env_lock") or {}
        if before.get("asked") == given:
            return {**before, "changed": False}
        project, ours, cache = (self.path(key) for key in ("project", "fallback", "cache"))
        if given["interpreter"]:
            found = read_lock(project, ours, find_uv_bin(), given["python"], given["torch_backend"])
            found |= {"built": "", "said": say_given(project)}
        else:
            workers = Workers(windows=given["windows"] == "True", python_version=given["python"])
            found = find_packages(project, ours, find_uv_bin(), workers, given["torch_backend"], cache, self.say)
        for line in found.pop("said"):
            self.say(line)
        return {**found, "uv": find_uv_bin(), "asked": given}


def say_given(project: Path) -> list[str]:
    """That a requirements.txt is not installed where the workers have a Python already."""
    if not (project / "requirements.txt").is_file():
        return []
    return [f"Packages: those of uv_env_python; {project / 'requirements.txt'} is not installed"]
