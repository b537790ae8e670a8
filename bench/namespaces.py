"""Hosts for benches and tests of the network: namespaces on one bridge, each with an address of its own. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

PROGRAMS = ("ip", "tc", "nft")
CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class NetError(RuntimeError):
    """A command of the network, or what ran in a namespace, that failed, with what it said."""


def run(*words: str) -> None:
    """A command of the system. Raises NetError."""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NetError(f"{' '.join(words)}: {done.stderr.strip()}")


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
def apart(count: int, network: str) -> Iterator[tuple[str, list[Net]]]:
    """A namespace for a switch, and so many for hosts, that nothing joins yet. Raises NetError."""
    prefix = f"wf{network.rpartition('.')[2]}-{os.getpid()}"
    hub, nets = f"{prefix}-hub", [Net(name=f"{prefix}-{n}", address=f"{network}.{n + 1}") for n in range(count)]
    with contextlib.ExitStack() as stack:
        for name in (hub, *(net.name for net in nets)):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield hub, nets


def join(hub: str, nets: Sequence[Net], limit: Sequence[str] = ()) -> None:
    """A cable from each host to a bridge in the hub; `limit` is the queue (tc) of what the bridge sends. Raises NetError."""
    run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
    run("ip", "-n", hub, "link", "set", "bridge", "up")
    for number, net in enumerate(nets):
        port = f"port{number}"
        run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", net.name)
        run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
        if limit:
            run("tc", "-n", hub, "qdisc", "add", "dev", port, "root", *limit)


def switch_on(net: Net) -> None:
    """Gives a host its address, once its adapter is there. Raises NetError."""
    run("ip", "-n", net.name, "address", "add", f"{net.address}/24", "dev", "eth0")
    run("ip", "-n", net.name, "link", "set", "eth0", "up")


@contextlib.contextmanager
def made(count: int, network: str = "10.71.1", limit: Sequence[str] = ()) -> Iterator[list[Net]]:
    """So many hosts that reach each other; `limit` is the queue (tc) at both ends of every link. Raises NetError."""
    with apart(count, network) as (hub, nets):
        join(hub, nets, limit)
        for net in nets:
            switch_on(net)
            if limit:
                net.limit(*limit)
        yield nets


def in_namespaces(
    nets: Sequence[Net],
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    seconds: float | None = None,
) -> list[Any]:
    """What the function answers for each of these, each in a process of its own in its namespace.

    Processes are forked, so that torch is imported once and not by each rank: 16 imports would be 4 GB. What uses torch there
    does so by one thread, as those that this process may have are gone. Raises NetError where one fails, or has not
    answered after so many seconds; then the others are ended.
    """
    fork = multiprocessing.get_context("fork")
    started: list[tuple[Any, Connection]] = []
    try:
        for net, given in zip(nets, arguments, strict=True):
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=_in_namespace, args=(net.name, theirs, function, given), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        answers, end = [], time.monotonic() + (seconds or 0.0)
        for (_, ours), net in zip(started, nets, strict=True):
            try:
                if seconds is not None and not ours.poll(max(0.0, end - time.monotonic())):
                    raise NetError(f"{net.name}: no answer after {seconds:.0f} s")
                good, answer = ours.recv()
            except EOFError:
                good, answer = False, "it ended without a word"
            if not good:
                raise NetError(f"{net.name}: {answer}")
            answers.append(answer)
        return answers
    finally:
        for process, _ in started:
            if process.is_alive():
                process.join(5)
            process.kill()
            process.join()


def _in_namespace(name: str, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        _enter(name)
        pipe.send((True, function(*arguments)))
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent names it)
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _enter(namespace: str) -> None:
    """This process goes on in that network namespace, before it has other threads, and ends with its parent. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with Path("/run/netns", namespace).open("rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
