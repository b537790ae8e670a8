"""Asks a host for what a person who helps may need. A host that cannot be asked is no failure: why is part of the result."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from winfleet.controller.fetching import bring
from winfleet.core.causes import describe_unreachable
from winfleet.support.archive import SupportError, choose_run


class ActionModule(ActionBase):
    """winfleet_gather: home, run, logs, address, python; {"archive": file of this machine or "", "problem": "" or a sentence}."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, name = self._task.args, str(task_vars["inventory_hostname"])
        archive = Path(tempfile.mkdtemp(prefix="winfleet-support-"), "support.tar.gz")
        try:
            asked = {
                "run": choose_run(Path(given["logs"]).expanduser(), str(given["run"] or "")), "python": str(given["python"] or ""),
                "address": socket.gethostbyname(str(given["address"])),
            }  # fmt: skip
            answer = bring(self, "support", asked, archive, task_vars)
        except AnsibleError as error:
            answer = {"unreachable": True, "msg": str(error)}
        except (SupportError, OSError) as error:
            answer = {"failed": True, "msg": str(error)}
        problem = str(answer.get("msg", "")) if answer.get("failed") or answer.get("unreachable") else ""
        if answer.get("unreachable"):
            problem = describe_unreachable(name, problem)
        if not problem and not archive.is_file():
            problem = "what it sent did not arrive whole"
        if problem:
            shutil.rmtree(archive.parent, ignore_errors=True)
        return {**result, "changed": False, "archive": "" if problem else str(archive), "problem": problem}
