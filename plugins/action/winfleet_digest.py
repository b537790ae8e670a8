"""Digests folders of the controller once for all hosts, winfleet's own package among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.folders import FolderError, digest, list_files
from winfleet.package import stage


class ActionModule(ActionBase):
    """winfleet_digest: {"folders": {kind: path or ""}} becomes {"digests": {kind: 64 hex}, "sources": {kind: path}}."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        cache = Path(self._task.args["cache"]).expanduser()
        given = {kind: Path(path).expanduser() for kind, path in self._task.args["folders"].items() if path}
        try:
            sources = {"agent": stage(cache / "agent"), **given}
            digests = {
                kind: digest(path, list_files(path, honour_git=kind == "code")) for kind, path in sources.items()
            }
        except (FolderError, OSError) as error:
            raise AnsibleActionFail(f"controller: {error}\n  hint: give a folder that can be read") from None
        return {
            **result,
            "changed": False,
            "digests": digests,
            "sources": {kind: str(p) for kind, p in sources.items()},
        }
