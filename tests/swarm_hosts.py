"""Hosts of a swarm as processes at loopback addresses of their own, as the controller is."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import ENVIRONMENT, patience, wait_until
from servers import free_port
from winfleet.transfer.folders import SHORT, digest, list_files
from winfleet.transfer.job import Folder, Job, Result
from winfleet.transfer.seeding import Share, seed
from winfleet.transfer.torrents import make_torrent

CONTROLLER = "127.0.0.1"


def listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def whole_digest(folder: Path) -> str:
    return digest(folder, list_files(folder, honour_git=False))


def share(source: Path) -> Share:
    names = list_files(source, honour_git=False)
    root = digest(source, names)[:SHORT]
    return Share(source=source, torrent=make_torrent(source, names, root), root=root)


class Cluster:
    """Hosts pc1, pc2 … of one test, each with a folder below the test's own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.port = folder, free_port()
        self.hosts = {f"pc{number}": f"127.0.0.{10 + number}" for number in range(1, count + 1)}
        self.started: list[subprocess.Popen[str]] = []

    def target(self, host: str, sent: Share) -> Path:
        return self.folder / host / "data" / sent.root

    def start(self, host: str, *shares: Share, previous: Path | None = None, **changed: Any) -> subprocess.Popen[str]:
        home = self.folder / host
        (home / "data").mkdir(parents=True, exist_ok=True)
        for sent in shares:
            (home / f"{sent.root}.torrent").write_bytes(sent.torrent)
        folders = tuple(
            Folder(
                kind="data", target=str(self.target(host, sent)), expected=whole_digest(sent.source),
                torrent=str(home / f"{sent.root}.torrent"), previous=str(previous or ""), limit_bytes=2_000_000,
            )
            for sent in shares
        )  # fmt: skip
        values: dict[str, Any] = {
            "host": host, "address": self.hosts[host], "result": str(home / "result.json"), "folders": folders,
            "peers": {name: address for name, address in self.hosts.items() if name != host},
            "controllers": (CONTROLLER,), "port": self.port, "patience_seconds": patience(20),
        }  # fmt: skip
        (home / "job.json").write_text(Job(**{**values, **changed}).to_json(), "utf-8")
        command = [sys.executable, "-W", "error", "-m", "winfleet.transfer.swarm", "--job", str(home / "job.json")]
        process = subprocess.Popen(command, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def wait_for_start(self) -> None:
        """Waits until every host listens."""
        wait_until(lambda: all(listens(address, self.port) for address in self.hosts.values()), 20, "the hosts' start")

    def seed(self, *shares: Share, **settings: Any) -> dict[str, Result]:
        return seed(shares, self.hosts, port=self.port, **settings)

    def result(self, host: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / host / "result.json").read_text("utf-8"))
        return values


Clusters = Callable[[int], Cluster]


@contextlib.contextmanager
def clusters(folder: Path) -> Iterator[Clusters]:
    """Makes clusters of so many hosts, and ends their processes."""
    made: list[Cluster] = []

    def make(count: int) -> Cluster:
        made.append(Cluster(folder, count))
        return made[-1]

    try:
        yield make
    finally:
        for process in (process for one in made for process in one.started):
            process.kill()
            process.communicate()
