"""Asks all launchers for their status and prints one table of all ranks; of silent hosts, whether they can be reached at all."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.status import Status
from winfleet.status import Seen, Target, as_text, ask

REMOTING = {"winrm": ("WinRM", 5986), "psrp": ("WinRM", 5986), "ssh": ("SSH", 22), "smart": ("SSH", 22)}
CONNECT_SECONDS = 2.0


class ActionModule(Action):
    """winfleet_status: returns {"text", "runs"}; a host without a launcher is no failure."""

    def act(self) -> dict[str, Any]:
        """Asks them."""
        targets = [Target(name=name, address=str(self.of(name)["fleet_address"])) for name in self.names]
        doors = [door(name, self.of(name)) for name in self.names]
        with ThreadPoolExecutor(max_workers=32) as pool:
            found = list(pool.map(look, targets, doors))
        statuses = tuple(one for one in found if isinstance(one, Status))
        text = as_text(Seen(statuses=statuses, silent=tuple(one for one in found if isinstance(one, str))))
        self.say(text)
        return {"text": text, "runs": sorted({status.run for status in statuses})}


def door(name: str, values: Any) -> tuple[str, str, int] | None:
    """By what Ansible gets into a host: its kind, address and port; None where it needs no network."""
    kind = str(values.get("ansible_connection", "ssh")).rpartition(".")[2]
    if kind not in REMOTING:
        return None
    label, port = REMOTING[kind]
    return label, str(values.get("ansible_host", name)), int(values.get("ansible_port") or port)


def look(target: Target, entrance: tuple[str, str, int] | None) -> Status | str:
    """The launcher's status, or why there is none and whether the host's remoting is there."""
    found = ask(target)
    if isinstance(found, Status) or entrance is None:
        return found
    label, address, port = entrance
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS):
            return f"{found}; {label} is there on port {port}"
    except OSError as error:
        return f"{found}; {label} does not answer on port {port} either ({error.strerror or error})"
