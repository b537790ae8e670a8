"""The runner's own parts, without a cluster: what is counted in a rank, and when it stops."""

import json
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ENVIRONMENT
from programs import run_forked
from servers import free_port
from winfleet.core.status import STOP_AT, STOPPING
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper
from winfleet.rank.watching import batch_size

Pair = namedtuple("Pair", "image label")  # noqa: PYI024 (as torch's own default collation makes them)


# In a process of its own, whose end is the meters' threads' too.
LAST_WORDS = """
import json, sys, time
from pathlib import Path
from winfleet.rank.meter import Meter

sys.setswitchinterval(1e-6)
folders = [Path(str(number)) for number in range(150)]
for folder in folders:
    folder.mkdir()
    Meter(folder).finish()
time.sleep(0.05)
print([json.loads((folder / "rank0.json").read_text("utf-8"))["state"] for folder in folders].count("ended"))
"""


# A user's script that leaves its process group to the end of Python, and looks at it after everything of ours has run.
GROUP_AT_THE_END = """
import atexit, sys
import torch, torch.distributed as dist
from accelerate import Accelerator

atexit.register(lambda: print("at the end", dist.is_initialized()))
accelerator = Accelerator(cpu=True)
model = accelerator.prepare(torch.nn.Linear(1, 1))
model(torch.ones(1)).sum().backward()
if sys.argv[1:] == ["fails"]:
    raise ValueError("no good end")
"""
RUN = """
import atexit, sys
import torch.distributed as dist

atexit.register(lambda: print("in the end", dist.is_initialized()))
from winfleet import runner

sys.argv = ["runner", *sys.argv[1:]]
runner.main()
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test moves itself."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])


def train(meter: Meter, stepped: torch.optim.Optimizer, *losses: float) -> None:
    """One optimizer step of micro-batches of 4 samples."""
    for loss in losses:
        meter.batch(4)
        meter.backward(torch.tensor(loss, requires_grad=True))
    meter.step(stepped)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(8, 3), 8), (torch.tensor(1.0), 1), ([torch.zeros(4), torch.zeros(9)], 4), ((), 0), ("text", 0),
        ({"ids": torch.zeros(5, 2)}, 5), ({"names": ["a", "b"], "x": {"y": torch.zeros(6)}}, 6), (None, 0),
        (Pair(torch.zeros(7, 1), torch.zeros(7)), 7), ([torch.zeros(0), torch.zeros(3)], 3),
    ],
)  # fmt: skip
def test_the_size_of_a_batch_is_that_of_its_first_tensor(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


def test_steps_are_those_of_the_first_optimizer(clock: list[float]) -> None:
    meter, first, second = Meter(None), optimizer(), optimizer()
    for _ in range(3):
        train(meter, first, 1.0)
        meter.step(second)
    assert (meter.count, meter.values["count"], meter.values["step"]) == (3, 3, 3)


def test_rates_are_of_what_was_trained_on_in_the_last_ten_seconds(clock: list[float]) -> None:
    meter, sgd = Meter(None), optimizer()
    train(meter, sgd, 1.0)
    assert (meter.values["samples_per_second"], meter.values["steps_per_second"]) == (None, None)
    for _ in range(5):
        clock[0] += 1
        meter.batch(100)  # drawn, never trained on
        meter.batch(2)
        for _ in range(3):  # a batch counts once
            meter.backward(torch.tensor(1.0, requires_grad=True))
        train(meter, sgd, 1.0)
    assert (meter.values["samples_per_second"], meter.values["steps_per_second"]) == (6.0, 1.0)
    for _ in range(30):
        clock[0] += 0.5
        train(meter, sgd, 1.0, 2.0)
    assert (meter.values["samples_per_second"], meter.values["steps_per_second"]) == (16.0, 2.0)


def test_a_step_has_the_mean_loss_of_its_micro_batches_in_the_metrics(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WINFLEET_GENERATION", "2")
    meter, sgd = Meter(tmp_path), optimizer()
    for losses in ([1.0, 2.0], [5.0], [7.0, 9.0]):
        meter.backward(torch.ones(2, requires_grad=True))  # no loss: its gradient is given
        train(meter, sgd, *losses)
        clock[0] += 0.2
    meter.finish()
    lines = [json.loads(line) for line in (tmp_path / "metrics-rank3.jsonl").read_text("utf-8").splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.5), (3, 8.0)], "twice a second, and the last one"
    assert [(line["time"], line["generation"]) for line in lines] == [(1000.0, 2), (1000.6, 2)]
    beat = json.loads((tmp_path / "rank3.json").read_text("utf-8"))
    assert (beat["rank"], beat["state"], beat["count"], beat["loss"]) == (3, "ended", 3, 8.0)


def test_the_last_words_of_a_rank_stay(tmp_path: Path) -> None:
    (tmp_path / "last_words.py").write_text(LAST_WORDS, "utf-8")
    done = run_forked(tmp_path, tmp_path / "last_words.py")
    assert done.stdout == "150\n", f"an older beat came after them {done.stderr}"


@pytest.mark.parametrize(("words", "ended"), [([], False), (["fails"], True)], ids=["good", "bad"])
def test_a_script_that_leaves_its_group_to_the_end_is_taken_out_of_it(
    tmp_path: Path, words: list[str], ended: bool
) -> None:
    (tmp_path / "script.py").write_text(GROUP_AT_THE_END, "utf-8")
    (tmp_path / "run.py").write_text(RUN, "utf-8")
    one = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    environment = {**ENVIRONMENT, **one, "WINFLEET_BACKEND": "gloo"}
    done = run_forked(tmp_path, tmp_path / "run.py", "script.py", *words, environment=environment)
    assert done.stdout.splitlines() == ["at the end True", f"in the end {ended}"], done.stderr
    assert done.returncode == int(ended)


def test_the_scripts_own_step_goes_on_after_a_resume() -> None:
    meter, sgd = Meter(None), optimizer()
    train(meter, sgd, 1.0)
    meter.logged({"loss": 1.0}, step=None)
    assert meter.values["step"] == 1
    meter.logged({"loss": 1.0}, step=101)
    assert meter.values["step"] == 101
    train(meter, sgd, 1.0)
    assert (meter.values["step"], meter.values["count"]) == (102, 2)


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"max_steps": 300, "total_steps": 5}, 300), ({"max_steps": -1, "num_training_steps": 7}, 7), ({"total_steps": 9.5}, None),
        ({"max_train_steps": "8"}, None), ({}, None),
    ],
)  # fmt: skip
def test_the_number_of_steps_comes_from_the_trackers_configuration(config: dict[str, Any], steps: int | None) -> None:
    meter = Meter(None)
    meter.configured(config)
    assert meter.values["steps"] == steps


def test_a_rank_stops_after_the_step_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("winfleet.rank.stopper.HOLD_SECONDS", 0.2)
    meter, sgd = Meter(None), optimizer()
    stopper = Stopper(meter, tmp_path)
    for text in (None, "nonsense", "3"):
        if text is not None:
            (tmp_path / STOPPING).touch()
            (tmp_path / STOP_AT).write_text(text)
        stopper.look()
        train(meter, sgd, 1.0)
    meter.logged({}, step=13)
    with pytest.raises(SystemExit) as stopped:
        stopper.look()
    assert stopped.value.code == 0
    assert meter.values["stopped"] is True
    assert capsys.readouterr().out == "winfleet: asked to stop after step 13\n"
    stopper.look()  # a script that goes on all the same is not asked twice
    Stopper(meter, None).look()  # without a run's folder nobody can ask


def test_a_rank_holds_still_until_the_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("winfleet.rank.stopper.HOLD_SECONDS", 60.0)
    (tmp_path / STOPPING).touch()
    naming = threading.Timer(0.3, (tmp_path / STOP_AT).write_text, ["2"])
    naming.start()
    begin = time.monotonic()
    Stopper(Meter(None), tmp_path).look()
    assert (tmp_path / STOP_AT).exists(), "it was held until then"
    assert time.monotonic() - begin < 50, "and no longer"
    naming.join()


def test_a_step_begins_with_the_first_micro_batch() -> None:
    meter, sgd = Meter(None), optimizer()
    assert meter.between_steps()
    meter.backward(torch.tensor(1.0, requires_grad=True))
    assert not meter.between_steps()
    assert meter.values["state"] == "training"
    meter.step(sgd)
    assert meter.between_steps()
