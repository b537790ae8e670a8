"""Folders to many hosts at once, and what is told where that fails."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from conftest import patience, wait_until
from made_files import fill
from swarm_hosts import CONTROLLER, Cluster, Clusters, clusters, listens, share, whole_digest
from winfleet.core.files import held
from winfleet.host import remote
from winfleet.transfer import receiver
from winfleet.transfer.folders import SHORT, list_files, pack
from winfleet.transfer.job import Folder, Result
from winfleet.transfer.seeding import Progress, Share
from winfleet.transfer.torrents import SwarmError, make_torrent, open_session, parameters_of

lt = pytest.importorskip("libtorrent")

CONTENT = {
    "한글.txt": "안녕하세요".encode(),
    "empty": b"",
    "a folder/" + "x" * 200 + "/" + "y" * 200 + ".bin": os.urandom(300_000),
    "run.sh": b"#!/bin/sh\n",
    **{f"many/{number:03}": b"%d" % number for number in range(300)},
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Clusters]:
    """Makes clusters, and ends their processes."""
    with clusters(tmp_path) as make:
        yield make


@contextlib.contextmanager
def in_background(action: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs the action in a thread; its result is in the list afterwards."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    try:
        yield found
    finally:
        thread.join(patience(40))
    assert found, "the action failed or did not end"


# --- torrents


def test_the_same_files_give_the_same_torrent(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "first", CONTENT), fill(tmp_path / "second", CONTENT)
    os.utime(second / "empty", (1, 1))
    assert share(first).torrent == share(second).torrent
    (second / "run.sh").write_bytes(b"#!/bin/sh\nexit\n")
    assert share(first).torrent != share(second).torrent


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    with pytest.raises(SwarmError, match=r"has only empty files\nhint: "):
        share(fill(tmp_path / "empty", {"nothing": b""}))
    (tmp_path / os.fsdecode(b"name-\xff")).write_bytes(b"x")
    names = [PurePosixPath(os.fsdecode(b"name-\xff"))]
    with pytest.raises(SwarmError, match=r"its name is not UTF-8\nhint: rename the file"):
        make_torrent(tmp_path, names, "0" * SHORT)


# --- the swarm


def test_three_hosts_get_two_folders(cluster: Clusters, tmp_path: Path) -> None:
    code = share(fill(tmp_path / "code", CONTENT))
    (tmp_path / "code" / "run.sh").chmod(0o755)
    code, alone = share(tmp_path / "code"), share(fill(tmp_path / "alone", {"one.bin": os.urandom(3_000_000)}))
    three, seen = cluster(3), list[Sequence[Progress]]()
    for host in three.hosts:
        three.start(host, code, alone)
    results = three.seed(code, alone, on_progress=seen.append, interval=0.2)
    assert {host: (result.state, result.cause) for host, result in results.items()} == dict.fromkeys(
        three.hosts, ("whole", "")
    )
    for host in three.hosts:
        for sent in (code, alone):
            assert whole_digest(three.target(host, sent)) == whole_digest(sent.source)
        assert os.access(three.target(host, code) / "run.sh", os.X_OK)
        assert sorted(path.name for path in (three.folder / host / "data").iterdir()) == sorted([code.root, alone.root])
        assert three.result(host)["down_bytes"] >= 3_300_000
        assert Result.parse((three.folder / host / "result.json").read_text("utf-8"), host) == results[host]
    assert all(process.wait(patience(10)) == 0 for process in three.started)
    assert [(one.host, one.state, one.fraction) for one in seen[-1]] == [(host, "whole", 1.0) for host in three.hosts]
    # again, as after a worker was added: those who have it offer it, and nothing moves
    for host in three.hosts:
        three.start(host, code, alone)
    assert [result.down_bytes for result in three.seed(code, alone).values()] == [0, 0, 0]


def test_a_killed_transfer_goes_on_where_it_stopped(cluster: Clusters, tmp_path: Path) -> None:
    size = 150_000_000
    sent, one = share(fill(tmp_path / "source", {"big": os.urandom(size)})), cluster(1)
    place = one.target("pc1", sent).parent / f".{sent.root}.part" / sent.root / "big"

    def arrived() -> bool:
        return place.exists() and place.stat().st_blocks * 512 > 10_000_000

    with in_background(lambda: one.seed(sent)) as found:
        process = one.start("pc1", sent)
        while not arrived():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not one.target("pc1", sent).exists()
        one.start("pc1", sent)
    result = found[0]["pc1"]
    assert (result.state, result.cause) == ("whole", "")
    assert 5_000_000 < result.reused_bytes < size
    assert result.down_bytes < size - result.reused_bytes + 10_000_000
    assert whole_digest(one.target("pc1", sent)) == whole_digest(sent.source)


def test_a_new_transfer_ends_an_earlier_one_of_the_same_host_alone(cluster: Clusters, tmp_path: Path) -> None:
    sent, two = share(fill(tmp_path / "source", {"a": b"content"})), cluster(2)
    for host in two.hosts:
        two.start(host, sent, peers={})
    two.wait_for_start()
    lock = tmp_path / "pc1" / "job.lock"
    with held(lock) as ours:
        assert not ours
    remote.end_transfer(tmp_path / "pc1" / "job.json")
    with held(lock) as ours:
        assert ours
    assert not listens(two.hosts["pc1"], two.port)
    assert listens(two.hosts["pc2"], two.port)


def test_one_changed_file_of_a_thousand_moves_alone(cluster: Clusters, tmp_path: Path) -> None:
    content = {f"{number % 7}/{number}.bin": hashlib.sha256(b"%d" % number).digest() * 640 for number in range(1000)}
    one = cluster(1)
    before = fill(tmp_path / "pc1" / "data" / "older", content)
    old = whole_digest(before)
    sent = share(fill(tmp_path / "source", {**content, "3/500.bin": os.urandom(20_480)}))
    one.start("pc1", sent, previous=before)
    result = one.seed(sent)["pc1"]
    assert (result.state, result.cause) == ("whole", "")
    assert 20_480 <= result.down_bytes < 60_000
    assert result.reused_bytes == 999 * 20_480
    target = one.target("pc1", sent)
    assert (whole_digest(target), whole_digest(before)) == (whole_digest(sent.source), old)
    assert (target / "1/1.bin").samefile(before / "1/1.bin")
    assert not (target / "3/500.bin").samefile(before / "3/500.bin")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    place = tmp_path / "pc1"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_before_a_byte_is_sent(cluster: Clusters, tmp_path: Path, small_disk: Path) -> None:
    sent, two = share(fill(tmp_path / "source", {"big": bytes(60_000_000)})), cluster(2)
    process = two.start("pc1", sent)
    two.start("pc2", sent)
    results = two.seed(sent)
    assert (results["pc1"].state, results["pc1"].down_bytes) == ("failed", 0)
    assert results["pc1"].cause == (
        f"pc1 needs 60 MB more for data and 67 MB to spare; the disk of {small_disk / 'data'} has 105 MB free\n"
        "hint: make room there, or set fleet_home to another disk"
    )
    assert results["pc2"].state == "whole"
    _, errors = process.communicate(timeout=patience(10))
    assert process.returncode == 1
    assert errors.startswith("error: pc1 needs 60 MB")


class Liar:
    """A peer of the cluster that offers everything and sends wrong content."""

    def __init__(self, sent: Share, folder: Path, address: str) -> None:
        fill(folder / sent.root, {"big": bytes((sent.source / "big").stat().st_size)})
        self.session = lt.session(
            {
                "listen_interfaces": "", "outgoing_interfaces": address, "disable_hash_checks": True,
                "min_reconnect_time": 1, "max_failcount": 1_000,
                **dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False),
                **dict.fromkeys(("enable_outgoing_utp", "enable_incoming_utp"), False),
            }
        )  # fmt: skip
        parameters = lt.load_torrent_buffer(sent.torrent)
        parameters.save_path, parameters.flags = str(folder / sent.root), lt.torrent_flags.seed_mode
        self.handle = self.session.add_torrent(parameters)

    def offer(self, address: tuple[str, int]) -> int:
        """Tries to reach the host; bytes that it has taken."""
        self.handle.connect_peer(address)
        return int(self.handle.status().total_payload_upload)


def test_a_liar_is_rejected_and_named(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"big": os.urandom(4_000_000)})), cluster(1)
    process = one.start("pc1", sent, peers={"pc9": "127.0.0.19"})
    liar = Liar(sent, tmp_path / "liar", "127.0.0.19")
    taken = wait_until(lambda: liar.offer((one.hosts["pc1"], one.port)), 10, "the liar's sending")
    assert taken > 0
    result = one.seed(sent)["pc1"]
    assert (result.state, result.cause) == ("whole", "")
    assert list(result.hash_failures) == ["127.0.0.19"]
    assert whole_digest(one.target("pc1", sent)) == whole_digest(sent.source)
    assert process.wait(patience(10)) == 0


def test_with_a_liar_alone_the_failure_names_it(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"big": os.urandom(1_000_000)})), cluster(1)
    seconds = patience(2)
    one.start("pc1", sent, peers={"pc9": "127.0.0.19"}, controllers=(), patience_seconds=seconds)
    liar = Liar(sent, tmp_path / "liar", "127.0.0.19")
    wait_until(lambda: liar.offer((one.hosts["pc1"], one.port)), 10, "the liar's sending")
    wait_until((one.folder / "pc1" / "result.json").exists, 15, "the result")
    result = one.result("pc1")
    assert (result["state"], list(result["hash_failures"])) == ("failed", ["127.0.0.19"])
    assert f"pc1 got nothing for {seconds:.0f} s: 127.0.0.19 sent wrong content" in result["cause"]
    assert not one.target("pc1", sent).exists()


def greet(source: str, target: tuple[str, int], sent: Share) -> bytes:
    """What a host answers to BitTorrent's greeting for the torrent, from this address."""
    info = lt.load_torrent_buffer(sent.torrent).ti.info_hashes()
    hello = b"\x13BitTorrent protocol" + bytes(8) + info.v2.to_bytes()[:20] + b"-XX0000-abcdefghijkl"
    with socket.create_connection(target, timeout=patience(5), source_address=(source, 0)) as connection:
        try:
            connection.sendall(hello)
            return connection.recv(20)
        except ConnectionResetError:
            return b""


def test_a_stranger_gets_no_answer(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"a": b"secret"})), cluster(1)
    process = one.start("pc1", sent)
    target = (one.hosts["pc1"], one.port)

    def answer() -> bytes:
        with contextlib.suppress(ConnectionRefusedError):
            return greet(CONTROLLER, target, sent)
        return b""

    assert wait_until(answer, 10, "an answer to the controller") == b"\x13BitTorrent protocol"
    assert greet("127.0.0.66", target, sent) == b""
    assert process.poll() is None


def test_a_host_that_is_not_there_is_lost_and_the_others_go_on(cluster: Clusters, tmp_path: Path) -> None:
    sent, two = share(fill(tmp_path / "source", {"a": b"content"})), cluster(2)
    two.start("pc1", sent)
    wait_until(lambda: listens(two.hosts["pc1"], two.port), 20, "the start of pc1")
    seconds = patience(1)
    results = two.seed(sent, start_seconds=seconds)
    assert results["pc1"].state == "whole"
    assert results["pc2"].state == "lost"
    assert results["pc2"].cause == (
        f"pc2 (127.0.0.12) did not answer on TCP port {two.port} for {seconds:.0f} s\n"
        f"hint: is it switched on, and may this machine reach its TCP port {two.port}?"
    )


def test_hosts_that_stall_or_vanish_are_named(cluster: Clusters, tmp_path: Path) -> None:
    sent, two = share(fill(tmp_path / "source", {"big": os.urandom(150_000_000)})), cluster(2)
    processes = {host: two.start(host, sent, peers={}) for host in two.hosts}
    done: list[str] = []

    def interrupt(seen: Sequence[Progress]) -> None:
        if not done and all(one.fraction > 0.02 for one in seen):
            processes["pc1"].send_signal(signal.SIGSTOP)
            processes["pc2"].send_signal(signal.SIGKILL)
            done.append("now")

    two.wait_for_start()
    seconds = patience(1)
    results = two.seed(sent, on_progress=interrupt, interval=0.01, patience_seconds=seconds, lost_seconds=seconds)
    assert done
    assert {host: result.state for host, result in results.items()} == {"pc1": "stalled", "pc2": "lost"}
    assert results["pc1"].cause.startswith(f"pc1 (127.0.0.11) got nothing more for {seconds:.0f} s, with ")
    assert results["pc2"].cause.startswith(f"pc2 (127.0.0.12) is gone since {seconds:.0f} s, with ")


def test_a_host_that_has_everything_and_does_not_end_is_named(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"a": b"content"})), cluster(1)
    process = one.start("pc1", sent, peers={"pc9": "127.0.0.19"})

    def interrupt(seen: Sequence[Progress]) -> None:
        if seen[0].state == "ready":
            process.send_signal(signal.SIGSTOP)

    one.wait_for_start()
    result = one.seed(sent, on_progress=interrupt, interval=0.01, patience_seconds=patience(1))["pc1"]
    assert result.state == "stalled"
    said = r"pc1 \(127\.0\.0\.11\) has all of its files since \d+ s, and did not say so\nhint: look at its disk"
    assert re.fullmatch(said, result.cause), result.cause


def test_a_host_does_not_wait_for_one_that_takes_nothing(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"a": b"content"})), cluster(1)
    seconds = patience(2)
    process = one.start("pc1", sent, peers={"pc9": "127.0.0.19"}, patience_seconds=seconds)
    session = open_session("127.0.0.19", one.port, [one.hosts["pc1"]])
    parameters = parameters_of(sent.torrent, tmp_path / "pc9", sent.root, lt.torrent_flags.upload_mode)
    handle = session.add_torrent(parameters)
    result = one.seed(sent)["pc1"]
    assert [peer.ip[0] for peer in handle.get_peer_info()] == [], "it was connected until pc1 left"
    assert (result.state, result.cause) == ("whole", "")
    assert seconds < result.seconds < seconds + patience(10)
    assert process.wait(patience(20)) == 0


def test_a_host_ends_by_itself_without_a_controller(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"a": b"content"})), cluster(1)
    process = one.start("pc1", sent, patience_seconds=1.0)
    wait_until((one.folder / "pc1" / "result.json").exists, 15, "the result")
    assert one.result("pc1")["cause"] == (
        "pc1 got nothing for 1 s: the controller (127.0.0.1) is not connected\n"
        f"hint: let the controller and all hosts reach each other's TCP port {one.port}"
    )
    assert receiver.ask("127.0.0.11", one.port) is not None
    assert process.wait(patience(10)) == 1


def test_a_torrent_with_other_content_than_was_announced_is_refused(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", {"a": b"content"})), cluster(1)
    other = fill(tmp_path / "other", {"a": b"changed"})
    torrent = make_torrent(other, list_files(other, honour_git=False), sent.root)
    folder = Folder(kind="data", target=str(one.target("pc1", sent)), expected=whole_digest(sent.source),
                    torrent=str(tmp_path / "wrong.torrent"))  # fmt: skip
    (tmp_path / "wrong.torrent").write_bytes(torrent)
    one.start("pc1", folders=(folder,))
    result = one.seed(Share(source=other, torrent=torrent, root=sent.root))["pc1"]
    assert result.state == "failed"
    assert f"has the digest {whole_digest(other)[:SHORT]}, expected {sent.root}" in result.cause
    assert not one.target("pc1", sent).exists()


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"state": 3}', '{"state": "great"}', '{"hash_failures": [1]}'])
def test_a_result_from_elsewhere_is_data(text: str) -> None:
    assert Result.parse(text, "pc1") == Result(host="pc1", state="failed")


def test_a_long_result_is_cut() -> None:
    text = json.dumps(
        {"host": "pc9", "state": "whole", "cause": "\x1b[2J" + "x" * 5_000, "hash_failures": {"y" * 99: "z"}}
    )
    result = Result.parse(text, "pc1")
    assert (result.host, result.state, result.hash_failures) == ("pc1", "whole", {})
    assert "\x1b" not in result.cause
    assert len(result.cause) <= 1_000


# --- without libtorrent


def put(one: Cluster, path: str, body: bytes, token: str, source: str = CONTROLLER) -> int:
    """Status of a PUT to pc1, 0 where it hung up."""
    connection = http.client.HTTPConnection(
        one.hosts["pc1"], one.port, timeout=patience(10), source_address=(source, 0)
    )
    try:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # who refuses does not read all; the answer says why
            connection.request("PUT", path, body, {"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_an_archive_comes_where_libtorrent_is_missing(cluster: Clusters, tmp_path: Path) -> None:
    sent, one = share(fill(tmp_path / "source", CONTENT)), cluster(1)
    expected = whole_digest(sent.source)
    pack(sent.source, list_files(sent.source, honour_git=False), tmp_path / "good.tar")
    fill(tmp_path / "other", {"a": b"b"})
    pack(tmp_path / "other", [PurePosixPath("a")], tmp_path / "bad.tar")
    good, bad = (tmp_path / "good.tar").read_bytes(), (tmp_path / "bad.tar").read_bytes()
    process = one.start("pc1", sent, token="once")
    wait_until(lambda: put(one, "/nothing", b"", "once") == 404, 10, "the receiver's start")
    assert put(one, f"/{expected}", good, "once", source="127.0.0.66") == 0
    assert put(one, f"/{expected}", good, "guess") == 403
    assert put(one, f"/{expected}", bad, "once") == 422
    assert put(one, f"/{expected}", bytes(2_000_001), "once") in (413, 0)
    with pytest.raises(receiver.ReceiverError, match=r"refused the archive \(422\): .* expected .*\nhint: "):
        receiver.send(one.hosts["pc1"], one.port, "once", expected, tmp_path / "bad.tar")
    assert not one.target("pc1", sent).exists()
    receiver.send(one.hosts["pc1"], one.port, "once", expected, tmp_path / "good.tar")
    assert whole_digest(one.target("pc1", sent)) == expected
    text = wait_until(lambda: receiver.ask(one.hosts["pc1"], one.port), 10, "the result")
    assert Result.parse(text, "pc1").state == "whole"
    assert process.wait(patience(10)) == 0
    assert [path.name for path in (one.folder / "pc1" / "data").iterdir()] == [sent.root]
    with pytest.raises(receiver.ReceiverError, match=r"took 0 of .* bytes: .*refused\nhint: let this machine reach"):
        receiver.send(one.hosts["pc1"], one.port, "once", expected, tmp_path / "good.tar")
