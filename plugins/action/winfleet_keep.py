"""Keeps a text as a file on the controller, at the cost of no module: ansible.builtin.copy to localhost starts two Pythons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.core.files import write_atomic


class ActionModule(ActionBase):
    """winfleet_keep: path, text. What the controller knows of a host is no change of the host, so never "changed"."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        path = Path(self._task.args["path"]).expanduser()
        try:
            if not self._task.check_mode:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, str(self._task.args["text"]))
        except OSError as error:
            raise AnsibleActionFail(f"{path}: {error.strerror}\n  hint: give a folder that you may write to") from None
        return {**result, "changed": False}
