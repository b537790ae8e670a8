"""Hosts for tests of the network: namespaces on one bridge, each with an address of its own. Needs root."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

NETWORK = "10.71.1"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Net:
    """One namespace."""

    name: str
    address: str

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs the words there."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def limit(self, *words: str) -> None:
        """Gives what leaves it a queue of tc."""
        run("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", "root", *words)

    def drop(self, rule: str) -> None:
        """Drops what comes in and matches the rule of nft, until the rules are replaced; "" drops nothing."""
        text = (
            f"flush ruleset\ntable inet test {{ chain arriving {{ type filter hook input priority 0; {rule}\n}}\n}}\n"
        )
        subprocess.run(self.command("nft", "-f", "-"), input=text, text=True, check=True, capture_output=True)


@contextlib.contextmanager
def made(count: int) -> Iterator[list[Net]]:
    """So many namespaces that reach each other; a test that asks for them is skipped without root."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nft"))):
        pytest.skip("needs root, ip, tc and nft, for network namespaces")
    prefix = f"ra{os.getpid()}"
    hub = f"{prefix}-hub"
    nets = [Net(name=f"{prefix}-{number}", address=f"{NETWORK}.{number + 1}") for number in range(count)]
    there: list[str] = []
    try:
        for name in (hub, *(net.name for net in nets)):
            run("ip", "netns", "add", name)
            there.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, net in enumerate(nets):
            port = f"port{number}"
            run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", net.name)
            run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", net.name, "address", "add", f"{net.address}/24", "dev", "eth0")
            run("ip", "-n", net.name, "link", "set", "eth0", "up")
        yield nets
    finally:
        for name in there:
            run("ip", "netns", "delete", name)
