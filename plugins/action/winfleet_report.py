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

MOST_NAMED = 10


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
            for text in say_left(name, self.of(name).get("report_collected") or {}, folder.name):
                self.say(f"  {text}")
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


def say_left(host: str, collected: dict[str, Any], run: str) -> list[str]:
    """What stays on the host, with place and size, and how to bring it."""
    left = collected.get("left") or []
    if not left:
        return []
    named = [f"{one['path']} ({one['bytes'] / 1e6:.1f} MB)" for one in left]
    more = [f"and {len(left) - MOST_NAMED} more, all in {host}/left.json"] if len(left) > MOST_NAMED else []
    return [
        f"outputs of {collected['left_mb']:.0f} MB stay on {host}: {collected['work']}",
        *(f"  {text}" for text in [*named[:MOST_NAMED], *more]),
        f"  bring them: ansible-playbook fetch.yml -i INVENTORY -e fleet_run={run}",
    ]
