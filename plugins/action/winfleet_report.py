"""Writes a run's report and says the closing line; fails where the run did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from winfleet import report
from winfleet.controller.actions import Action
from winfleet.core.files import write_atomic
from winfleet.core.status import describe_failure
from winfleet.launcher.proposals import propose


class ActionModule(Action):
    """winfleet_report: folder (logs/<run>), config (the user's settings, "" for none)."""

    def act(self) -> dict[str, Any]:
        """Writes it."""
        folder = self.path("folder")
        path = folder / "report.html"
        try:
            run = report.load(folder)
            write_atomic(path, report.render(run))
        except (report.ReportError, OSError) as error:
            raise AnsibleActionFail(f"no report of run {folder.name}: {error}") from error
        for name in self.names:
            collected = self.of(name).get("report_collected") or {}
            if collected.get("left"):
                self.say(f"  outputs of {collected['outputs_mb']:.0f} MB stay on {name}: {collected['left']}")
        for text in propose(folder, run.plan, self.optional_path("config")):
            self.say(f"  {text}")
        self.say(report.closing_line(run, Path(os.path.relpath(path))))
        if run.state in ("finished", "stopped"):
            if run.state == "stopped":
                self.say(f"  stopped; go on with -e fleet_run={folder.name}")
            return {"changed": True, "report": str(path)}
        text = describe_failure(run.causes[0]) if run.causes else f"the launchers were lost; see {folder}"
        return {
            "failed": True,
            "msg": f"run {folder.name} {run.state}: {text}\n  hint: all logs are in {os.path.relpath(folder)}",
        }
