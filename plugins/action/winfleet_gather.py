"""Asks a host for what a person who helps may need. A host that cannot be asked is no failure: why is part of the result."""

from __future__ import annotations

import functools
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from winfleet.causes import describe_unreachable
from winfleet.fetching import fetch_during
from winfleet.support import SupportError, choose_run


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
            slow = task_vars["ansible_connection"] in ("winrm", "psrp")
            task = functools.partial(self._ask, archive, task_vars)
            answer = fetch_during(task, asked, archive) if slow else task(asked)
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

    def _ask(self, archive: Path, task_vars: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
        call = {"operation": "support", "home": self._task.args["home"], "arguments": dict(asked)}
        answer: dict[str, Any] = self._execute_module(
            module_name="winfleet_host", module_args=call, task_vars=task_vars
        )
        if "archive" in answer and "token" not in asked:
            self._connection.fetch_file(answer["archive"], str(archive))
            self._remove_tmp_path(answer["folder"])
        return answer
