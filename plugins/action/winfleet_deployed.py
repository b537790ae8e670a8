"""Compares what the preflight saw on a host with what this controller would send. Asks nobody."""

from __future__ import annotations

from typing import Any

from winfleet.controller.actions import Action
from winfleet.preflight.deployed import find_lacking, interpreter_path
from winfleet.preflight.found import read


class ActionModule(Action):
    """winfleet_deployed: wanted {kind: digest}, environment (digest), python.

    {"lacking": "pc1 lacks code, data", or "" where it has all; "python": the interpreter that would train}.
    """

    def act(self) -> dict[str, Any]:
        """Compares."""
        found, python = read(self.found_on(self.name)), str(self.given["python"])
        environment = str(self.given["environment"])
        lacking = find_lacking(found, self.given["wanted"], "" if python else environment)
        return {
            "lacking": f"{self.name} lacks {', '.join(lacking)}" if lacking else "",
            "python": python or interpreter_path(found, environment),
        }
