"""The status of a run: what another machine sends is taken as data, and what a user is told is summed up rightly."""

import json
import multiprocessing
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers import answering
from winfleet.core import files, reading, status
from winfleet.core.status import Cause, Event, Rank, Status, StatusError, parse
from winfleet.view.table import table

NEEDED: dict[str, Any] = {
    "run": "r", "host": "pc1", "machine_rank": 0, "state": "running", "world_size": 2,
}  # fmt: skip


def made(state: str = "running", *ranks: Rank, **values: Any) -> Status:
    return Status(**{**NEEDED, "state": state, "ranks": ranks, **values})


def test_a_status_survives_its_way() -> None:
    sent = made(
        "failed", Rank(rank=1, local_rank=1, pid=7, state="ended", step=3, steps=9, loss=0.5, beat=1.5, exit_code=1),
        gpus=True, generation=2, time=3.0, started=1.0, launcher_pid=9, versions={"torch": "2.13.0"},
        cause=Cause(host="연구실", text="ValueError: 손실", rank=1, exit_code=1, lines=("가", "나"), time=2.0),
        events=(Event(time=1.0, text="Training started"),),
    )  # fmt: skip
    assert parse(sent.to_json()) == sent
    assert parse(sent.to_json().encode()) == sent


HOSTILE = {
    "no JSON": "<html>", "not UTF-8": b'{"run": "\xff"}', "empty": "", "an array": "[]", "null": "null",
    "deep nesting": "[" * 100_000, "deep object": '{"a":' * 100_000, "long number": '{"run": ' + "9" * 5000 + "}",
    "missing members": '{"run": "r"}', "unknown state": json.dumps({**NEEDED, "state": "hacked"}),
    "too big": json.dumps({**NEEDED, "x": "x" * status.MAX_BYTES}), "number as state": json.dumps({**NEEDED, "state": 1}),
    "rank without number": json.dumps({**NEEDED, "ranks": [{"rank": "0"}]}),
    "huge machine_rank": json.dumps({**NEEDED, "machine_rank": 2**63}),
    "truth as number": json.dumps({**NEEDED, "world_size": True}),
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_status_is_refused_in_a_few_words(text: str | bytes) -> None:
    with pytest.raises(StatusError) as refused:
        parse(text)
    assert len(str(refused.value)) < 300


def test_wrong_values_are_left_out_one_by_one() -> None:
    text = json.dumps({
        **NEEDED, "time": float("nan"), "started": float("inf"), "generation": 10**300, "gpus": "yes", "launcher_pid": [1],
        "versions": ["torch"], "events": {"a": 1}, "cause": "me", "surprise": 1,
        "ranks": [7, {"rank": 0, "loss": float("nan"), "samples_per_second": float("-inf"), "pid": 2**64, "step": 1.5,
                      "beat": 10**400, "stopped": 1, "cpu_percent": "99", "exit_code": False, "steps_per_second": 2}],
    })  # fmt: skip
    assert parse(text) == made("running", Rank(rank=0, steps_per_second=2.0))


def test_texts_are_cut_and_have_no_control_characters() -> None:
    escape = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\ud800\x00\r"
    cause = {"host": "pc1", "text": escape + "x" * 5000, "lines": ["old"] * 100 + [escape + "y" * 5000, {"z": 1}]}
    found = parse(
        json.dumps({**NEEDED, "run": escape + "\ta", "cause": cause, "versions": {escape + "v" * 99: escape}})
    )
    assert found.run == "]0;title[2J31m    a"
    assert found.cause is not None
    assert len(found.cause.text) <= reading.MAX_TEXT
    assert (len(found.cause.lines), max(map(len, found.cause.lines)) <= 500) == (39, True)
    assert max(map(len, found.versions)) <= 40
    everything = found.to_json() + table([found]) + status.describe_failure(found.cause)
    assert not set(escape) - set("]0;title[2J31m") & set(everything)


def write_often(path: Path, letter: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(files.write_atomic, path, letter * 100_000) for _ in range(200)]:
            done.result()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    files.write_atomic(path, "a" * 100_000)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_often, args=(path, letter)) for letter in "bcd"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text("utf-8")
        assert text == text[:1] * 100_000
        seen.add(text[:1])
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1, "it was read while it was written"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_atomic(tmp_path / "status.json", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("finished finished", "finished"), ("starting starting", "starting"), ("running running", "running"),
        ("starting running", "starting"), ("running finished", "running"), ("starting finished", "starting"),
        ("failed running", "failed"), ("failed starting", "failed"), ("failed finished", "failed"),
        ("failed lost stopped", "failed"), ("lost finished", "lost"), ("lost stopped", "lost"),
        ("lost running", "running"), ("stopped finished", "stopped"), ("stopped running", "running"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_that_of_its_hosts(states: str, expected: str) -> None:
    found = [made(state) for state in states.split()]
    assert status.overall_state(found) == status.overall_state(found[::-1]) == expected


def test_the_first_failure_is_the_one_the_others_followed_from() -> None:
    echo = Cause(host="pc1", text="RuntimeError: Connection closed by peer [10.0.0.2]", rank=0, time=1.0)
    launcher = Cause(host="pc2", text="lost pc3", time=2.0)
    late, early = (Cause(host="pc3", text="ValueError", rank=5, time=time) for time in (9.0, 8.0))
    order = [early, late, launcher, echo]
    assert sorted([echo, late, launcher, early], key=lambda cause: cause.weight) == order
    for count in range(1, 5):
        statuses = [made("failed", cause=cause) for cause in order[-count:][::-1]]
        assert status.first_failure([made(), *statuses]) == order[-count]
    assert status.first_failure([made()]) is None


def test_a_failure_is_described_with_the_end_of_its_log() -> None:
    cause = Cause(host="pc2", text="ValueError: no", rank=3, exit_code=1, lines=("a", "b"))
    assert status.describe_failure(cause) == "rank 3 on pc2 failed (exit code 1): ValueError: no\n  | a\n  | b"
    assert status.describe_failure(Cause(host="pc2", text="gone")) == "pc2 failed: gone"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (725, "12:05"), (3599.7, "1:00:00"), (11230, "3:07:10")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


def test_the_line_of_progress_is_that_of_the_slowest_rank() -> None:
    fast = Rank(rank=0, state="training", step=50, steps=100, loss=1.0, samples_per_second=10.0, steps_per_second=5.0)
    slow = Rank(rank=1, state="training", step=40, steps=100, loss=2.0, samples_per_second=20.0, steps_per_second=0.5)
    both = [made("running", fast), made("running", slow)]
    assert status.progress_line(both) == "step 40/100 · loss 1.500 · 30.0 samples/s · 2:00 left · 2/2 ranks up"
    assert status.time_left(both) == 120.0
    starting = [made("starting", Rank(rank=0, state="joined")), made("starting", Rank(rank=1))]
    assert status.progress_line(starting) == "starting · 1/2 ranks up"
    assert status.progress_line([made("running", Rank(rank=0, state="training", step=3))]) == "step 3 · 1/2 ranks up"
    assert status.time_left(starting) is None


def test_an_absurd_pace_is_no_error() -> None:
    text = json.dumps({**NEEDED, "ranks": [{"rank": 0, "state": "training", "step": 1, "steps": 2**62,
                                            "steps_per_second": 5e-324}]})  # fmt: skip
    assert status.progress_line([parse(text)]).startswith("step 1/4611686018427387904 · ")


def test_the_table_has_a_line_a_rank() -> None:
    first = Rank(rank=0, state="training", pid=11, step=5, steps=9, loss=0.25, samples_per_second=3, cpu_percent=99.6,
                 gpu_percent=50, memory_mib=100, gpu_memory_mib=2000, beat=98.0, gpu_celsius=61.2, compute_seconds=0.2,
                 communication_seconds=0.12, data_seconds=0.08)  # fmt: skip
    ended = made("finished", Rank(rank=1, state="ended", step=9, memory_mib=100), machine_rank=1, host="pc2")
    rows = [" ".join(line.split()) for line in table([ended, made("running", first)], now=100.0).splitlines()]
    assert rows == [
        "rank host state step loss samples/s comp/comm/data % GPU % °C CPU % memory MiB pid beat",
        "0 pc1 training 5/9 0.250 3.0 50/30/20 50 61 100 2000 11 2 s ago",
        "1 pc2 finished 9 - - - - - - 100 - -",
    ]


def test_a_launcher_is_asked_directly_and_never_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    body = made().to_json().encode()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + body) as (port, asked):
        assert status.fetch("127.0.0.1", port) == made()
    assert asked == ["/status.json"]


STRANGERS = {
    "404": (b"HTTP/1.0 404 Not Found\r\n\r\nno", "answered 404: no winfleet launcher"),
    "a web page": (b"HTTP/1.0 200 OK\r\n\r\n<html>", "a status that cannot be read"),
    "too big": (b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 3_000_000, "a status of 1000001 bytes"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"),
    "half an answer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", "IncompleteRead"),
}


@pytest.mark.parametrize(("reply", "message"), STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_launcher_is_named(reply: bytes, message: str) -> None:
    with answering(reply) as (port, _), pytest.raises(StatusError, match=message):
        status.fetch("127.0.0.1", port)


def test_nobody_there_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        status.fetch("127.0.0.1", port)
