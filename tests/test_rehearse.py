"""The rehearsal: what it judges, word for word; hosts that are late or lie; and the whole of it on two hosts of their own."""

import contextlib
import dataclasses
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import pcs
from conftest import Fleet, needs_namespaces, patience, processes_with
from namespaces import Net, made
from winfleet.core.plan import Plan
from winfleet.core.sending import Sending
from winfleet.rank.trial import Step, Trial, summarize
from winfleet.rehearsal import checks, controller, peers, summary
from winfleet.rehearsal.checks import Facts
from winfleet.rehearsal.controller import Outcome, Reduce, Rehearsal, Rehearsed, Shelf
from winfleet.rehearsal.facts import folder_digest
from winfleet.rehearsal.links import Link, Target
from winfleet.rehearsal.peers import Peer, PeerError, ask_all
from winfleet.rehearsal.prediction import Prediction

CODE, DATA = "c" * 12, "d" * 12


def plan_of(*processes: int, system: str = "Linux") -> Plan:
    return Plan(run="r", command=("train.py",), hosts=pcs(*processes, os=system), code=CODE, data=DATA)


def facts(**values: Any) -> Facts:
    usual: dict[str, Any] = {
        "python": "3.11.7", "packages": {"torch": "2.13.0+cu130", "numpy": "2.4.0"}, "port": 40000,
        "folders": {"code": (CODE + "0" * 52, True), "data": (DATA + "0" * 52, True)},
    }  # fmt: skip
    return Facts(**{**usual, **values})


def said(problems: Any) -> list[str]:
    return [str(problem) for problem in problems]


TRIAL = Trial(
    micro_batch_seconds=0.1, backward_seconds=0.06, optimizer_seconds=0.01, data_seconds=0.002, tensor_bytes=(4_000_000,) * 10,
    samples=8, accumulation=2, steps=5,
)  # fmt: skip


def link(source: str, target: str, mbit: float = 940.0) -> Link:
    return Link(source=source, target=target, bytes_per_second=mbit * 1e6 / 8, round_trip_seconds=0.0004)


# --- what is judged


def test_every_pair_and_the_first_hosts_stores_are_needed() -> None:
    plan = plan_of(1, 1, 2)
    assert checks.needed_ports(plan) == {
        "pc1": [29502, 29503, 29500, 29501],
        "pc2": [29502, 29503],
        "pc3": [29502, 29503],
    }
    wanted = checks.needed_targets(plan, {"pc1": 41, "pc2": 42, "pc3": 43})
    assert {name: [(target.host, target.port) for target in targets] for name, targets in wanted.items()} == {
        "pc1": [("pc2", 42), ("pc2", 29503), ("pc3", 43), ("pc3", 29503)],
        "pc2": [("pc1", 41), ("pc1", 29503), ("pc3", 43), ("pc3", 29503), ("pc1", 29500), ("pc1", 29501)],
        "pc3": [("pc1", 41), ("pc1", 29503), ("pc2", 42), ("pc2", 29503), ("pc1", 29500), ("pc1", 29501)],
    }


def test_a_closed_direction_is_one_line_with_port_and_fix() -> None:
    dynamic = Target(host="pc2", address="10.0.0.2", port=40000)
    closed = [("pc1", dynamic, "no answer within 4 s"), ("pc3", dataclasses.replace(dynamic), "no answer within 4 s")]
    closed += [("pc2", Target(host="pc1", address="10.0.0.1", port=29500), "connection refused")]
    assert said(checks.check_reached(closed, plan_of(1, 1, 1))) == [
        (
            "pc1, pc3 -> pc2: TCP port 40000 (of the dynamic range, as gloo takes) of 10.0.0.2 cannot be reached: no answer within 4 s\n"
            "  hint: open TCP 32768-60999 in the firewall of pc2 for pc1, pc3; look for other rules and for a VPN between them"
        ),
        (
            "pc2 -> pc1: TCP port 29500 (the ranks' store) of 10.0.0.1 cannot be reached: connection refused\n"
            "  hint: open TCP 29500 in the firewall of pc1 for pc2; look for other rules and for a VPN between them"
        ),
    ]
    (windows,) = said(checks.check_reached(closed[:1], plan_of(1, 1, 1, system="Windows")))
    assert "hint: worker_setup.yml opens TCP 49152-65535 in the firewall of pc2 for pc1;" in windows


def test_what_a_host_says_of_others_is_data() -> None:
    targets = [Target(host="pc2", address="10.0.0.2", port=40000)]
    good = {"host": "pc2", "port": 40000, "why": "\x1b[2Jrefused\nerror: forged"}
    other = {"host": "pc9", "port": 40000, "why": "x"}
    assert checks.as_closed("pc1", [good, other, 3, {}], targets) == [("pc1", targets[0], "[2Jrefused error: forged")]
    assert checks.as_closed("pc1", "text", targets) == []
    assert Facts.parse({"port": "x"}) is None
    strange = Facts.parse({"port": 1, "packages": [1], "folders": {"code": 3}, "resolves": 4, "resolve_seconds": "x"})
    assert strange == Facts(port=1, packages={}, folders={})
    assert (
        controller.as_link("a", "b", {"bytes_per_second": float("nan"), "round_trip_seconds": -1}).bytes_per_second == 0
    )
    assert controller.as_reduce(10, {"pc1": [{"seconds": "1"}], "pc2": []}, plan_of(1, 1)) is None


def test_an_odd_package_is_named_against_the_majority() -> None:
    found = {"pc1": facts(), "pc2": facts(packages={"torch": "2.12.0", "numpy": "2.3.9"}), "pc3": facts()}
    hint = "\n  hint: remove the newest folder below env/ of fleet_home there and deploy again; it is made anew from the lock"
    assert said(checks.check_versions(found)) == [
        f"pc2: torch 2.12.0, the other 2 have 2.13.0+cu130{hint}", f"pc2: numpy 2.3.9, the other 2 have 2.4.0{hint}"
    ]  # fmt: skip
    two = {name: found[name] for name in ("pc1", "pc2")}
    assert said(checks.check_versions(two))[0] == f"pc1, pc2: torch 2.13.0+cu130 on pc1 · 2.12.0 on pc2{hint}"
    other = said(checks.check_versions({**found, "pc3": facts(python="3.12.1")}))[0]
    assert other.startswith("pc3: Python 3.12.1, the other 2 have 3.11")
    builds = {"pc1": facts(), "pc2": facts(packages={"torch": "2.13.0+cu129", "numpy": "2.4.0"})}
    assert said(checks.check_versions(builds)) == []
    assert checks.note_builds(builds) == ["torch comes in several builds: 2.13.0+cu130 on pc1; 2.13.0+cu129 on pc2"]


def test_an_environment_of_another_lock_is_named_with_both_digests() -> None:
    plan = dataclasses.replace(plan_of(1, 1, 1), environment="a" * 12)
    found = {"pc1": facts(lock="a" * 64), "pc2": facts(lock="b" * 64), "pc3": facts()}  # whose Python was given
    assert said(checks.check_locks(found, plan)) == [
        (
            "pc2: its environment is of the lock bbbbbbbbbbbb, this controller's lock is aaaaaaaaaaaa\n"
            "  hint: deploy again without fleet_skip_deploy; env/aaaaaaaaaaaa below fleet_home of pc2 is made anew"
        )
    ]
    told = Facts.parse({"port": 1, "lock": "b" * 64})
    assert told is not None
    assert told.lock == "b" * 64


def test_other_code_or_data_is_named() -> None:
    found = {"pc1": facts(), "pc2": facts(folders={"code": ("e" * 64, True), "data": ("", True)})}
    assert said(checks.check_folders(found, plan_of(1, 1))) == [
        (
            f"pc2: code/{CODE} there has the digest eeeeeeeeeeee, not what was sent\n"
            f"  hint: remove code/{CODE} below fleet_home of pc2 and deploy again; runs never write there"
        ),
        (
            f"pc2: data/{DATA} there has nothing, not what was sent\n"
            f"  hint: remove data/{DATA} below fleet_home of pc2 and deploy again; runs never write there"
        ),
    ]
    large = {name: facts(folders={"code": (CODE, True), "data": (digest, False)}) for name, digest in
             (("pc1", "a"), ("pc2", "b"), ("pc3", "b"))}  # fmt: skip
    (odd,) = said(checks.check_folders(large, plan_of(1, 1, 1)))
    assert odd.startswith(f"pc1: data/{DATA} with names and sizes a, the other 2 have b\n  hint: remove data/{DATA}")


def test_a_large_folder_is_compared_by_names_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("one")
    whole = folder_digest(tmp_path)
    assert whole[1]
    monkeypatch.setattr("winfleet.rehearsal.facts.DIGEST_BYTES", 1)
    listed = folder_digest(tmp_path)
    (tmp_path / "a").write_text("two")
    assert folder_digest(tmp_path) == listed == (listed[0], False)
    (tmp_path / "a").write_text("three")
    assert folder_digest(tmp_path) != listed
    assert folder_digest(tmp_path / "none") == ("", True)


def test_a_clock_that_is_off_is_named_and_the_controllers_own_too() -> None:
    hint = "\n  hint: set it (Windows: Settings, Time, Sync now, or `w32tm /resync`; Linux: `timedatectl set-ntp true`)"
    assert said(checks.check_clocks({"pc1": 0.2, "pc2": -301.2})) == [
        f"pc2: its clock is 5 minutes behind the controller's{hint}"
    ]
    assert said(checks.check_clocks({"pc1": 301.0, "pc2": 302.0})) == [
        f"controller: its clock is 5 minutes behind the hosts'{hint}"
    ]


def test_slow_links_are_noted_and_dead_ones_refused() -> None:
    found = [link("pc1", "pc2"), link("pc2", "pc1"), link("pc1", "pc3", 94), link("pc3", "pc1")]
    assert checks.note_slow_links(found) == [
        "pc1 -> pc3: 94 Mbit/s, half of the links have 940 or more; look at its cable, its switch port, or whether it is Wi-Fi"
    ]
    (dead,) = said(checks.check_links([*found, link("pc3", "pc2", 0)]))
    assert dead.startswith(
        "pc3 -> pc2: small packets get through, large ones do not\n  hint: give the adapter of pc3 the MTU"
    )


def test_a_device_that_multiplies_wrongly_is_named() -> None:
    answers = {"pc1": [{"error": ""}], "pc2": [{"error": ""}, {"error": "torch finds no GPU"}]}
    (wrong,) = said(checks.check_devices(answers, plan_of(1, 2)))
    assert wrong.startswith("pc2: torch finds no GPU (rank 2)\n  hint: run nvidia-smi there;")


def test_averaging_that_does_not_fit_into_a_hosts_memory_is_refused() -> None:
    averaging = dataclasses.replace(plan_of(1, 2), sending=Sending(average_every=8))
    measured, gib = Rehearsed(trials={"CPU": dataclasses.replace(TRIAL, tensor_bytes=(2**30,))}), 2**30
    found = Outcome(measured=measured, memory_free={"pc1": 3 * gib, "pc2": 4 * gib})
    assert found.lacks_memory(plan_of(1, 2)) == []
    (lacks,) = said(found.lacks_memory(averaging))
    # 2 GiB for each of two processes, half of one for momentum, and half of one on its way
    assert lacks.startswith("pc2: averaging keeps 5.0 GiB in the host's memory, and 4.0 GiB are free\n  hint: ")
    assert Outcome(measured=measured).lacks_memory(averaging) == [], "a host of an older version says nothing of it"


# --- what is measured


def test_medians_of_the_steps_leave_a_validation_out() -> None:
    step = Step(seconds=1.0, data_seconds=0.2, backward_seconds=0.4, optimizer_seconds=0.2, micro_batches=2)
    found = summarize([step, dataclasses.replace(step, seconds=9.0), step])
    assert found.micro_batch_seconds == pytest.approx(0.3)
    assert (found.backward_seconds, found.data_seconds) == (0.2, 0.1)
    assert (found.optimizer_seconds, found.accumulation, found.steps) == (0.2, 2, 3)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"micro_batch_seconds": -1.0, "accumulation": 1, "steps": 3},
        {"micro_batch_seconds": 1.0, "steps": 3},
    ],
)
def test_a_trial_that_is_none_is_refused(values: object) -> None:
    assert Trial.parse(values) is None


def test_what_was_kept_is_taken_again_while_it_is_the_same(tmp_path: Path) -> None:
    plan, shelf = plan_of(1, 1), Shelf(tmp_path / "kept", hours=1)
    assert Trial.parse(dataclasses.asdict(TRIAL)) == TRIAL
    measured = Rehearsed(links=(link("pc1", "pc2"),), trials={"CPU": TRIAL}, reduce=Reduce(bytes=8, seconds=1.0))
    shelf.put(controller.key_of(plan), measured)
    assert shelf.take(controller.key_of(dataclasses.replace(plan, run="another"))) == measured
    assert shelf.take(controller.key_of(dataclasses.replace(plan, config="other: 1"))) is None
    other = dataclasses.replace(plan, code="f" * 12)
    assert controller.key_of(other, links_alone=True) == controller.key_of(plan, links_alone=True)
    assert Shelf(tmp_path / "kept", hours=0).take(controller.key_of(plan)) is None
    (tmp_path / "kept" / f"{controller.key_of(plan)}.json").write_text("[]")
    assert shelf.take(controller.key_of(plan)) is None


def test_an_all_reduce_is_as_large_as_the_links_carry_in_a_moment() -> None:
    plan, trials = plan_of(1, 1), {"CPU": TRIAL}
    assert controller.reduce_bytes(plan, [link("pc1", "pc2", 9400)], trials) == TRIAL.gradient_bytes
    assert controller.reduce_bytes(plan, [link("pc1", "pc2", 94)], trials) == int(1.5 * 94e6 / 8)
    assert controller.reduce_bytes(plan, [link("pc1", "pc2", 0.1)], trials) == 2**20


def test_a_prediction_has_the_links_of_the_ring_and_the_trial_as_its_grounds() -> None:
    plan = plan_of(2, 2, 2, 2)
    names = [host.name for host in plan.hosts]
    links = tuple(link(one, other, 94 if {one, other} == {"pc1", "pc3"} else 940) for one in names for other in names)
    assert ("pc1", "pc3") not in {(found.source, found.target) for found in summary.ring_links(plan, links)}
    reduce = Reduce(bytes=40_000_000, seconds=0.7, local_seconds={"pc1": 0.05})
    measured = Rehearsed(links=links, trials={"CPU": TRIAL}, reduce=reduce)
    found = summary.grounds(plan, measured)
    assert found is not None
    assert found.link is not None
    assert (found.link.bytes_per_second, found.link.latency_seconds) == (940e6 / 8, 0.0002)
    assert [(done.hosts, done.ranks, done.seconds) for done in found.all_reduces] == [(4, 8, 0.7), (1, 2, 0.05)]
    assert (sum(found.bucket_bytes), found.accumulation, found.samples) == (40_000_000, 2, 8)
    prediction = summary.predict_plan(plan, measured)
    assert prediction is not None
    assert 1 < prediction.planned.speed_up < 8
    text = summary.describe(plan, Outcome(measured=measured, notes=("a note",)), prediction)
    many = summary.describe_links([*links, link("pc5", "pc6", 10)])
    assert [line.split()[:3] for line in many[:3]] == [
        ["the", "slowest", "of"],
        ["link", "Mbit/s", "ms"],
        ["pc5", "->", "pc6"],
    ]
    assert re.search(r"pc1 -> pc3 +94 +0.40\n", text)
    assert "all-reduce of 40.0 MB among 8 ranks: 700.0 ms" in text
    assert "note: a note" in text
    assert f"this run: {prediction.planned.samples_per_second:.1f} samples/s" in text
    assert [line.split()[:2] for line in summary.guide_table(prediction).splitlines()[1:]] == [
        ["1", "1"], ["4", "1"], ["8", "2"], ["16", "4"],
    ]  # fmt: skip
    assert summary.predict_plan(plan, dataclasses.replace(measured, trials={})) is None


# --- hosts that are late or lie


def test_a_host_that_answers_late_or_drips_is_named_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CALL_SECONDS", 0.3)

    def drip(server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = server.accept()
                threading.Thread(target=drops, args=(connection,), daemon=True).start()

    def drops(connection: socket.socket) -> None:
        with connection:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as late, socket.create_server(("127.0.0.1", 0)) as dripping:
        threading.Thread(target=drip, args=(dripping,), daemon=True).start()
        ports = {"late": late.getsockname()[1], "dripping": dripping.getsockname()[1]}
        known = {name: Peer(name=name, address="127.0.0.1", token="t", port=port) for name, port in ports.items()}
        with pytest.raises(PeerError, match=rf"no answer on TCP port {ports['late']} within 0 s"):
            known["late"].call("GET", "/clock")
        begin = time.monotonic()
        answers, troubles = ask_all(known, "facts", {"late": {}, "dripping": {}}, 0.5)
        assert time.monotonic() - begin < patience(5)
    assert answers == {}
    assert str(troubles["dripping"]) == "it had not answered `facts` after 0 s"
    silent = Rehearsal(plan_of(1, 1), "t").say_silent("pc2", "facts", troubles["late"])
    assert re.fullmatch(
        r"pc2: 10.0.0.2: no answer on TCP port \d+ within 0 s\n"
        r"  hint: is pc2 busy or asleep, and may this machine reach its TCP port 29504\?",
        str(silent),
    )


# --- the whole of it


def python_in(net: Net, script: Path) -> Path:
    """An interpreter that runs in the namespace: a worker that is another host in all that concerns the network."""
    script.write_text(f'#!/bin/sh\nexec {" ".join(net.command(sys.executable))} "$@"\n')
    script.chmod(0o755)
    return script


@contextlib.contextmanager
def on_hosts_of_their_own(fleet: Fleet, rate: str) -> Iterator[list[Net]]:
    """The fleet's workers and its controller in namespaces, what leaves a worker limited (tc); the workers' namespaces."""
    with made(1 + len(fleet.hosts)) as (controller, *workers):
        for net, host in zip(workers, fleet.hosts.values(), strict=True):
            host["ansible_host"] = net.address
            host["ansible_python_interpreter"] = str(python_in(net, fleet.folder / f"python-{net.name}"))
            net.limit("tbf", "rate", rate, "burst", "32k", "latency", "50ms")
        fleet.before = controller.command()
        fleet.variables["fleet_rehearsal"] = True
        yield workers


@needs_namespaces
def test_a_cluster_is_measured_predicted_and_refused_by_the_playbook(fleet: Fleet) -> None:
    fleet.variables.update(fleet_rehearsal_steps=3, fleet_follow=False, fleet_command="bare.py --steps 100000")
    with on_hosts_of_their_own(fleet, "100mbit") as workers:
        measured = fleet.play("deploy_and_train.yml", "fleet_run=one")
        assert measured.returncode == 0, measured.stdout
        assert re.search(r"worker1 -> worker2 +[89]\d +[0-9.]+\n +worker2 -> worker1 +[89]\d ", measured.stdout), (
            measured.stdout
        )
        assert re.search(r"all-reduce of [0-9.]+ MB among 2 ranks: ", measured.stdout)
        assert re.search(r"\n +16 +16 +[0-9.]+ +[0-9.]+x .*\n  this run: [0-9.]+ samples/s", measured.stdout)
        prediction = Prediction.from_json((fleet.logs / "one" / "prediction.json").read_text("utf-8"))
        assert prediction.planned.ranks == 2
        assert fleet.play("stop.yml", "fleet_stop_grace_seconds=0").returncode == 0
        assert not processes_with(str(fleet.folder)), "nothing of the rehearsal stays"
        assert not (fleet.home("worker1") / "rehearsal").exists()
        kept = {path.name: path.stat().st_mtime_ns for path in (fleet.logs / ".rehearsals").iterdir()}

        (code,) = (fleet.home("worker2") / "code").iterdir()
        (code / "bare.py").write_text("print('another program')\n")
        workers[1].drop(f"ip saddr {workers[0].address} tcp dport 32768-60999 ct state new drop;")
        refused = fleet.play("deploy_and_train.yml", "fleet_run=two")
        assert refused.returncode != 0
        assert re.search(
            r"worker1 -> worker2: TCP port \d+ \(of the dynamic range, as gloo takes\) of "
            rf"{workers[1].address} cannot be reached: no answer within 4 s\n  hint: open TCP 32768-60999 in the firewall of worker2",
            refused.stdout,
        ), refused.stdout
        assert re.search(
            rf"worker2: code/{code.name} there has the digest [0-9a-f]{{12}}, not what was sent\n", refused.stdout
        )
        assert "worker2 -> worker1" not in refused.stdout
        assert refused.stdout.count("error: ") == 1
        assert not (fleet.home("worker1") / "runs" / "two" / "status.json").exists(), "no rank was started"
        assert not processes_with(str(fleet.folder))
        assert {path.name: path.stat().st_mtime_ns for path in (fleet.logs / ".rehearsals").iterdir()} == kept


@pytest.mark.proof
@needs_namespaces
def test_a_run_on_limited_links_ends_with_a_report_whose_prediction_is_right(fleet: Fleet) -> None:
    fleet.variables["fleet_command"] = "emulated_gpu.py --steps 40 --mib 2 --seconds 0.2"
    with on_hosts_of_their_own(fleet, "50mbit"):
        done = fleet.play("deploy_and_train.yml", "fleet_run=limited")
        assert done.returncode == 0, done.stdout
    page = (fleet.logs / "limited" / "report.html").read_text("utf-8")
    cells = r"</th>" + r'<td class="right">([^<]*)</td>' * 3
    predicted, measured, difference = re.findall(rf"Samples per second{cells}", page)[0]
    assert abs(float(difference.split()[0])) <= max(10, patience(5)), (
        f"predicted {predicted} samples/s, measured {measured}"
    )
    prediction = Prediction.from_json((fleet.logs / "limited" / "prediction.json").read_text("utf-8"))
    assert prediction.planned.limit == "network"
    assert prediction.planned.network_seconds > 0.15, "the network cannot be left out of the prediction"
