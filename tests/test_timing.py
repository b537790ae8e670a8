"""Where a rank's time goes, and where it stands when it does not move."""

import contextlib
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import patience
from torch.nn.parallel import DistributedDataParallel
from winfleet.core.status import Rank
from winfleet.launcher import stuck
from winfleet.launcher.stuck import Alarm, Lookout
from winfleet.rank.meter import Meter
from winfleet.rank.stacks import REQUEST, Teller, find_place
from winfleet.rank.timing import Clock, GradientExchange, Mark, split, watch_waits


def test_a_step_is_split_into_loading_communication_and_the_rest() -> None:
    begin, end = Mark(100.0, 0, 1.0, 2.0), Mark(110.0, 80, 3.0, 3.0)
    parts = {"data_seconds": 0.2, "communication_seconds": 0.4, "compute_seconds": 0.4}
    assert split(begin, end, 10, 0.3) == parts
    assert split(begin, end, 10, 7.0)["compute_seconds"] == 0.0, "no part is longer than the step"
    assert set(split(begin, begin, 0, 0.0).values()) == {None}


def both(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work` says in each of two ranks of one gloo group; the processes are forked, so torch is there already."""

    def rank(number: int) -> None:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), 2)
        dist.init_process_group("gloo", store=store, rank=number, world_size=2, timeout=timedelta(seconds=patience(60)))
        (folder / f"{number}.json").write_text(json.dumps(work(number)))
        dist.barrier()

    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank, args=(number,)) for number in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(patience(60))
    assert [process.exitcode for process in ranks] == [0, 0]
    return [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]


def train(number: int, late: float, *, synchronous: bool = True) -> dict[str, Any]:
    """Steps of a small DDP model, for each of which rank 1 works so many seconds longer; what the meter makes of them."""
    meter = Meter(None)
    watch_waits(meter.clock)
    model = DistributedDataParallel(torch.nn.Linear(64, 64))
    sgd = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(12):
        with contextlib.nullcontext() if synchronous else model.no_sync():
            model(torch.ones(4, 64)).sum().backward()
        time.sleep(late * number)
        sgd.step()
        if not synchronous:
            dist.all_reduce(torch.ones(4))
        meter.step(sgd)
    meter.finish()
    return meter.values


@pytest.mark.parametrize(
    "synchronous", [True, False], ids=["the gradients' all-reduce", "a collective of the script itself"]
)
def test_who_works_less_waits_in_communication(tmp_path: Path, synchronous: bool) -> None:
    late = patience(0.05)
    first, second = both(lambda number: train(number, late, synchronous=synchronous), tmp_path)
    assert second["compute_seconds"] > 0.7 * late
    longer = second["compute_seconds"] - first["compute_seconds"]
    assert first["communication_seconds"] == pytest.approx(longer, rel=0.3)
    assert first["compute_seconds"] < 0.8 * second["compute_seconds"]
    if synchronous:
        assert second["communication_seconds"] < 0.8 * first["communication_seconds"]
        assert first["gradient_bytes"] == (64 * 64 + 64) * 4


class Module:
    """Tells times as DistributedDataParallel does."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        self.every = 100

    def _get_ddp_logging_data(self) -> dict[str, int]:
        return self.times

    def _set_ddp_runtime_logging_sample_rate(self, every: int) -> None:
        self.every = every

    def note(self, iteration: int, exposed: float) -> None:
        self.times = {
            "iteration": iteration, "backward_comm_time": 10**9 + round(exposed * 1e9),
            "backward_compute_comm_overlap_time": 10**9,
        }  # fmt: skip


def test_exposed_communication_is_that_of_all_backward_passes_of_a_step_and_ends_with_them() -> None:
    module = Module()
    exchange = GradientExchange(module)
    assert exchange.seconds(0, None) == 0.0
    module.note(40, 0.25)
    assert exchange.seconds(10, 2.0) == pytest.approx(4 * 0.25), "four passes a step, none of them in no_sync"
    assert module.every == 16, "every two seconds"
    assert exchange.seconds(11, 2.0) == pytest.approx(1.0)
    assert exchange.seconds(200, 2.0) == 0.0, "the gradients are not exchanged any more"
    del module
    assert exchange.seconds(201, 2.0) == 0.0


def test_only_the_threads_that_trains_is_held_up_by_a_collective() -> None:
    clock = Clock()
    other = threading.Thread(target=clock.waited, args=[1.0])
    other.start()
    other.join()
    clock.waited(0.5)
    assert (clock.waiting, clock.moves) == (0.5, 2)


# -- stacks


def of_a_user(code: str) -> Any:
    """The frame in which the code of a user's script stands when it calls `stand`."""
    frames: list[Any] = []
    values = {"stand": lambda *_: frames.append(sys._getframe()), "torch": torch}
    exec(compile(code, "/home/x/train.py", "exec"), values)
    return frames[0].f_back


def test_the_place_is_the_users_innermost_line_and_the_call_it_waits_in() -> None:
    assert find_place(of_a_user("def main():\n    stand()\nmain()")).text == "train.py:2 in main"
    hooked = "x = torch.ones(1, requires_grad=True)\nx.register_hook(stand)\n(2 * x).backward()"
    assert find_place(of_a_user("stand()")).waits is False
    place = find_place(of_a_user(hooked))
    assert (place.text, place.waits) == ("train.py:3 in <module>, in backward", True)
    assert find_place(None).text == "outside the script"


def test_a_rank_tells_its_stack_once_for_each_request(tmp_path: Path) -> None:
    (tmp_path / REQUEST).write_text("of an earlier generation")
    teller = Teller(tmp_path, 3)
    assert teller.look() is None
    for request in ("1", "2"):
        (tmp_path / REQUEST).write_text(request)
        assert teller.look() is not None
        assert teller.look() is None
    text = (tmp_path / "rank3.stack.txt").read_text("utf-8")
    assert text.index("Thread MainThread:") > 0
    assert "test_a_rank_tells_its_stack_once_for_each_request" in text


# -- stuck


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic time, which a test moves itself."""
    at = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def standing(rank: int, **values: Any) -> Rank:
    return Rank(**{"rank": rank, "state": "training", "count": 5, "moves": 9, **values})


def test_a_rank_that_stands_still_is_stuck_until_it_moves(tmp_path: Path, now: list[float]) -> None:
    lookout = Lookout(tmp_path, "pc2", 120.0)
    assert lookout.judge([standing(0), standing(1)]) == ((standing(0), standing(1)), [])
    now[0] += 119
    judged, texts = lookout.judge([standing(0, moves=10), standing(1)])
    assert ([rank.state for rank in judged], texts, lookout.alarms) == (["training", "training"], [], 0)
    assert not (tmp_path / REQUEST).exists()
    now[0] += 1
    judged, texts = lookout.judge([standing(0, moves=11), standing(1)])
    assert ([rank.state for rank in judged], texts, lookout.alarms) == (["training", "stuck"], [], 1)
    assert (tmp_path / REQUEST).exists(), "it is asked for its stack first"
    now[0] += 1
    found = standing(1, place="train.py:88 in main, in all_reduce", waits=True)
    said = "rank 1 on pc2 has not moved for 121 s: train.py:88 in main, in all_reduce, where it waits for other ranks"
    assert lookout.judge([standing(0, moves=12), found])[1] == [said]
    now[0] += 60
    assert lookout.judge([standing(0, moves=13), found])[1] == [], "it is said once"
    judged, texts = lookout.judge([standing(0, moves=14), standing(1, moves=10)])
    assert (judged[1].state, texts) == ("training", ["rank 1 on pc2 moves again after 181 s"])


def test_ranks_at_the_same_place_share_a_line_and_one_that_is_silent_is_said_to_be(
    tmp_path: Path, now: list[float]
) -> None:
    lookout = Lookout(tmp_path, "pc1", 10.0)
    ranks = [standing(number, place="a.py:1 in f") for number in range(3)] + [standing(3)]
    lookout.judge(ranks)
    now[0] += 10
    assert lookout.judge(ranks)[1] == []
    now[0] += stuck.TELL_SECONDS
    assert lookout.judge(ranks)[1] == [
        "ranks 0-2 on pc1 have not moved for 15 s: a.py:1 in f",
        "rank 3 on pc1 has not moved for 15 s: its process does not answer",
    ]


@pytest.mark.parametrize(
    ("values", "limit", "seconds", "state"),
    [
        ({"state": "joined", "count": 0}, 10, 49, "joined"), ({"state": "joined", "count": 0}, 10, 50, "stuck"),
        ({"state": "starting", "count": 0}, 10, 999, "starting"), ({"state": "ended"}, 10, 999, "ended"), ({}, 0, 999, "training"),
    ],
    ids=["before the first step", "longer than that", "not joined", "ended", "never"],
)  # fmt: skip
def test_who_is_not_called_stuck(
    tmp_path: Path, now: list[float], values: dict[str, Any], limit: float, seconds: float, state: str
) -> None:
    lookout = Lookout(tmp_path, "pc1", limit)
    lookout.judge([standing(0, **values)])
    now[0] += seconds
    assert lookout.judge([standing(0, **values)])[0][0].state == state


class Counter:
    """The agents' store."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, _: str, amount: int) -> int:
        self.value += amount
        return self.value


def test_all_hosts_tell_their_stacks_when_one_has_a_rank_that_is_stuck(tmp_path: Path, now: list[float]) -> None:
    lookouts = [Lookout(tmp_path / name, name, 10.0) for name in ("pc1", "pc2")]
    for lookout in lookouts:
        lookout.folder.mkdir()
    store, alarms = Counter(), [Alarm(lookout) for lookout in lookouts]
    lookouts[1].judge([standing(1)])
    for _ in range(3):
        now[0] += 5
        lookouts[1].judge([standing(1)])
        for alarm in (alarms[1], alarms[0]):
            alarm.look(store)
    assert store.value == 1
    assert (tmp_path / "pc1" / REQUEST).exists()
