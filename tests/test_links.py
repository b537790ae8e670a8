"""What hosts measure with each other: pairs in rounds, a listener that hostile peers cannot hold, real limits and closed ports."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ENVIRONMENT, needs_namespaces, patience
from namespaces import Net, made
from programs import output_of
from winfleet.rehearsal import links
from winfleet.rehearsal.links import Link, LinkError, Listener, Target, bandwidth, reach, round_trip, rounds

TOKEN = "0123456789abcdef" * 4
HERE = "127.0.0.1"

LISTEN = f"""
import sys, time
from winfleet.rehearsal.links import Listener
print(Listener(sys.argv[1], 0, {TOKEN!r}, sys.argv[2].split(",")).port, flush=True)
time.sleep(60)
"""
MEASURE = f"""
import json, sys
from winfleet.rehearsal.links import Target, bandwidth, reach, round_trip
address, port = sys.argv[1], int(sys.argv[2])
closed = reach([Target(host="b", address=address, port=port)], {TOKEN!r})
values = [] if closed else [bandwidth(address, port, {TOKEN!r}, 1.0), round_trip(address, port, {TOKEN!r})]
print(json.dumps({{"closed": [why for _, why in closed], "values": values}}))
"""


@pytest.mark.parametrize("count", range(2, 17))
def test_in_a_round_nobody_plays_twice_and_every_pair_meets_once(count: int) -> None:
    names = [f"pc{number}" for number in range(count)]
    found = rounds(names)
    assert len(found) == (count - 1 if count % 2 == 0 else count)
    for pairs in found:
        players = list(itertools.chain.from_iterable(pairs))
        assert len(players) == len(set(players))
    met = [frozenset(pair) for pairs in found for pair in pairs]
    assert sorted(map(sorted, met)) == sorted(map(list, itertools.combinations(sorted(names), 2)))


def test_one_host_alone_has_no_pairs() -> None:
    assert rounds(["pc1"]) == []


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener(HERE, 0, TOKEN, [HERE])
    yield opened
    opened.close()


def test_the_loopback_is_measured(listener: Listener) -> None:
    assert reach([Target(host="pc1", address=HERE, port=listener.port)], TOKEN) == []
    assert 0 < round_trip(HERE, listener.port, TOKEN) < patience(0.1)
    assert bandwidth(HERE, listener.port, TOKEN, 0.3) > 1e7 / patience(1)
    assert Link(source="a", target="b", bytes_per_second=1.0, round_trip_seconds=0.0).name == "a -> b"


def test_who_does_not_know_the_token_or_is_no_host_gets_nothing(listener: Listener) -> None:
    target = Target(host="pc1", address=HERE, port=listener.port)
    assert [why for _, why in reach([target], "f" * 64)] == ["no answer of a rehearsal"]
    with socket.create_connection(
        (HERE, listener.port), source_address=("127.0.0.66", 0), timeout=patience(5)
    ) as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(f"{TOKEN} meet 0\n".encode())
        assert not answer_of(stranger)


def answer_of(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return connection.recv(10)
    return b""


def test_hostile_and_slow_peers_are_dropped_and_keep_nobody_waiting(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SILENT_SECONDS", patience(0.3))
    hostile: list[socket.socket] = []
    for noise in (
        b"\0" * 2**20,
        b"\n" * 2**20,
        f"{TOKEN} sink nan\n".encode(),
        f"{TOKEN} sink 1e9\n".encode(),
        b"\xff",
        b"",
    ):
        connection = socket.create_connection((HERE, listener.port), timeout=patience(10))
        hostile.append(connection)
        with contextlib.suppress(OSError):
            connection.sendall(noise)
    assert round_trip(HERE, listener.port, TOKEN) < patience(0.1)
    for connection in hostile[:2] + hostile[4:]:
        assert not answer_of(connection), "it ends the connection without a word"
    for connection in hostile:
        connection.close()


def test_what_listens_and_says_nothing_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SILENT_SECONDS", 0.3)
    with socket.create_server((HERE, 0)) as silent:
        with pytest.raises(LinkError, match="no answer after it was reached, for 0 s"):
            round_trip(HERE, silent.getsockname()[1], TOKEN)
        port = silent.getsockname()[1]
    assert [why for _, why in reach([Target(host="pc1", address=HERE, port=port)], TOKEN)] == ["connection refused"]


@pytest.mark.parametrize("said", [b"ok\nnan\n", b"ok\n-1\n", b"ok\n" + b"9" * 500 + b"\n", b"ok\nrm -rf\n"])
def test_a_rate_that_is_none_is_refused(said: bytes) -> None:
    def lie(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(200)
            connection.sendall(said)
            time.sleep(0.5)

    with socket.create_server((HERE, 0)) as server:
        threading.Thread(target=lie, args=(server,), daemon=True).start()
        with pytest.raises(LinkError):
            bandwidth(HERE, server.getsockname()[1], TOKEN, 0.2)


@contextlib.contextmanager
def listening(net: Net, allowed: str) -> Iterator[int]:
    command = net.command(sys.executable, "-c", LISTEN, net.address, allowed)
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            os.kill(process.pid, 9)


def measure(source: Net, target: Net, port: int) -> dict[str, list[Any]]:
    printed = output_of(*source.command(sys.executable, "-c", MEASURE, target.address, str(port)))
    found: dict[str, list[Any]] = json.loads(printed)
    return found


@needs_namespaces
def test_a_limit_and_a_direction_that_is_closed() -> None:
    with made(2) as (one, two), listening(one, two.address) as to_one, listening(two, one.address) as to_two:
        one.limit("tbf", "rate", "160mbit", "burst", "32k", "latency", "50ms")
        payload = 160e6 / 8 * 1448 / 1514  # of a frame as tc counts it
        rates = [measure(one, two, to_two)["values"][0] / payload]
        while rates[-1] < 0.9 and len(rates) < 5:  # who has no core for a moment sends nothing
            rates.append(measure(one, two, to_two)["values"][0] / payload)
        assert 0.9 < max(rates) < 1.1, rates
        two.drop(f"tcp dport {to_two} drop;")
        assert measure(one, two, to_two)["closed"] == ["no answer within 4 s"]
        assert measure(two, one, to_one)["closed"] == []
