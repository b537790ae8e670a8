"""Writes a line of JSON for each task that a Windows host has done: host, script or module, and its answer.

For bench/windows_tasks.py, which names the file in WINDOWS_TASKS_FILE. What Ansible shows stays as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: windows_tasks
type: aggregate
short_description: Notes every task that a Windows host has done
description: One line of JSON a task and host, in the file that WINDOWS_TASKS_FILE names.
"""
REMOTE = ("winfleet_powershell", "ansible.windows.", "community.windows.", "ansible.builtin.setup")


class CallbackModule(CallbackBase):
    """Notes results of modules that ran on a Windows host; actions of the controller alone are none."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "windows_tasks"

    def v2_runner_on_ok(self, result: Any) -> None:
        """One result of one host, each item of a loop by itself."""
        if not result._task.action.startswith(REMOTE):
            return
        for one in result._result.get("results", [result._result]):
            called = one.get("invocation", {}).get("module_args", {})
            line = {
                "host": result._host.get_name(),
                "what": Path(str(called.get("path") or result._task.action)).name,
                "answer": {name: value for name, value in one.items() if not name.startswith(("_", "invocation"))},
            }
            with Path(os.environ["WINDOWS_TASKS_FILE"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
