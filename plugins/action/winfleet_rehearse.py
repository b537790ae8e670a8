"""Starts a host's part of the rehearsal; winfleet_judge then asks all of them, once for the cluster."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.plan import PROBE_PORT, Plan
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


def own_address_for(address: str) -> list[str]:
    """The address by which this machine reaches that one; a host behind NAT sees another, and says so itself."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, PROBE_PORT))  # sends nothing
        return [str(probe.getsockname()[0])]
    return []
