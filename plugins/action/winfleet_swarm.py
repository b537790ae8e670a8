"""Starts a host's part of a transfer among all hosts; winfleet_seed then gives the folders, once for all."""

from __future__ import annotations

import base64
import importlib.metadata
import socket
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import SLOW
from winfleet.core.plan import SWARM_PORT
from winfleet.environments.wheels import fetch
from winfleet.machine.network import own_address_for
from winfleet.transfer.receiver import token_for

ARCHIVE_SPARE = 1.1  # a tar archive is larger than its files
PACKAGES: Final = ("libtorrent", "psutil")  # that a Linux host's part needs, in the control node's versions
GLIBC: Final = ("2_28", "2_17")  # of wheels for Linux
LISTEN_SECONDS = 15.0  # for a host's part to listen


class ActionModule(Action):
    """winfleet_swarm: home, wanted (winfleet_digest's result), kinds, keep, cache, logon, task_password.

    A Linux host that cannot take part returns {"torrent": False, "why": text}, and nothing of it runs there.
    """

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
        asked = {
            "host": self.name, "address": address, "peers": addresses, "folders": folders, "keep": int(given["keep"]),
        }  # fmt: skip
        if self.variables["ansible_connection"] not in SLOW:
            return self._by_wheels(asked, token)
        return self.ask(
            "swarm", {**asked, "logon": str(given["logon"]), "port": self.port},
            secrets={"token": token, "task_password": str(given["task_password"])},
        )  # fmt: skip

    def _by_wheels(self, asked: Mapping[str, Any], token: str) -> dict[str, Any]:
        """Linux: the host's own Python with wheels beside it, which are sent once."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        call = {
            **asked, "controllers": own_address_for(asked["address"]), "versions": versions, "archive": "",
            "agent": self.given["wanted"]["digests"]["agent"],
        }  # fmt: skip
        answer = self.ask("swarm", call, secrets={"token": token})
        if "lacks" in answer:
            archive, why = get_wheels(self.path("cache"), versions, **answer["lacks"])
            if archive is None:
                return {"torrent": False, "why": why}
            with self.sent(archive) as remote:
                answer = self.ask("swarm", {**call, "archive": remote}, secrets={"token": token})
        if failed(answer) or not answer["torrent"] or listens(asked["address"]):
            return answer
        ended = self.ask("swarm", {**call, "folders": []}, secrets={"token": token})
        return {**ended, "why": f"nobody here reaches its TCP port {SWARM_PORT}"}


def listens(address: str) -> bool:
    """Whether a host's part can be reached from here within LISTEN_SECONDS."""
    end = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection((address, SWARM_PORT), 2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def get_wheels(cache: Path, versions: Mapping[str, str], python: str, machine: str) -> tuple[Path | None, str]:
    """A zip of wheels for a Linux host, by pip, made once; None with a reason where there are none, or no index."""
    names = [f"{name}=={version}" for name, version in versions.items()]
    archive = cache / f"swarm-linux-{python}-{machine}-{'-'.join(versions.values())}.zip"
    if archive.is_file():
        return archive, ""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="winfleet-", dir=archive.parent) as folder:
        if fetch(Path(folder), python, [f"manylinux_{version}_{machine}" for version in GLIBC], *names):
            return None, f"pip has no {' and '.join(versions)} for Python {python} on {machine} here"
        fresh = Path(folder, "wheels.zip")
        with zipfile.ZipFile(fresh, "w") as packed:
            for wheel in sorted(Path(folder).glob("*.whl")):
                packed.write(wheel, wheel.name)
        fresh.replace(archive)
    return archive, ""
