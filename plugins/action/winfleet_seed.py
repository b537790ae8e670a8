"""Gives big folders to all hosts that wait for them, and shows how far each is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.core.plan import SWARM_PORT
from winfleet.transfer.folders import SHORT, list_sent, pack
from winfleet.transfer.receiver import ReceiverError, send, token_for
from winfleet.transfer.seeding import Progress, Share, seed
from winfleet.transfer.swarm import Result
from winfleet.transfer.torrents import SwarmError

display = Display()


class ActionModule(ActionBase):
    """winfleet_seed: wanted (winfleet_digest's result), cache, interval_seconds; fails naming each host that went without."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        hostvars, joined = task_vars["hostvars"], {}
        for name in task_vars["ansible_play_hosts"]:
            values = hostvars[name]
            if (values.get("data_sync_done") or {}).get("swarm") and "torrent" in (
                values.get("data_sync_joined") or {}
            ):
                joined[name] = values
        if not joined or self._task.check_mode:
            return {**result, "changed": bool(joined)}
        addresses = {name: str(values["fleet_host"]["host"]["address"]) for name, values in joined.items()}
        kinds = {name: list(values["data_sync_done"]["swarm"]) for name, values in joined.items()}
        with_torrents = {
            name: addresses[name] for name, values in joined.items() if values["data_sync_joined"]["torrent"]
        }
        troubles = self._send_archives({name: kinds[name] for name in joined if name not in with_torrents}, addresses)
        if with_torrents:
            troubles += self._seed(sorted({kind for name in with_torrents for kind in kinds[name]}), with_torrents)
        if troubles:
            raise AnsibleActionFail("\n".join(troubles))
        return {**result, "changed": True}

    def _seed(self, kinds: Sequence[str], hosts: Mapping[str, str]) -> list[str]:
        wanted = self._task.args["wanted"]
        shares = [
            Share(source=Path(wanted["sources"][kind]), torrent=Path(wanted["torrents"][kind]).read_bytes(),
                  root=wanted["digests"][kind][:SHORT])
            for kind in kinds
        ]  # fmt: skip
        interval = float(self._task.args["interval_seconds"])
        try:
            results = seed(shares, hosts, on_progress=show, interval=interval)
        except SwarmError as error:
            raise AnsibleActionFail(f"controller: {error}") from None
        for result in results.values():
            for sender, pieces in result.hash_failures.items():
                display.warning(f"{result.host} refused {pieces} pieces from {sender}: they were not what was sent")
        return [tell(result) for result in results.values() if result.state != "whole"]

    def _send_archives(self, kinds: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> list[str]:
        wanted, troubles = self._task.args["wanted"], []
        key = Path(self._task.args["cache"], "transfer.key").expanduser()
        for name, missing in kinds.items():
            display.display(f"  {name} has no libtorrent: {', '.join(missing)} goes there as one archive each")
            for kind in missing:
                source = Path(wanted["sources"][kind])
                with tempfile.TemporaryDirectory(prefix="winfleet-") as folder:
                    archive = Path(folder, f"{kind}.tar")
                    pack(source, list_sent(source, kind, wanted["include"]), archive)
                    try:
                        send(addresses[name], SWARM_PORT, token_for(name, key), wanted["digests"][kind], archive)
                    except ReceiverError as error:
                        troubles.append(f"{name}: {kind} did not arrive: {error}")
        return troubles


def show(hosts: Sequence[Progress]) -> None:
    """A line for all hosts."""
    parts = [f"{host.host} {host.fraction:.0%} {host.bytes_per_second / 1e6:.0f} MB/s" for host in hosts]
    display.display(f"  {' · '.join(parts)}")


def tell(result: Result) -> str:
    """Why a host went without, as an error line."""
    return (
        result.cause if result.cause.startswith(f"{result.host} ") else f"{result.host}: {result.cause or result.state}"
    )
