"""Shows how far the environments are that hosts make by themselves, until each has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.environments.making_watch import Making, watch

display = Display()


class ActionModule(ActionBase):
    """winfleet_making: interval_seconds; whether an environment is good is for the host itself to say, afterwards."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        hosts = {}
        for name in task_vars["ansible_play_hosts"]:
            values = task_vars["hostvars"][name]
            if (values.get("uv_env_begun") or {}).get("making"):
                hosts[name] = str(values["fleet_host"]["host"]["address"])
        if hosts:
            display.display("  Environments are made on the hosts (once, some minutes); Ctrl-C leaves them going")
            watch(hosts, show, interval=float(self._task.args["interval_seconds"]))
        return {**result, "changed": False}


def show(hosts: Mapping[str, Making]) -> None:
    """A line for all hosts."""
    display.display("  " + " · ".join(f"{name} {making}" for name, making in hosts.items()))
