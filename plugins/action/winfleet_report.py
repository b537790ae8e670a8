"""Writes a run's report and says the closing line; fails where the run did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet import report
from winfleet.status import Status, StatusError, describe_failure, first_failure, parse, write_atomic

display = Display()


class ActionModule(ActionBase):
    """winfleet_report: folder (logs/<run>), state (of the whole run)."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        folder, state = Path(self._task.args["folder"]).expanduser(), str(self._task.args["state"])
        run = report.load(folder)
        path = folder / "report.html"
        write_atomic(path, report.render(run))
        for name, collected in (
            (name, task_vars["hostvars"][name].get("report_collected") or {})
            for name in task_vars["ansible_play_hosts_all"]
        ):
            if collected.get("left"):
                display.display(f"  outputs of {collected['outputs_mb']:.0f} MB stay on {name}: {collected['left']}")
        display.display(report.closing_line(run, Path(os.path.relpath(path))))
        if state in ("finished", "stopped"):
            if state == "stopped":
                display.display(f"  stopped; go on with -e fleet_run={folder.name}")
            return {**result, "changed": True, "report": str(path)}
        cause = first_failure(statuses(folder))
        text = describe_failure(cause) if cause else f"the launchers were lost; see {folder}"
        return {
            **result,
            "failed": True,
            "msg": f"run {folder.name} {state}: {text}\n  hint: all logs are in {os.path.relpath(folder)}",
        }


def statuses(folder: Path) -> list[Status]:
    """The hosts' last statuses that can be read."""
    found = []
    for path in sorted(folder.glob("*/status.json")):
        try:
            found.append(parse(path.read_text("utf-8")))
        except (OSError, StatusError) as error:
            display.warning(f"{path}: {error}")
    return found
