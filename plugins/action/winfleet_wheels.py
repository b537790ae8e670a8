"""Downloads all wheels of an environment for the workers' platform, to be sent to workers without internet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.lock import LockError
from winfleet.wheels import download, wheels_folder


class ActionModule(ActionBase):
    """winfleet_wheels: requirements (text), torch, python_version, platform, cache; returns {"path"}, made once."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: str(value) for key, value in self._task.args.items()}
        wanted = [given[key] for key in ("requirements", "torch", "python_version", "platform")]
        folder = wheels_folder(Path(given["cache"]).expanduser(), *wanted)
        if folder.is_dir():
            return {**result, "changed": False, "path": str(folder)}
        try:
            download(folder, *wanted)
        except LockError as error:
            raise AnsibleActionFail(f"controller: {error}".replace("\nhint:", "\n  hint:")) from None
        return {**result, "changed": True, "path": str(folder)}
