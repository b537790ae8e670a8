"""Keeps a text as a file on the controller, at the cost of no module: ansible.builtin.copy to localhost starts two Pythons."""

from __future__ import annotations

from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.files import write_atomic


class ActionModule(Action):
    """winfleet_keep: path, text. What the controller knows of a host is no change of the host, so never "changed"."""

    refused = (OSError,)

    def act(self) -> dict[str, Any]:
        """Writes the file."""
        if not self.check_mode:
            path = self.path("path")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, str(self.given["text"]))
        return {}

    def tell(self, error: Exception) -> str:
        """Names the file."""
        assert isinstance(error, OSError)
        return f"{self.path('path')}: {error.strerror}\n  hint: give a folder that you may write to"
