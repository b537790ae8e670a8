"""Follows a run by its launchers' status ports and shows its progress as whole lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from winfleet.plan import Plan
from winfleet.status import ENDED, Status, StatusError, fetch, first_failure, overall_state, progress_line

display = Display()
LOOK_SECONDS = 0.5


class ActionModule(ActionBase):
    """winfleet_follow: returns {"state", "text"} of the whole run; a failed run is no failed task, its report comes first."""

    _supports_check_mode = False
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        plan = Plan.load(Path(self._task.args["plan"]).expanduser())
        display.display(explain(plan, str(self._task.args["inventory"])))
        statuses = follow(plan, float(self._task.args["interval_seconds"]), float(self._task.args["silent_seconds"]))
        cause = first_failure(statuses)
        state = overall_state(statuses) if len(statuses) == len(plan.hosts) else "lost"
        return {**result, "changed": False, "state": state, "host": cause.host if cause else ""}


def explain(plan: Plan, inventory: str) -> str:
    """What Ctrl-C does, and the other commands."""
    return (
        f"Run {plan.run}: {plan.world_size} processes on {', '.join(host.name for host in plan.hosts)}\n"
        f"  Ctrl-C leaves it going. Follow again: ansible-playbook deploy_and_train.yml -i {inventory} -e fleet_run={plan.run}\n"
        f"  Look: ansible-playbook status.yml -i {inventory}   Stop: ansible-playbook stop.yml -i {inventory}"
    )


def follow(plan: Plan, interval: float, silent: float) -> Sequence[Status]:
    """Shows a line every `interval` seconds until every launcher has ended, or was not heard of for `silent` seconds."""
    known: dict[str, Status] = {}
    heard = {host.name: time.monotonic() for host in plan.hosts}
    troubles: dict[str, str] = {}
    said: set[str] = set()
    shown = 0.0
    while True:
        for host in plan.hosts:
            if host.name in known and known[host.name].state in ENDED:
                continue
            try:
                status = fetch(host.address)
                if status.run != plan.run:
                    raise StatusError(f"{host.address} serves run {status.run}")
                known[host.name], heard[host.name] = status, time.monotonic()
            except (OSError, StatusError) as error:
                troubles[host.name] = str(error)
        for text in (event.text for status in known.values() for event in status.events):
            if text not in said and not text.startswith("Run "):
                said.add(text)
                display.display(f"  {text}")
        now = time.monotonic()
        left = [host.name for host in plan.hosts if host.name not in known or known[host.name].state not in ENDED]
        gone = [name for name in left if now - heard[name] > silent]
        if now - shown >= interval and known and left:
            shown = now
            display.display(f"  {progress_line(list(known.values()))}")
        if not left or set(left) == set(gone):
            for name in gone:
                display.display(f"  {name}: no word from its launcher for {silent:.0f} s ({troubles.get(name, '')})")
            return list(known.values())
        time.sleep(LOOK_SECONDS)
