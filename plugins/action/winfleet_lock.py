"""Turns what the project asks for into what hosts install: requirements with hashes, and a digest that names the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from uv import find_uv_bin
from winfleet.environments.lock import LockError, read_lock
from winfleet.environments.project import find_packages
from winfleet.environments.resolving import Workers


class ActionModule(ActionBase):
    """winfleet_lock: project, fallback, python, torch_backend, interpreter, windows, cache.

    Returns what winfleet.environments.project.find_packages() does, and "uv". Where the workers' `interpreter` is given nothing
    is installed, so nothing is resolved. What was found before in this run is found again.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: str(value) for key, value in self._task.args.items()}
        before = task_vars.get("uv_env_lock") or {}
        if before.get("asked") == given:
            return {**result, "changed": False, **{key: before[key] for key in before if key not in result}}
        project, ours, cache = (Path(given[key]).expanduser() for key in ("project", "fallback", "cache"))
        try:
            if given["interpreter"]:
                found = read_lock(project, ours, find_uv_bin(), given["python"], given["torch_backend"])
                found |= {"built": "", "said": say_given(project)}
            else:
                workers = Workers(windows=given["windows"] == "True", python_version=given["python"])
                found = find_packages(
                    project, ours, find_uv_bin(), workers, given["torch_backend"], cache, Display().display
                )
        except LockError as error:
            raise AnsibleActionFail(f"controller: {error}".replace("\nhint:", "\n  hint:")) from None
        for line in found.pop("said"):
            Display().display(line)
        return {**result, "changed": False, **found, "uv": find_uv_bin(), "asked": given}


def say_given(project: Path) -> list[str]:
    """That a requirements.txt is not installed where the workers have a Python already."""
    if not (project / "requirements.txt").is_file():
        return []
    return [f"Packages: those of uv_env_python; {project / 'requirements.txt'} is not installed"]
