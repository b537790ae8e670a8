"""Asks a host for what a person who helps may need. A host that cannot be asked is no failure: why is part of the result."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import bring
from winfleet.core.causes import describe_unreachable
from winfleet.support.archive import SupportError, choose_run


class ActionModule(Action):
    """winfleet_gather: home, run, logs, address, python; {"archive": file of this machine or "", "problem": "" or a sentence}."""

    def act(self) -> dict[str, Any]:
        """Asks it."""
        archive = Path(tempfile.mkdtemp(prefix="winfleet-support-"), "support.tar.gz")
        problem = self.bring_to(archive)
        if not problem and not archive.is_file():
            problem = "what it sent did not arrive whole"
        if problem:
            shutil.rmtree(archive.parent, ignore_errors=True)
        return {"archive": "" if problem else str(archive), "problem": problem}

    def bring_to(self, archive: Path) -> str:
        """Has the host pack it; why it did not, or ""."""
        given = self.given
        try:
            asked = {
                "run": choose_run(self.path("logs"), str(given["run"] or "")), "python": str(given["python"] or ""),
                "address": socket.gethostbyname(str(given["address"])),
            }  # fmt: skip
            answer = bring(self, "support", asked, archive)
        except AnsibleError as error:
            answer = {"unreachable": True, "msg": str(error)}
        except (SupportError, OSError) as error:
            return str(error)
        problem = str(answer.get("msg", "")) if failed(answer) else ""
        return describe_unreachable(self.name, problem) if answer.get("unreachable") else problem
