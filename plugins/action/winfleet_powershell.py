"""Runs a role's script on a Windows host, by ansible.windows.win_powershell, with what the roles' scripts share in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from winfleet.controller.actions import Action
from winfleet.controller.scripts import whole

MODULES: Final = Path(__file__).resolve().parent.parent / "module_utils"


class ActionModule(Action):
    """winfleet_powershell: path (in the role's files), parameters, failure (what the script did not do where it fails).

    Returns what win_powershell does; a script fails by an error.
    """

    def act(self) -> dict[str, Any]:
        """Runs it."""
        path = str(self.given["path"])
        call = {
            "script": whole(Path(self._find_needle("files", path)), MODULES),
            "parameters": self.given.get("parameters") or {}, "error_action": "stop", "depth": 4,
        }  # fmt: skip
        done = self.execute("ansible.windows.win_powershell", call)
        if "invocation" in done:
            done["invocation"]["module_args"] |= {"script": None, "path": path}
        errors = [str(error["exception"]["message"]) for error in done.get("error") or []]
        if errors or "error" not in done:
            why = "; ".join(errors) or done.get("msg", "")
            done.pop("exception", None)  # Ansible would put it before our words
            done |= {"failed": True, "msg": f"{self.given.get('failure', path)}: {why}"}
        return done
