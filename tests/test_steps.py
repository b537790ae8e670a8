"""What counts as a step, a loss and a sample in scripts of all shapes: by a rank's own parts, with real optimizers and graphs."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.parameter import Parameter
from winfleet.core.status import Rank, Status, progress_line
from winfleet.rank.losses import read, undivided, watch_scalers
from winfleet.rank.meter import Meter
from winfleet.rank.numbering import Numbering
from winfleet.rank.turns import Turns
from winfleet.view.table import table


def counted(order: str, *, made: str = "") -> list[int]:
    """Steps so far, after each letter's optimizer has stepped; those not in `made` are made when they first step."""
    turns, total, counts = Turns(), 0, []
    optimizers: dict[str, torch.optim.Optimizer] = {}

    def make(name: str) -> torch.optim.Optimizer:
        optimizers[name] = torch.optim.SGD([Parameter(torch.ones(1))])
        turns.made(optimizers[name])
        return optimizers[name]

    for name in made:
        make(name)
    for name in order:
        total += turns.stepped(optimizers.get(name) or make(name))
        counts.append(total)
    return counts


@pytest.mark.parametrize(
    ("order", "made", "steps"),
    [
        ("AAAA", "", 4),
        ("AAAABBBB", "AB", 8),  # two stages, both optimizers made in the beginning
        ("AAAABBBBCCCC", "", 12),  # folds, each with an optimizer of its own
        ("ABCDE", "", 5),
        ("GDGDGDGD", "GD", 4),  # a GAN
        ("ABCABCABC", "ABC", 3),
        ("DDDDDGDDDDDG", "DG", 10),  # which of its steps are iterations nobody can tell; those of the leading one count
        ("DGGDGGDGGDGG", "DG", 4),
        ("GDGDGDGDBBBB", "GDB", 8),
        ("AAAAE" * 3, "AE", 12),  # another one, every fourth step
    ],
)
def test_optimizers_that_take_turns_count_once_and_consecutive_ones_add_up(order: str, made: str, steps: int) -> None:
    counts = counted(order, made=made)
    assert counts[-1] == steps
    assert counts == sorted(counts), "the count never goes back"


def test_a_stage_without_its_first_optimizer_is_found_after_some_steps() -> None:
    assert counted("GDGD" + "D" * 30, made="GD")[-1] >= 30
    assert counted("A" * 20 + "B" * 20 + "A" * 20 + "B" * 20, made="AB")[-1] == 80


def test_an_iteration_begins_once_all_have_taken_their_turn() -> None:
    meter = Meter(None)
    first, second = (torch.optim.SGD([Parameter(torch.ones(1))]) for _ in "ab")
    seen = []
    for _ in range(3):
        for optimizer in (first, second):
            seen.append(meter.between_steps())
            meter.backward(torch.tensor(1.0, requires_grad=True))
            meter.step(optimizer)
    assert seen[2:] == [True, False, True, False]
    assert meter.values["gradient_bytes"] == 8


def loss() -> torch.Tensor:
    return (torch.nn.Parameter(torch.ones(2)) * torch.tensor([1.0, 3.0])).sum()  # 4


@pytest.mark.parametrize(
    ("made", "value"),
    [
        (lambda: loss() / 4, 4.0), (lambda: loss() * 0.25, 4.0), (lambda: 0.25 * loss(), 4.0), (lambda: (loss() / 4).to(torch.float64), 4.0),
        (lambda: loss().div_(4), 4.0), (lambda: loss() / 2, 2.0), (loss, 4.0), (lambda: loss() / 4 / 4, 1.0),
        (lambda: torch.stack([loss() / 4]).mean(), 1.0), (lambda: loss() / loss(), 1.0),
    ],
)  # fmt: skip
def test_a_last_division_by_the_number_of_backward_passes_is_undone(
    made: Callable[[], torch.Tensor], value: float
) -> None:
    assert [float(one) for one in undivided([read(made())] * 4, 4, None)] == [value] * 4
    assert [float(one) for one in undivided([read(made())], 1, None)] == [float(made().detach())]


def test_the_last_step_of_an_epoch_is_divided_as_the_others() -> None:
    assert [float(one) for one in undivided([read(loss() / 4)] * 3, 3, 4)] == [4.0] * 3


def test_a_gradscalers_factor_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp.GradScaler, "scale", torch.amp.GradScaler.scale)
    watch_scalers()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for made in (scaler.scale(loss() / 4), scaler.scale(loss()) / 4):
        assert [float(one) for one in undivided([read(made)] * 4, 4, None)] == [4.0] * 4
    assert float(read(scaler.scale(loss())).value) == 4.0


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ([(1, 1), (2, 2), (10, 10)], 10), ([(1, 101), (2, 102)], 102), ([(10, 0), (20, 1), (30, 2)], 30), ([(10, 1), (20, 2)], 20),
        ([(5, 500), (10, 505)], 505), ([(1, 4), (2, 8), (3, 12)], 12), ([(1, 0), (2, 1), (3, 2)], 3), ([(0, 3), (100, 4)], 100),
        ([(10, 10), (20, 20), (20, 1), (30, 30)], 30), ([(10, 10), (20, 20), (25, 1), (30, 30)], 30),
    ],
    ids=["steps", "goes on", "epochs", "epochs from 1", "goes on, rarely", "micro-batches", "from 0", "epochs after a resume",
         "both at once", "both by turns"],
)  # fmt: skip
def test_a_logged_step_counts_where_it_goes_on_as_the_optimizer_does(told: list[tuple[int, int]], shown: int) -> None:
    numbering = Numbering()
    for count, step in told:
        numbering.tell(count, step)
    assert numbering.shown(told[-1][0]) == shown


def test_steps_are_not_epochs_in_the_status() -> None:
    meter, sgd = Meter(None), torch.optim.SGD([Parameter(torch.ones(1))])
    for epoch in range(3):
        for _ in range(10):
            meter.backward(torch.tensor(1.0, requires_grad=True))
            meter.step(sgd)
        meter.logged({"train_loss": torch.tensor(0.5)}, step=epoch)
    assert (meter.values["step"], meter.values["begun"], meter.values["loss"]) == (30, None, 0.5)


def test_batches_drawn_ahead_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    meter, sgd = Meter(None), torch.optim.SGD([Parameter(torch.ones(1))])
    training, validation = Meter(None), Meter(None)  # as good as any two objects
    for _ in range(4):
        for _ in range(4):
            meter.batch(2, source=training)
        for _ in range(4):
            meter.backward(torch.tensor(1.0, requires_grad=True))
        meter.step(sgd)
        meter.batch(100, source=validation)
        with torch.no_grad():
            meter.batch(100, source=training)
        now[0] += 1
    assert (meter.values["samples_per_second"], meter.values["batch_size"]) == (8.0, 2)


def test_what_one_rank_draws_for_all_is_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    meter, sgd, source = Meter(None), torch.optim.SGD([Parameter(torch.ones(1))]), Meter(None)
    for _ in range(3):
        with meter.one_batch(source):
            meter.batch(4, 0.5)
            meter.batch(4, 0.5)
        meter.backward(torch.tensor(1.0, requires_grad=True))
        meter.step(sgd)
        now[0] += 1
    assert (meter.values["samples_per_second"], meter.clock.data) == (8.0, 3.0)


def test_shares_of_a_loss_are_added(tmp_path: Path) -> None:
    meter, sgd = Meter(tmp_path), torch.optim.SGD([Parameter(torch.ones(1))])
    meter.shares = True
    for _ in range(4):
        meter.backward(torch.tensor(1.5, requires_grad=True))
    meter.step(sgd)
    assert meter.values["loss"] == 6.0
    meter.logged({"loss": 6.25, "train_loss": 3.0, "lr": 0.1}, losses=("loss",))
    assert (meter.values["loss"], meter.values["loss_told"]) == (6.25, True)
    meter.finish()
    lines = [json.loads(line) for line in (tmp_path / "metrics-rank0.jsonl").read_text("utf-8").splitlines()]
    assert [line.get("loss") for line in lines] == [6.0, None, 6.25], "what the script logs is the curve from then on"


def test_without_a_dataloader_steps_are_shown() -> None:
    ranks = tuple(Rank(rank=rank, state="training", step=9, steps=19, steps_per_second=2.5) for rank in (0, 1))
    shown = Status(run="r", host="pc1", machine_rank=0, state="running", world_size=2, ranks=ranks)
    assert progress_line([shown]) == "step 9/19 · 2.5 steps/s · 0:04 left · 2/2 ranks up"
    assert "steps/s" in table([shown])
    assert "samples/s" not in table([shown])


def test_the_loss_is_the_scripts_own_where_one_rank_alone_logs() -> None:
    ranks = (
        Rank(rank=0, state="training", step=9, loss=6.5, loss_told=True),
        Rank(rank=1, state="training", step=9, loss=1.6),
    )
    shown = Status(run="r", host="pc1", machine_rank=0, state="running", world_size=2, ranks=ranks)
    assert progress_line([shown]) == "step 9 · loss 6.500 · 2/2 ranks up"
