"""Shows how far the environments are that hosts make by themselves, until each has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winfleet.controller.actions import Action
from winfleet.environments.making_watch import Making, watch


class ActionModule(Action):
    """winfleet_making: interval_seconds; whether an environment is good is for the host itself to say, afterwards."""

    def act(self) -> dict[str, Any]:
        """Watches those that make one."""
        begun = {name: self.of(name).get("uv_env_begun") or {} for name in self.present}
        hosts = {name: str(self.found_on(name)["address"]) for name, each in begun.items() if each.get("making")}
        if hosts:
            self.say("  Environments are made on the hosts (once, some minutes); Ctrl-C leaves them going")
            watch(hosts, self.show, interval=float(self.given["interval_seconds"]))
        return {}

    def show(self, hosts: Mapping[str, Making]) -> None:
        """A line for all hosts."""
        self.say("  " + " · ".join(f"{name} {making}" for name, making in hosts.items()))
