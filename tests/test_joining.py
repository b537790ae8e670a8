"""Ranks wait for one another before their process group; who never comes, or cannot get in, is named."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import pcs
from conftest import patience, wait_until
from launchers import Cluster, Launch, copied, launch
from winfleet.core.plan import Plan
from winfleet.core.status import Rank
from winfleet.launcher.joining import Joining
from winfleet.launcher.stuck import Lookout
from winfleet.rank.gate import is_by_environment

__all__ = ["copied", "launch"]  # fixtures

# Rank 1 prepares its data for longer than any limit, or looks for rank 0 at the wrong port.
SCRIPT = """
import os, sys, time
from datetime import timedelta
import torch, torch.distributed as dist

def tokenize():
    time.sleep(float(sys.argv[1]))

if os.environ["RANK"] == "1":
    tokenize()
    os.environ["MASTER_PORT"] = sys.argv[2]
dist.init_process_group(timeout=timedelta(seconds=2))
dist.all_reduce(torch.ones(1))
print("together", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture
def begin(launch: Launch, copied: Path) -> Callable[..., Cluster]:
    """Starts two hosts with the script; `limit` (seconds) is more than a process takes to be heard of."""
    script = copied / "late.py"
    script.write_text(SCRIPT, "utf-8")
    return lambda limit, *words: launch([1, 1], str(script), *words, start_timeout_seconds=limit)


@pytest.mark.proof
def test_a_rank_that_prepares_its_data_for_long_is_waited_for_and_named(begin: Callable[..., Cluster]) -> None:
    limit = int(patience(4))
    cluster = begin(limit, f"{limit + 3}", "29500")
    wait_until(lambda: state(cluster, 0) == "waiting", 30, "rank 0 at the gate")
    assert cluster.ends() == [0, 0]
    texts = [event["text"] for event in cluster.status(1)["events"] if event["kind"] == "stuck"]
    assert len(texts) == 1
    assert texts[0].startswith("rank 1 on pc2 has not asked to join for ")
    assert "others wait: late.py:7 in tokenize" in texts[0]


def test_a_rank_that_cannot_get_in_is_named_with_its_direction(begin: Callable[..., Cluster]) -> None:
    limit = int(patience(4))
    cluster = begin(limit, "0", "1")
    said = [cluster.end(machine_rank) for machine_rank in (0, 1)]
    assert [code for code, _ in said] == [1, 1]
    text = f"rank 1 on pc2 did not join within {limit} s: from pc2 (127.0.0.2) to pc1 (127.0.0.1) port 29500"
    assert all(text in words for _, words in said), said


def test_a_script_that_says_what_the_environment_says_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_PORT": "29500", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert is_by_environment({})
    assert is_by_environment({"rank": 1, "world_size": 2, "init_method": "env://"}), "as Lightning's"
    assert is_by_environment({"rank": -1, "world_size": -1}), "as DeepSpeed's"
    assert not is_by_environment({"rank": 0, "world_size": 1})
    assert not is_by_environment({"rank": 1, "world_size": 2, "init_method": "tcp://127.0.0.1:29500"})
    assert not is_by_environment({"store": object(), "rank": 1, "world_size": 2})


def state(cluster: Cluster, machine_rank: int) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(cluster.status(machine_rank)["ranks"][0]["state"])
    return ""


class Store:
    def __init__(self) -> None:
        self.keys: set[str] = set()

    def set(self, key: str, _: str) -> None:
        self.keys.add(key)

    def check(self, keys: list[str]) -> bool:
        return set(keys) <= self.keys


@pytest.fixture
def hosts(tmp_path: Path) -> list[Joining]:
    plan = Plan(run="r1", command=("x.py",), hosts=pcs(1, 1), start_timeout_seconds=600)
    return [Joining(host, plan, Lookout(tmp_path, host.name, 120)) for host in plan.hosts]


def test_each_rank_and_each_generation_has_its_own_time_to_join(hosts: list[Joining]) -> None:
    store, begin = Store(), hosts[1]._since
    unheard, preparing = [Rank(rank=1)], [Rank(rank=1, pid=7)]
    assert hosts[1].failure(store, 1, unheard, begin + 599) == ""
    assert (
        hosts[1].failure(store, 1, unheard, begin + 601)
        == "rank 1 on pc2 was not heard of within 600 s after its start"
    )
    assert hosts[1].failure(store, 1, preparing, begin + 9_000) == ""
    assert hosts[0].failure(store, 1, [Rank(rank=0, pid=6, state="waiting")], begin + 10) == ""
    joining = [Rank(rank=1, pid=7, state="joining")]
    assert hosts[1].failure(store, 1, joining, begin + 9_001) == "", "rank 0 waits since long, this one has just come"
    assert hosts[1].failure(store, 1, joining, begin + 9_600) == ""
    assert "rank 1 on pc2 did not join within 600 s" in hosts[1].failure(store, 1, joining, begin + 9_602)
    assert hosts[1].failure(store, 2, unheard, begin + 20_000) == ""
    assert hosts[1].failure(store, 2, unheard, begin + 20_599) == ""
    assert "was not heard of" in hosts[1].failure(store, 2, unheard, begin + 20_601)
