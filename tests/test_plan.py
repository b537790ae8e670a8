"""The plan of a run: ranks of unequal hosts, the file and back, and what is refused, in the words that users read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import pcs
from winfleet.core.plan import Host, Plan, PlanError, choose_backend
from winfleet.core.sending import SENDING, Sending, SendingError


def plan(**values: Any) -> Plan:
    return Plan(**{"run": "r", "command": ("train.py",), "hosts": pcs(1, 3, 2), **values})


def host(**values: Any) -> Host:
    return Host(**{"name": "pc1", "address": "10.0.0.1", "machine_rank": 0, "processes": 1, "first_rank": 0, **values})


def test_ranks_of_unequal_hosts_follow_each_other() -> None:
    laid = pcs(1, 3, 2)
    assert [(host.machine_rank, host.first_rank, host.processes) for host in laid] == [(0, 0, 1), (1, 1, 3), (2, 4, 2)]
    made = plan(hosts=laid)
    assert made.world_size == 6
    assert made.host(2).name == "pc3"
    with pytest.raises(IndexError):
        made.host(3)


def test_plan_json_holds_all_of_the_plan(tmp_path: Path) -> None:
    written = plan(
        hosts=pcs(1, 2, adapter="이더넷 2", os="Windows", gpus=("RTX 4090", "RTX 4090")),
        command=("train.py", "--이름", 'a "b"'), code="0c0de0c0de00", config="steps: 3\n", backend="nccl",
        mixed_precision="bf16", max_restarts=2, start_timeout_seconds=30, stuck_seconds=9,
        sending=Sending(gradients="fp16", average_every=32, average_bits=4, average_outer=(0.7, 0.9)), variables={"pc1": {"OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(written.to_json(), "utf-8")
    assert Plan.load(path) == written
    assert "이더넷 2" in written.to_json(), "people read the file too"
    assert set(json.loads(written.to_json())) == {field.name for field in dataclasses.fields(Plan)}


def test_korean_host_names_are_host_names() -> None:
    assert host(name="연구실-3.local").name == "연구실-3.local"


NAME_HINT = "letters, digits, '.', '_' and '-' alone"
RUN_HINT = "fleet_run takes letters, digits, '.', '_' and '-', 64 at most"
# what is made, what is wrong with it, what to do
REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "host name": (lambda: host(name="pc 1;reboot"), "host 'pc 1;reboot': not a host name", NAME_HINT),
    "option as host name": (lambda: host(name="-oProxyCommand"), "host '-oProxyCommand': not a host name", NAME_HINT),
    "IPv6": (
        lambda: host(address="fe80::1"),
        "host pc1: address 'fe80::1' is not an IPv4 address",
        "set fleet_address of pc1 to the address that the other hosts reach",
    ),
    "no processes": (lambda: host(processes=0), "host pc1: 0 processes", "set fleet_processes of pc1 to 1 or more"),
    "same address": (
        lambda: plan(hosts=pcs(1, 1, address="10.0.0.9")),
        "hosts pc1 and pc2 have the same address 10.0.0.9",
        "give pc2 its own fleet_address, or remove one of the two from the inventory",
    ),
    "no command": (
        lambda: plan(command=()),
        "no command to run",
        'set fleet_command, for example "train.py --epochs 3"',
    ),
    "no hosts": (
        lambda: plan(hosts=()),
        "no hosts",
        "put at least one host into the group `workers` of the inventory",
    ),
    "run name": (lambda: plan(run="../r"), "run '../r': not a run name", RUN_HINT),
    "long run name": (lambda: plan(run="r" * 65), f"run '{'r' * 65}': not a run name", RUN_HINT),
    "Windows and Linux": (
        lambda: plan(hosts=(host(os="Windows"), host(name="pc2", address="10.0.0.2", machine_rank=1, first_rank=1))),
        "Windows and other hosts cannot train in one group: pc2 (Linux)",
        "gloo does not connect them; leave one kind out of the group `workers`",
    ),
    "ranks out of order": (
        lambda: plan(hosts=pcs(1, 2)[::-1]),
        "host pc2: machine_rank 1 and first rank 1, expected 0 and 0",
        "make the plan with lay_out_hosts()",
    ),
    "broken JSON": (
        lambda: Plan.from_json("{"),
        "plan.json cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "deploy again",
    ),
    "no plan": (lambda: Plan.from_json("{}"), "plan.json cannot be read: 'hosts'", "deploy again"),
    "missing file": (
        lambda: Plan.load(Path("/nowhere/plan.json")),
        "/nowhere/plan.json: No such file or directory",
        "deploy again",
    ),
}


@pytest.mark.parametrize(("make", "what", "hint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_run_is_refused_with_its_fix(make: Callable[[], object], what: str, hint: str) -> None:
    with pytest.raises(PlanError) as refused:
        make()
    assert str(refused.value) == f"{what}\nhint: {hint}"


@pytest.mark.parametrize("change", [{"hosts": 3}, {"hosts": ["pc1"]}, {"command": 3}, {"surprise": 1}, {"run": None}])
def test_plan_json_with_a_wrong_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"plan\.json cannot be read"):
        Plan.from_json(json.dumps(json.loads(plan().to_json()) | change))


@pytest.mark.parametrize(
    ("kinds", "backend"),
    [
        ([("Linux", ("A",)), ("Linux", ("B",))], "nccl"),
        ([("Linux", ("A",)), ("Linux", ())], "gloo"),
        ([("Windows", ("A",)), ("Windows", ("A",))], "gloo"),
    ],
)
def test_nccl_only_where_every_host_is_linux_with_gpus(kinds: list[tuple[str, tuple[str, ...]]], backend: str) -> None:
    assert choose_backend([host(os=system, gpus=gpus) for system, gpus in kinds]) == backend


def test_a_plan_of_an_older_version_sends_gradients_on_each_step() -> None:
    values = json.loads(plan().to_json())
    del values["sending"]
    assert Plan.from_json(json.dumps(values)).sending == Sending()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"average_bits": 7}, "fleet_average_bits: 7\nhint: 32, 16, 8, 4"),
        ({"average_every": 1}, "fleet_average_every: 1\nhint: 2 or more"),
        ({"average_outer": (0.7, 1.0)}, r"fleet_average_outer: \[0.7, 1\]\nhint: a learning rate"),
    ],
)
def test_what_ranks_cannot_send_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SendingError, match=said):
        Sending(**values)


def test_what_has_no_effect_is_said() -> None:
    assert Sending().notes(1, "gloo") == Sending(average_every=32).notes(2, "gloo") == []
    (bad,) = Sending(average_every=8, average_outer=(0.7, 0.9)).notes(2, "gloo")
    assert bad.startswith(
        "fleet_average_outer: a momentum of 0.9 overshoots in rounds of 8 steps; take none, [1.0, 0.0], or "
    )
    assert Sending(average_every=32, average_outer=(0.7, 0.9)).notes(2, "gloo") == []
    assert Sending(average_every=8).notes(1, "nccl") == [
        "fleet_average_every: 8 has no effect on one host, whose ranks send gradients on each step"
    ]
    both = Sending(average_every=32, gradients="fp16").notes(2, "nccl")
    assert [note.partition(",")[0].partition(" on the")[0] for note in both] == [
        "fleet_gradients: fp16 has no effect beside fleet_average_every",
        "fleet_average_every gains nothing",
    ]


def test_ranks_know_of_averaging_where_there_are_several_hosts_alone() -> None:
    environ = {SENDING: "of an earlier run"}
    Sending().export([1, 1], environ)
    assert environ == {}
    Sending(average_every=32).export([2], environ)
    assert environ == {}, "one host has nobody to average with"
    Sending(average_every=32, gradients="fp16").export([2], environ)
    assert Sending.of_environment(environ) == (Sending(gradients="fp16"), (2,))
    Sending(average_every=32).export([2, 1], environ)
    assert Sending.of_environment(environ) == (Sending(average_every=32), (2, 1))
