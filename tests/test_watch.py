"""The live view: what it says of a run, in any terminal, whatever the launchers send."""

import dataclasses
import io
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest
from builders import pcs
from conftest import ENVIRONMENT, patience
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from servers import answering
from winfleet import status as watch
from winfleet.core.plan import Plan
from winfleet.core.status import Event, Rank, Status, name_ranks, parse
from winfleet.launcher.metrics import expose
from winfleet.machine import hardware
from winfleet.view import verdict
from winfleet.view.table import table, width_of

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e[bold red][link=file:///etc/passwd]"


def rank(number: int, **values: Any) -> Rank:
    made = {"rank": number, "state": "training", "step": 7, "count": 7, "compute_seconds": 0.3,
            "communication_seconds": 0.1, "data_seconds": 0.0}  # fmt: skip
    return Rank(**{**made, **values})


def host(number: int, *ranks: Rank, **values: Any) -> Status:
    made = {"run": "r1", "host": f"pc{number}", "machine_rank": number - 1, "state": "running", "world_size": 4,
            "time": 5.0}  # fmt: skip
    return Status(**{**made, "ranks": ranks, **values})


# -- verdicts


@pytest.mark.parametrize(
    ("slow", "why"),
    [
        ({"compute_seconds": 0.31}, None),
        ({"data_seconds": 0.3, "communication_seconds": 0.0}, "50 % of its step is data loading"),
        ({"compute_seconds": 0.6, "gpu_mhz": 300.0, "gpu_max_mhz": 2520.0}, "its GPU runs at 300 of 2520 MHz"),
        ({"compute_seconds": 0.6, "gpu_celsius": 91.0, "gpu_mhz": 900.0}, "its GPU is at 91 °C and runs at 900 MHz"),
        ({"compute_seconds": 0.6, "gpu_mhz": 2500.0, "gpu_max_mhz": 2520.0}, "it computes 0.6 s a step, the others 0.3 s"),
    ],
    ids=["as fast as the others", "loading", "low clock", "hot", "computing"],
)  # fmt: skip
def test_the_slowest_rank_is_named_with_the_reason(slow: dict[str, float], why: str | None) -> None:
    statuses = [host(1, rank(0), rank(1)), host(2, rank(2), rank(3, **slow))]
    assert verdict.find_slowest(statuses) == (why and f"rank 3 on pc2 is slowest: {why}")


def test_one_rank_is_never_the_slowest_and_unmeasured_ones_are_left_out() -> None:
    assert verdict.find_slowest([host(1, rank(0))]) is None
    assert verdict.find_slowest([host(1, rank(0), Rank(rank=1))]) is None


def test_waiting_is_told_where_it_is_much() -> None:
    assert verdict.find_waiting([host(1, rank(0))]) is None, "a quarter of a step"
    much = [host(1, rank(0, communication_seconds=0.3)), host(2, Rank(rank=1))]
    assert verdict.find_waiting(much) == "ranks wait 50 % of a step for one another"


def test_rounds_are_told_where_hosts_average() -> None:
    assert verdict.find_rounds([host(1, rank(0))]) is None
    averaging = [
        host(
            1,
            rank(0, rounds=13, round_bytes=3_400_000, round_seconds=2.13, spread=0.003),
            rank(1, rounds=13, spread=0.003),
        ),
        host(2, rank(2, rounds=12, round_bytes=3_300_000, spread=0.002)),
    ]
    said = "hosts have averaged their weights 12 times: each sent 3.4 MB and waited 2.13 s, and they were 0.3 % apart"
    assert verdict.find_rounds(averaging) == said
    assert said in verdict.verdicts(averaging)


def test_ranks_that_wait_in_a_collective_and_in_an_exchange_are_named_with_their_steps() -> None:
    def waits(place: str) -> str:
        stuck = rank(0, state="stuck", place=place, waits=True, count=5)
        return (
            verdict.find_culprit([host(1, stuck, rank(1, count=8, meets=True)), host(2, rank(2, count=8, meets=True))])
            or ""
        )

    own = waits("t.py:9 in f, in all_reduce")
    assert own.startswith(
        "rank 0 waits for all ranks in t.py:9 in f, in all_reduce (optimizer step 5), ranks 1 and 2 in an exchange of weights (step 8): "
    )
    assert "barrier()" in own
    assert waits("t.py:9 in f, in backward").endswith(
        ": ranks of one host must take as many steps as one another, as with a DistributedSampler"
    )


def test_the_rank_that_the_others_wait_for_is_named() -> None:
    def stuck(number: int, place: str | None, *, waits: bool) -> Rank:
        return rank(number, state="stuck", place=place, waits=waits)

    waiting = [stuck(number, "t.py:9 in f, in backward", waits=True) for number in (0, 1, 2)]
    culprit = stuck(3, "t.py:5 in load", waits=False)
    find = verdict.find_culprit
    said = "ranks 0-2 wait for rank 3 on pc2 (t.py:5 in load)"
    assert find([host(1, *waiting[:2]), host(2, waiting[2], culprit)]) == said
    silent = dataclasses.replace(culprit, place=None)
    assert find([host(1, waiting[0]), host(2, silent)]) == "rank 0 waits for rank 3 on pc2 (does not answer)"
    ended = rank(3, state="ended")
    assert find([host(1, *waiting), host(2, ended)]) == "ranks 0-2 wait for rank 3 on pc2, which has ended"
    one_another = find([host(1, *waiting)])
    assert one_another is not None
    assert one_another.startswith("ranks 0-2 wait for one another: the network, or ")
    assert find([host(1, *waiting[:2]), host(2, rank(2), rank(3))]) is None, "two of four: they may be saving"
    assert find([host(1, rank(0)), host(2, culprit)]) is None, "nobody waits for it"


def test_a_line_of_progress_names_who_holds_the_others_up_once() -> None:
    def run(slow: int, seconds: float) -> list[Status]:
        work = [{"compute_seconds": seconds if number == slow else 0.3} for number in range(4)]
        return [host(1, rank(0, **work[0]), rank(1, **work[1])), host(2, rank(2, **work[2]), rank(3, **work[3]))]

    def words(number: int, seconds: str) -> str:
        place = f"rank {number} on pc{1 + number // 2}"
        return f"{place} is slowest: it computes {seconds} s a step, the others 0.3 s"

    blame = verdict.Blame()
    looks = [(3, 0.5), (3, 0.51), (3, 0.52), (1, 0.5), (3, 0.5), (1, 0.5), (1, 0.5), (3, 0.35), (3, 0.35)]
    assert [blame.name(run(*look)) for look in looks] == [
        None, words(3, "0.51"), None, None, None, None, words(1, "0.5"), None, None,
    ], "named at its second look, anew only where it is another one, and never where the others hardly wait"  # fmt: skip
    place = {"state": "stuck", "place": "t.py:5 in load"}
    stuck = [host(1, rank(0, **{**place, "waits": True})), host(2, rank(1, **place))]
    said = "rank 0 waits for rank 1 on pc2 (t.py:5 in load)"
    assert [blame.name(stuck) for _ in range(2)] == [said, None], "who is stuck is no chance"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "rank 3"),
        ([2, 0], "ranks 0 and 2"),
        ([0, 1, 2, 3, 7], "ranks 0-3 and 7"),
        ([0, 1, 5, 6, 7], "ranks 0, 1 and 5-7"),
    ],
)
def test_ranks_are_named_shortly(numbers: list[int], text: str) -> None:
    assert name_ranks(numbers) == text


# -- what is shown


def test_a_narrow_terminal_has_fewer_columns_and_korean_names_keep_the_lines_straight() -> None:
    statuses = [host(1, rank(0)), host(2, rank(1, pid=4711), host="연구실-2")]
    wide = table(statuses, now=5.0).splitlines()
    assert wide[0].endswith("beat")
    assert wide[1].index("training") == wide[2].index("training") + len("연구실"), "a Korean letter is two wide"
    for width, last in ((80, "pid"), (60, "pid"), (50, "comp/comm/data %"), (30, "step"), (10, "step")):
        lines = table(statuses, now=5.0, width=width).splitlines()
        assert lines[0].endswith(last), width
        assert all(width_of(line) <= max(width, 30) for line in lines)


def shown(seen: watch.Seen, width: int) -> str:
    """The live view as a terminal of that width gets it."""
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=width, legacy_windows=False).print(watch.as_screen(seen, width))
    return out.getvalue()


def test_the_view_says_all_there_is() -> None:
    slow = rank(1, state="stuck", place="t.py:9 in f", data_seconds=0.5)
    events = (Event(time=1.0, text="Restarted: attempt 2", kind="restart"),)
    first = host(1, rank(0), events=events, ports=(29500, 29502), connections={"10.0.0.2": 3})
    seen = watch.Seen(
        statuses=(first, host(2, slow, events=events)), silent=("pc3: no launcher answers at 10.0.0.3:29502 (refused)",)
    )
    said = ("Run r1: step 7", "rank 1 stuck", "rank 1 on pc2 is slowest", "75/25/0", "Restarted: attempt 2", "pc3: no launcher",
            "pc1: listens on 29500 29502; connections over 29500: 3 with 10.0.0.2")  # fmt: skip
    for text in (watch.as_text(seen), shown(seen, 160)):
        assert [one for one in said if one not in text] == []
        assert text.count("Restarted") == 1, "what all hosts say is said once"
    assert watch.as_text(watch.Seen(statuses=(), silent=("pc1: none",))) == "no run is going on\npc1: none"


def hostile() -> Status:
    """As a launcher that means harm would send it."""
    ranks = [{"rank": number, "state": ESCAPES, "place": ESCAPES, "step": 2**62, "loss": 1e299, "moves": "x", "waits": 1,
              "gpu_celsius": [], "beat": -1e299, "data_seconds": -1e299} for number in range(50)]  # fmt: skip
    return parse(json.dumps({
        "run": ESCAPES + "\nRun r2: fine", "host": ESCAPES * 50, "machine_rank": 0, "state": "running", "world_size": 2**62,
        "ranks": [*ranks, 7, None], "ports": ["ssh", 2**70, 29500], "connections": {ESCAPES: 1, "x": -1, "y": "z"},
        "events": [{"time": 1e299, "text": ESCAPES * 9000, "kind": ESCAPES}],
    }))  # fmt: skip


@pytest.mark.parametrize("width", [20, 80, 200])
def test_hostile_texts_are_harmless_in_the_view(width: int) -> None:
    seen = watch.Seen(statuses=(hostile(), host(2, rank(0))), silent=())
    for text in (watch.as_text(seen, width), shown(seen, width)):
        assert len(text) < 100_000
        ours = ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[1;31m")
        for code in ours:
            text = text.replace(code, "")  # noqa: PLW2901
        assert not set("\x1b\x07\x9b\u202e") & set(text)
    assert shown(seen, 200).count("[bold red]") > 100, "rich's own markup is text, in every cell too"


def test_hostile_texts_are_harmless_in_the_metrics() -> None:
    families = {family.name: family for family in text_string_to_metric_families(expose(hostile(), 5.0).decode())}
    assert len(families["winfleet_step"].samples) == 50
    assert {sample.labels["run"] for sample in families["winfleet_step"].samples} == {hostile().run}


def test_metrics_are_in_prometheus_units_and_unknown_values_are_left_out() -> None:
    gpu = {"gpu_percent": 80.0, "gpu_memory_mib": 2.0, "gpu_celsius": 61.0, "gpu_mhz": 1500.0}
    known = rank(0, loss=0.5, beat=3.0, gradient_bytes=400, **gpu)
    text = expose(host(1, known, Rank(rank=1), generation=3, connections={"10.0.0.2": 3}), 5.0).decode()
    families = {family.name.removeprefix("winfleet_"): family for family in text_string_to_metric_families(text)}
    values = {name: [sample.value for sample in family.samples] for name, family in families.items()}
    expected = {"step": [7, 0], "loss": [0.5], "gpu_ratio": [0.8], "gpu_memory_bytes": [2 * 2**20], "gpu_celsius": [61], "gpu_clock_hertz": [1.5e9],
                "beat_age_seconds": [2], "compute_seconds": [0.3], "communication_seconds": [0.1], "data_seconds": [0],
                "gradient_bytes": [400], "restarts": [2], "connections": [3], "samples_per_second": []}  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    assert families["loss"].samples[0].labels == {"run": "r1", "host": "pc1", "rank": "0"}


# -- where it comes from


def test_a_launcher_is_asked_first_and_then_its_file(tmp_path: Path) -> None:
    target = watch.Target(name="pc1", address="127.0.7.1", run="r1", folder=tmp_path)
    silent = watch.ask(target)
    assert isinstance(silent, str)
    assert silent.startswith("pc1: no launcher answers at 127.0.7.1:29502 (")
    (tmp_path / "status.json").write_text(host(1, time=time.time()).to_json())
    assert getattr(watch.ask(target), "state", "") == "running"
    (tmp_path / "status.json").write_text(host(1, time=time.time() - 60).to_json())
    assert getattr(watch.ask(target), "state", "") == "lost", "a launcher writes every second"
    said = host(1, rank(0)).to_json().encode()
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + said, "127.0.7.1", 29502):
        assert watch.ask(target) == host(1, rank(0))
    (tmp_path / "status.json").unlink()
    said = host(1, run="r2").to_json().encode()
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + said, "127.0.7.1", 29502):
        assert watch.ask(target) == "pc1: 127.0.7.1:29502 serves run r2"


def run_folder(folder: Path) -> Path:
    hosts = pcs(2, 2, network="127.0.7")
    for number, name in enumerate(("older", "newer")):
        home = folder / "logs" / name
        (home / "pc1").mkdir(parents=True)
        (home / "plan.json").write_text(Plan(run=name, command=("t.py",), hosts=hosts).to_json())
        (home / "pc1" / "status.json").write_text(host(1, rank(0), run=name, state="finished").to_json())
        stamp = 1_000_000 + number
        os.utime(home / "plan.json", (stamp, stamp))
    return folder


def test_without_a_terminal_it_prints_the_newest_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder(tmp_path))
    assert watch.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Run newer: ")
    assert "pc2: no launcher answers at 127.0.7.2:29502" in out
    assert watch.main(["--run", "logs/older", "--once"]) == 0
    assert capsys.readouterr().out.startswith("Run older: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: no run in `logs`\nhint: give --run FOLDER or --inventory PATH\n"),
        (["--run", "here"], "error: `here` has no readable plan\nhint: give the folder of one run\n"),
    ],
)
def test_what_cannot_be_shown_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert watch.main(words) == 2
    assert capsys.readouterr().err == message


def test_hosts_come_from_an_inventory_as_ansible_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    (tmp_path / "hosts.yml").write_text(
        "workers:\n  hosts:\n    pc1: {ansible_host: 10.0.0.1}\n    pc2: {ansible_host: 10.0.0.2, fleet_address: 10.9.0.2}\n"
        "  children:\n    more: {hosts: {pc3: {}, pc1: {}}}\nother: {hosts: {pc9: {}}}\n"
    )
    found = watch.targets_of_inventory(str(tmp_path / "hosts.yml"))
    assert [(one.name, one.address) for one in found] == [("pc1", "10.0.0.1"), ("pc2", "10.9.0.2"), ("pc3", "pc3")]
    with pytest.raises(watch.WatchError, match="has no hosts in the group `workers`"):
        watch.targets_of_inventory(str(tmp_path / "absent.yml"))


def test_in_a_terminal_it_is_shown_anew_until_the_run_has_ended(tmp_path: Path) -> None:
    folder = run_folder(tmp_path) / "logs" / "newer"
    going_on = host(1, rank(0, step=41), run="newer", time=time.time() + 1_000)
    for name in ("pc1", "pc2"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "status.json").write_text(dataclasses.replace(going_on, host=name).to_json())
    environment = {**ENVIRONMENT, "TERM": "xterm", "PYTHONUTF8": "1"}
    process = pexpect.spawn(
        sys.executable, ["-m", "winfleet.status", "--run", str(folder)], env=environment, dimensions=(24, 70), encoding="utf-8", timeout=patience(30),
    )  # fmt: skip
    process.expect(r"\x1b\[\?1049h")  # the other screen
    process.expect("step 41")
    for name in ("pc1", "pc2"):
        ended = dataclasses.replace(going_on, host=name, state="finished", ranks=(rank(0, step=42, state="ended"),))
        status_file = folder / name / "status.json"
        status_file.write_text(ended.to_json())
    process.expect(r"\x1b\[\?1049l")
    process.expect("step 42")
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0


# -- what a host measures


def test_connections_are_those_of_the_plans_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.7.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(hardware, "RANKS_PORT", port)
        monkeypatch.setattr(hardware, "PROBE_PORT", port + 4)
        with socket.create_connection(("127.0.7.1", port), source_address=("127.0.7.3", 0)):
            accepted, _ = server.accept()
            network = [hardware.Network(f"127.0.7.{number}") for number in (1, 2, 3)]
            for one in network:
                one.look()
            accepted.close()
    found = [(one.ports, one.connections) for one in network]
    assert found == [((port,), {"127.0.7.3": 1}), ((), {}), ((), {"127.0.7.1": 1})]


def test_nvidia_smi_is_read_where_nvml_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    lines = "98, 21504, 24564, 74, 2520, 3105\\n[N/A], 10, 4096, 41, [Not Supported], 1500\\n"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = '--query-gpu={','.join(hardware.SMI_FIELDS)}' ] && printf '{lines}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    first, second = hardware.Gpus().look()
    assert (first.percent, first.memory_mib, first.celsius, first.mhz) == (None, 10, 41, None)
    assert (second.percent, second.memory_total_mib) == (98, 24564)
    assert (second.celsius, second.mhz, second.max_mhz) == (74, 2520, 3105)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert hardware.Gpus().look() == []
