"""Compares what the preflight saw on a host with what this controller would send. Asks nobody."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.preflight.deployed import find_lacking, interpreter_path
from winfleet.preflight.found import read


class ActionModule(ActionBase):
    """winfleet_deployed: home, wanted {kind: digest}, environment (digest), python.

    {"lacking": "pc1 lacks code, data", or "" where it has all; "python": the interpreter that would train}.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, name = self._task.args, str(task_vars["inventory_hostname"])
        found, python = read(task_vars["fleet_host"]["host"]), str(given["python"])
        lacking = find_lacking(found, given["wanted"], "" if python else str(given["environment"]))
        text = f"{name} lacks {', '.join(lacking)}" if lacking else ""
        path = python or interpreter_path(found, str(given["environment"]))
        return {**result, "changed": False, "lacking": text, "python": path}
