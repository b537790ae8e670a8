"""Asks all launchers for their status and prints one table of all ranks."""

from __future__ import annotations

import socket
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.status import Status, StatusError, fetch, progress_line
from winfleet.view import table

display = Display()


class ActionModule(ActionBase):
    """winfleet_status: returns {"text", "runs"}; a host without a launcher is no failure."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        hostvars, statuses, silent = task_vars["hostvars"], [], []
        for name in task_vars["ansible_play_hosts_all"]:
            address = str(hostvars[name]["fleet_address"])
            try:
                statuses.append(fetch(socket.gethostbyname(address)))
            except (OSError, StatusError) as error:
                silent.append(f"{name}: no launcher answers at {address}:29502 ({error})")
        text = show(statuses, silent)
        display.display(text)
        return {**result, "changed": False, "text": text, "runs": sorted({status.run for status in statuses})}


def show(statuses: list[Status], silent: list[str]) -> str:
    """The runs, each with its progress and a table of its ranks, then the hosts that did not answer."""
    if not statuses:
        return "no run is going on\n" + "\n".join(silent)
    parts = []
    for run in sorted({status.run for status in statuses}):
        own = [status for status in statuses if status.run == run]
        parts.append(f"Run {run}: {progress_line(own)}\n\n{table(own)}")
    return "\n".join([*parts, *silent])
