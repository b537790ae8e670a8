"""Starts a host's part of a transfer among all hosts; winfleet_seed then gives the folders, once for all."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.transfer.receiver import token_for

ARCHIVE_SPARE = 1.1  # a tar archive is larger than its files


class ActionModule(ActionBase):
    """winfleet_swarm: home, wanted (winfleet_digest's result), kinds, keep, cache, logon, task_password."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, name = self._task.args, str(task_vars["inventory_hostname"])
        wanted = given["wanted"]
        folders = [
            {
                "kind": kind, "expected": wanted["digests"][kind], "limit_bytes": int(wanted["bytes"][kind] * ARCHIVE_SPARE) + 2**20,
                "torrent": base64.b64encode(Path(wanted["torrents"][kind]).read_bytes()).decode(),
            }
            for kind in given["kinds"]
        ]  # fmt: skip
        addresses = {
            host: task_vars["hostvars"][host]["fleet_host"]["host"]["address"]
            for host in task_vars["ansible_play_hosts_all"]
        }
        address = addresses.pop(name)
        call = {
            "operation": "swarm", "home": given["home"],
            "secrets": {
                "token": token_for(name, Path(given["cache"], "transfer.key").expanduser()),
                "task_password": str(given["task_password"]),
            },
            "arguments": {
                "host": name, "address": address, "peers": addresses, "folders": folders, "keep": int(given["keep"]),
                "logon": str(given["logon"]), "port": int(task_vars.get("ansible_port", 5986)),
            },
        }  # fmt: skip
        return {**result, **self._execute_module(module_name="winfleet_host", module_args=call, task_vars=task_vars)}
