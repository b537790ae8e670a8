"""Prints a line for the user, whatever the output settings hide."""

from __future__ import annotations

from typing import Any

from winfleet.controller.actions import Action


class ActionModule(Action):
    """winfleet_say: text."""

    def act(self) -> dict[str, Any]:
        """Prints it."""
        self.say(str(self.given["text"]))
        return {}
