"""Starts a host's part of the rehearsal; winfleet_judge then asks all of them, once for the cluster."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.core.plan import PROBE_PORT, Plan
from winfleet.transfer.receiver import token_for


class ActionModule(ActionBase):
    """winfleet_rehearse: home, plan (text), python, agent (digest), key (file of the controller's tokens), logon, password."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, name = self._task.args, str(task_vars["inventory_hostname"])
        plan = Plan.from_json(given["plan"])
        address = next(host.address for host in plan.hosts if host.name == name)
        call = {
            "operation": "rehearse", "home": given["home"],
            "secrets": {"token": rehearsal_token(plan, Path(given["key"])), "task_password": str(given["password"])},
            "arguments": {
                "host": name, "plan": given["plan"], "python": given["python"], "agent": given["agent"],
                "logon": str(given["logon"]), "controllers": [*own_address_for(address)],
                "port": int(task_vars.get("ansible_port", 5986)),
            },
        }  # fmt: skip
        return {**result, **self._execute_module(module_name="winfleet_host", module_args=call, task_vars=task_vars)}


def rehearsal_token(plan: Plan, key: Path) -> str:
    """The same for all hosts of this run's rehearsal, and for nobody who has not the controller's key."""
    return token_for(f"rehearsal {plan.run}", key)


def own_address_for(address: str) -> list[str]:
    """The address by which this machine reaches that one; a host behind NAT sees another, and says so itself."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, PROBE_PORT))  # sends nothing
        return [str(probe.getsockname()[0])]
    return []
