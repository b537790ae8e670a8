"""Turns the project's uv.lock into what hosts install: requirements with hashes, and a digest that names the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from uv import find_uv_bin
from winfleet.environments.lock import LockError, read_lock


class ActionModule(ActionBase):
    """winfleet_lock: project, fallback, python, torch_backend; returns what winfleet.environments.lock.read_lock() does, and "uv"."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: str(value) for key, value in self._task.args.items()}
        project, ours = (Path(given[key]).expanduser() for key in ("project", "fallback"))
        try:
            found = read_lock(project, ours, find_uv_bin(), given["python"], given["torch_backend"])
        except LockError as error:
            raise AnsibleActionFail(f"controller: {error}".replace("\nhint:", "\n  hint:")) from None
        return {**result, "changed": False, **found, "uv": find_uv_bin()}
