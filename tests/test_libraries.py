"""Whole trainings with the libraries that people use, on two hosts with a disk each: the numbers shown, a stop, and going on."""

import json
import re
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPTS
from programs import output_of
from report_runs import brought_home
from run_hosts import RunHosts, losses
from winfleet import report
from winfleet.core.plan import Plan
from winfleet.rank.trial import Trial
from winfleet.rehearsal import summary
from winfleet.rehearsal.controller import Outcome, Rehearsed
from winfleet.rehearsal.links import Link
from winfleet.view.speed import speed_of

FOLDER = SCRIPTS / "libraries"


def made(folder: Path, name: str) -> RunHosts:
    return RunHosts(folder, FOLDER / name)


def logged(text: str) -> dict[int, float]:
    """The losses that Hugging Face's Trainer kept, by step."""
    told: dict[str, Any] = json.loads(text.partition("RESULT ")[2].splitlines()[0])
    return {line["step"]: line["loss"] for line in told["log"] if "loss" in line}


def test_trainer_stops_with_its_own_checkpoint_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    hosts = made(tmp_path / "stopped", "hf_trainer.py")
    hosts.launch("--limit", "1", stop_at=11)
    stopped = hosts.rank(1)
    assert [hosts.status(number).state for number in (1, 2)] == ["stopped", "stopped"]
    assert "BEHIND" not in hosts.log(1) + hosts.log(2)
    assert not (hosts.work(1) / "final").exists()
    step = stopped.step
    assert step == 13
    own, kept = f"out/checkpoint-{step}", "out/checkpoint-10"
    assert (hosts.work(1) / own / "optimizer.pt").is_file()
    assert (hosts.work(1) / kept).is_dir(), "nothing is rotated away for a stop"
    assert (stopped.steps, stopped.micro_batches, stopped.batch_size, stopped.loss_told) == (24, 4, 2, True)
    assert stopped.loss == pytest.approx(4.55, abs=0.1), "not a quarter of it"
    assert stopped.samples_per_second == pytest.approx(8 * (stopped.steps_per_second or 0), rel=0.01)

    assert not (hosts.work(2) / own / "optimizer.pt").exists(), "rank 0's host alone has it"
    hosts.launch("--limit", "1")
    said = hosts.log(1)
    assert (
        f"winfleet: goes on from {own}, the newest checkpoint of this run: Trainer.train(resume_from_checkpoint=...)"
        in said
    )
    assert [hosts.rank(number).begun for number in (1, 2)] == [step, step]
    assert [hosts.rank(number).step for number in (1, 2)] == [24, 24]
    assert "BEHIND" in said
    assert hosts.outputs(1) >= {"final/model.safetensors", "out/checkpoint-24/optimizer.pt"}

    whole = made(tmp_path / "whole", "hf_trainer.py")
    whole.launch()
    assert logged(said) == pytest.approx(logged(whole.log(1)), abs=1e-4)
    assert whole.rank(1).loss == pytest.approx(logged(whole.log(1))[24])


def test_lightning_stops_with_its_own_checkpoint_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    hosts = made(tmp_path / "stopped", "lightning_fit.py")
    hosts.launch(stop_at=18)  # in the second epoch
    stopped = hosts.rank(1)
    step = stopped.step
    own = f"lightning_logs/version_0/checkpoints/epoch=1-step={step}.ckpt"
    assert hosts.status(1).state == "stopped"
    assert "BEHIND" not in hosts.log(1) + hosts.log(2)
    assert (hosts.work(1) / own).is_file()
    assert (stopped.steps, stopped.micro_batches, stopped.loss_told) == (48, 2, True)

    assert not (hosts.work(2) / own).exists(), "rank 0's host alone has it"
    before = losses(hosts.log(1))
    hosts.launch()
    assert f"winfleet: goes on from {own}, the newest checkpoint of this run: Trainer.fit(ckpt_path=...)" in hosts.log(
        1
    )
    assert [hosts.rank(number).begun for number in (1, 2)] == [step, step]
    assert "BEHIND 48" in hosts.log(1)
    assert any(name.endswith("step=48.ckpt") for name in hosts.outputs(1))

    whole = made(tmp_path / "whole", "lightning_fit.py")
    whole.launch()
    assert before | losses(hosts.log(1)) == pytest.approx(losses(whole.log(1)), abs=1e-5)
    assert whole.rank(1).loss == pytest.approx(losses(whole.log(1))["2 31"], abs=1e-5)


def test_lightning_of_another_size_is_refused_with_the_right_values(tmp_path: Path) -> None:
    hosts = made(tmp_path, "lightning_fit.py")
    hosts.launch("--nodes", "1")
    said = hosts.said
    assert "Trainer(devices=1, num_nodes=1) makes 1 of the run's 2 processes" in said
    assert "hint: Trainer(devices=1, num_nodes=2)" in said


def test_trl_with_lora_stops_with_its_own_checkpoint(tmp_path: Path) -> None:
    hosts = made(tmp_path, "sft.py")
    hosts.launch(stop_at=3)
    stopped = hosts.rank(1)
    assert (hosts.work(1) / f"out/checkpoint-{stopped.step}" / "adapter_model.safetensors").is_file()
    assert "BEHIND" not in hosts.log(1) + hosts.log(2)
    assert "'loss'" not in hosts.log(1), "as by default, it has told no loss yet"
    assert stopped.loss == pytest.approx(4.1, abs=0.3), "of the library's shares, and not a quarter of it"
    assert (stopped.steps, stopped.micro_batches, stopped.loss_told) == (20, 4, False)


def nano(folder: Path) -> RunHosts:
    """nanoGPT's files. Each token is always followed by the same one, so that one batch is as hard as another."""
    tokens = [3]
    while len(tokens) < 2_000:
        tokens.append((5 * tokens[-1] + 3) % 16)
    data = array("H", tokens).tobytes()
    files = {
        "configurator.py": (FOLDER / "nano_configurator.py").read_bytes(), "data/cycle/train.bin": data, "data/cycle/val.bin": data,
        "config/train_cycle.py": b"""dataset, out_dir = 'cycle', 'out-cycle'
eval_interval, max_iters, learning_rate = 5, 23, 0.05
batch_size, block_size, gradient_accumulation_steps = 4, 20, 8
device, backend = 'cpu', 'gloo'
""",
    }  # fmt: skip
    return RunHosts(folder, FOLDER / "nano.py", files)


def test_nanogpts_shape_goes_on_from_rank_0s_file_and_its_own_division_and_scaling_are_undone(tmp_path: Path) -> None:
    hosts = nano(tmp_path)
    hosts.launch("config/train_cycle.py", stop_at=12)
    assert [(hosts.status(number).state, hosts.rank(number).step) for number in (1, 2)] == [("stopped", 14)] * 2
    assert not (hosts.work(2) / "out-cycle").exists(), "rank 0's host alone has it"
    before = losses(hosts.log(1))
    hosts.launch("config/train_cycle.py", "--init_from=resume")
    said = hosts.said
    again, whole = losses(hosts.log(1)), losses(hosts.uninterrupted("config/train_cycle.py"))
    assert [next(iter(before)), next(iter(again)), next(reversed(again))] == ["0", "10", "23"]
    assert whole["10"] < whole["0"] - 1, "nobody could begin anew unseen"
    assert before | again == pytest.approx(whole, abs=0.05), (
        "batches are others, as it does not keep its random numbers"
    )
    for number in (1, 2):
        rank = hosts.rank(number)
        assert rank.loss == pytest.approx(again["23"], rel=0.2), "not a quarter of it"
        assert (rank.samples_per_second, rank.micro_batches, rank.step, rank.apart) == (None, 4, 14, "")
        assert rank.optimizer_begun == 10
        assert (rank.steps_per_second or 0) > 1
    assert "Not distributed" not in said
    assert not [event for event in hosts.events(1) if "begin" in event]
    assert "out-cycle/ckpt.pt" in hosts.outputs(1)

    (hosts.work(1) / "validated.py").write_text(
        "import runpy, torch\nwith torch.no_grad():\n    list(torch.utils.data.DataLoader(range(6), 3))\nrunpy.run_path('nano.py')\n"
    )
    told = {"WINFLEET_TRIAL": "3", "WINFLEET_TRIAL_FILE": str(tmp_path / "trial.json")}
    command = (sys.executable, "-m", "winfleet.runner", "validated.py", "config/train_cycle.py")
    output_of(*command, folder=hosts.work(1), environment=told)
    trial = Trial.parse(json.loads((tmp_path / "trial.json").read_text("utf-8")))
    assert trial
    assert (trial.samples, trial.accumulation) == (0, 8), "what a validation draws is no training's batch"
    plan = Plan.load(hosts.run_folder(1) / "plan.json")
    link = Link(source="pc1", target="pc2", bytes_per_second=1e8, round_trip_seconds=2e-4)
    measured = Rehearsed(links=(link,), trials={"CPU": trial})
    prediction = summary.predict_plan(plan, measured)
    assert prediction
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "prediction.json").write_text(prediction.to_json(), "utf-8")
    run = brought_home(tmp_path / "home", plan, [hosts.run_folder(number) for number in (1, 2)])
    for text in (summary.describe(plan, Outcome(measured=measured), prediction), report.render(run)):
        assert re.search(r"[Ss]teps(/s| per second)", text)
        assert not re.search(r"[Ss]amples(/s| per second)", text)
    assert speed_of(run).value == pytest.approx(min(track.mean[6] or 0.0 for track in run.metrics))


def test_accelerates_stop_is_named_as_the_script_names_so_that_it_goes_on_there(tmp_path: Path) -> None:
    hosts = made(tmp_path, "like_complete.py")
    hosts.launch(stop_at=24)  # in the second epoch
    step = hosts.rank(1).step
    assert step == 26, "steps and not epochs"
    before = losses(hosts.log(1))
    own = next((hosts.work(1) / "out").glob("step_*"))
    assert int(own.name.removeprefix("step_")) == step
    assert [path.name for path in (hosts.work(2) / "out" / own.name).iterdir()] == ["random_states_1.pkl"]
    hosts.launch("--resume", f"out/{own.name}")
    again = losses(hosts.log(1))
    assert next(iter(again)) == str(step + 1)
    assert before | again == pytest.approx(losses(hosts.uninterrupted()), abs=1e-5)
    assert hosts.rank(1).loss == pytest.approx(again["60"], abs=1e-5), "as the script prints it"
    newest = {f"out/epoch_2/{name}" for name in ("model.safetensors", "optimizer.bin", "random_states_0.pkl")}
    assert hosts.outputs(1) >= newest
    assert hosts.outputs(2) == {"out/epoch_2/random_states_1.pkl"}


def test_a_stop_is_obeyed_in_the_second_stage(tmp_path: Path) -> None:
    hosts = made(tmp_path, "stages.py")
    hosts.launch(stop_at=15)
    assert [hosts.status(number).state for number in (1, 2)] == ["stopped", "stopped"]
    assert [hosts.rank(number).step for number in (1, 2)] == [17, 17]
    assert (hosts.work(1) / "output" / "checkpoints" / "step_000017" / "optimizer_1.bin").is_file()
