"""Starts a host's part of the rehearsal; winfleet_judge then asks all of them, once for the cluster."""

from __future__ import annotations

from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.plan import Plan
from winfleet.machine.network import own_address_for
from winfleet.transfer.receiver import token_for


class ActionModule(Action):
    """winfleet_rehearse: home, plan (text), python, agent (digest), key (file of the controller's tokens), logon, password."""

    def act(self) -> dict[str, Any]:
        """Starts it."""
        given = self.given
        plan = Plan.from_json(given["plan"])
        address = next(host.address for host in plan.hosts if host.name == self.name)
        token = token_for(f"rehearsal {plan.run}", self.path("key"))
        return self.ask(
            "rehearse",
            {
                "host": self.name, "plan": given["plan"], "python": given["python"], "agent": given["agent"],
                "logon": str(given["logon"]), "controllers": own_address_for(address), "port": self.port,
            },
            secrets={"token": token, "task_password": str(given["password"])},
        )  # fmt: skip
