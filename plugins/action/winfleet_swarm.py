"""Starts a host's part of a transfer among all hosts; winfleet_seed then gives the folders, once for all."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from winfleet.controller.actions import Action
from winfleet.transfer.receiver import token_for

ARCHIVE_SPARE = 1.1  # a tar archive is larger than its files


class ActionModule(Action):
    """winfleet_swarm: home, wanted (winfleet_digest's result), kinds, keep, cache, logon, task_password."""

    def act(self) -> dict[str, Any]:
        """Starts it."""
        given, wanted = self.given, self.given["wanted"]
        folders = [
            {
                "kind": kind, "expected": wanted["digests"][kind], "limit_bytes": int(wanted["bytes"][kind] * ARCHIVE_SPARE) + 2**20,
                "torrent": base64.b64encode(Path(wanted["torrents"][kind]).read_bytes()).decode(),
            }
            for kind in given["kinds"]
        ]  # fmt: skip
        addresses = {host: self.found_on(host)["address"] for host in self.names}
        address = addresses.pop(self.name)
        token = token_for(self.name, self.path("cache") / "transfer.key")
        return self.ask(
            "swarm",
            {
                "host": self.name, "address": address, "peers": addresses, "folders": folders, "keep": int(given["keep"]),
                "logon": str(given["logon"]), "port": self.port,
            },
            secrets={"token": token, "task_password": str(given["task_password"])},
        )  # fmt: skip
