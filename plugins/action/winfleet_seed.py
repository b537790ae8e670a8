"""Gives big folders to all hosts that wait for them, and shows how far each is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from winfleet.controller.actions import Action
from winfleet.core.plan import SWARM_PORT
from winfleet.transfer.folders import SHORT, list_sent, pack
from winfleet.transfer.job import Result
from winfleet.transfer.receiver import ReceiverError, send, token_for
from winfleet.transfer.seeding import Progress, Share, seed
from winfleet.transfer.torrents import SwarmError


class ActionModule(Action):
    """winfleet_seed: wanted (winfleet_digest's result), cache, interval_seconds; fails naming each host that went without."""

    refused = (SwarmError,)

    def act(self) -> dict[str, Any]:
        """Gives them what they lack."""
        joined = {name: self.of(name).get("data_sync_joined") or {} for name in self.present}
        lacking = {name: (self.of(name).get("data_sync_done") or {}).get("swarm") for name in joined}
        kinds = {name: list(given) for name, given in lacking.items() if given and "torrent" in joined[name]}
        if not kinds or self.check_mode:
            return {"changed": bool(kinds)}
        for name in [name for name in kinds if "why" in joined[name]]:
            self.say(f"  {name}: {', '.join(kinds.pop(name))} goes there by SSH: {joined[name]['why']}")
        addresses = {name: str(self.found_on(name)["address"]) for name in kinds}
        with_torrents = {name: addresses[name] for name in kinds if joined[name]["torrent"]}
        troubles = self._send_archives({name: kinds[name] for name in kinds if name not in with_torrents}, addresses)
        if with_torrents:
            troubles += self._seed(sorted({kind for name in with_torrents for kind in kinds[name]}), with_torrents)
        if troubles:
            raise AnsibleActionFail("\n".join(troubles))
        return {"changed": True}

    def tell(self, error: Exception) -> str:
        """The swarm's own words."""
        return f"controller: {error}"

    def _seed(self, kinds: Sequence[str], hosts: Mapping[str, str]) -> list[str]:
        wanted = self.given["wanted"]
        shares = [
            Share(source=Path(wanted["sources"][kind]), torrent=Path(wanted["torrents"][kind]).read_bytes(),
                  root=wanted["digests"][kind][:SHORT])
            for kind in kinds
        ]  # fmt: skip
        results = seed(shares, hosts, on_progress=self.show, interval=float(self.given["interval_seconds"]))
        for result in results.values():
            for sender, pieces in result.hash_failures.items():
                self._display.warning(
                    f"{result.host} refused {pieces} pieces from {sender}: they were not what was sent"
                )
        return [tell(result) for result in results.values() if result.state != "whole"]

    def _send_archives(self, kinds: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> list[str]:
        wanted, troubles = self.given["wanted"], []
        key = self.path("cache") / "transfer.key"
        for name, missing in kinds.items():
            self.say(f"  {name} has no libtorrent: {', '.join(missing)} goes there as one archive each")
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

    def show(self, hosts: Sequence[Progress]) -> None:
        """A line for all hosts."""
        parts = [f"{host.host} {host.fraction:.0%} {host.bytes_per_second / 1e6:.0f} MB/s" for host in hosts]
        self.say(f"  {' · '.join(parts)}")


def tell(result: Result) -> str:
    """Why a host went without, as an error line."""
    return (
        result.cause if result.cause.startswith(f"{result.host} ") else f"{result.host}: {result.cause or result.state}"
    )
