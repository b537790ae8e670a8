"""train.py for real: two processes on the CPU, as one machine, as two machines that are interrupted, and short of memory."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ENVIRONMENT, SCRIPTS
from programs import call, output_of, run_ranks
from safetensors.torch import load_file

TRAIN = Path(__file__).parents[1] / "train"
STEPS = 6
SETTINGS = f"""
training:
  batch_size: 2
  gradient_accumulation_steps: 2
  steps: {STEPS}
  warmup_steps: 2
  eval_every: 4
  eval_batches: 1
  checkpoint_every: 2
  log_every: 1
  context: 16
  layers: 1
  heads: 2
  width: 16
"""

# Each rank is the one process of a machine of its own, with its own folder. With STOP_AFTER it ends as a launcher may end
# it: by a checkpoint and an exit out of the first backward pass after that step.
MACHINE = """
import os, runpy, sys
from pathlib import Path

from accelerate import Accelerator

os.environ["LOCAL_RANK"] = "0"
os.chdir("pc" + os.environ["RANK"])
backward = Accelerator.backward


def watched(accelerator, loss):
    step = accelerator._custom_objects[0].step
    if str(step) == os.environ.get("STOP_AFTER"):
        accelerator.save_state(f"output/checkpoints/step_{step:06d}")
        accelerator.wait_for_everyone()
        raise SystemExit(0)
    backward(accelerator, loss)


Accelerator.backward = watched
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train(script: Path, *arguments: str | Path, cwd: Path, **extra: str) -> str:
    """What two processes of the script print."""
    kept = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("ACCELERATE_")}
    environment = {**kept, "ACCELERATE_USE_CPU": "true", "WINFLEET_RUN": "test", **extra}
    settings = ("--config", cwd / "settings.yaml", "--data", cwd / "text")
    return run_ranks(cwd, script, *arguments, *settings, ranks=2, environment=environment)


def validation_losses(printed: str) -> dict[int, float]:
    found = re.findall(r"^step (\d+)/\d+  validation loss (\S+)$", printed, re.MULTILINE)
    assert len(found) == len(dict(found)), f"printed by more than one process:\n{printed}"
    return {int(step): float(loss) for step, loss in found}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "output" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with settings, a text, and pc0 and pc1 for the two machines."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    (folder / "machine.py").write_text(MACHINE, encoding="utf-8")
    output_of(sys.executable, TRAIN / "make_text.py", folder / "text")
    for machine in ("pc0", "pc1"):
        (folder / machine).mkdir()
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    """What an uninterrupted run on one machine printed."""
    return train(TRAIN / "train.py", cwd=folder)


def test_make_text_leaves_what_is_there(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (folder / "text").iterdir()}
    assert sizes.keys() == {"train.txt", "validation.txt"}
    assert 3_500_000 < sizes["train.txt"] <= 4_000_000
    assert 100_000 < sizes["validation.txt"] <= 200_000

    made = (folder / "text" / "train.txt").stat().st_mtime_ns
    again = output_of(sys.executable, TRAIN / "make_text.py", "text", folder=folder)
    assert again == "`text` has train.txt and validation.txt already\n"
    assert (folder / "text" / "train.txt").stat().st_mtime_ns == made


def test_make_text_does_not_mix_with_other_files(folder: Path) -> None:
    refused = call(sys.executable, TRAIN / "make_text.py", "pc0/..", folder=folder)
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: `pc0/..` has files in it, but not both of train.txt and validation.txt\n"
        "hint: name a folder that does not exist yet, or empty this one\n"
    )


def test_it_says_what_it_does(whole: str) -> None:
    lines = whole.splitlines()
    assert lines[:3] == [
        "model of 11,760 parameters, mixed precision no, device cpu:0",
        "effective batch 8 = 2 batch_size x 2 gradient_accumulation_steps x 2 processes",
        "no checkpoint that all processes hold: starts at step 0",
    ]
    losses = validation_losses(whole)
    assert list(losses) == [0, 4, STEPS]
    assert 5.3 < losses[0] < 5.7
    assert losses[STEPS] < losses[4] < losses[0]

    rates = re.findall(r"^step (\d)/6  loss \d\.\d{4}  lr (\S+)$", whole, re.MULTILINE)
    assert [int(step) for step, _ in rates] == [1, 2, 3, 4, 5, 6]
    once_a_step = [2e-3, 2e-3, 1.74e-3, 1.1e-3, 4.64e-4, 2e-4]  # Accelerate would go twice as far with two processes
    assert [float(rate) for _, rate in rates] == once_a_step


@pytest.mark.usefixtures("whole")
def test_it_leaves_the_model_two_checkpoints_and_a_wandb_run_for_each_process(folder: Path) -> None:
    assert checkpoints(folder) == ["step_000004", "step_000006"]
    assert sum(weights.numel() for weights in load_file(folder / "output/model/model.safetensors").values()) == 11_760
    assert len(list((folder / "output" / "wandb").glob("offline-run-*/run-*.wandb"))) == 2
    assert {path.name for path in folder.iterdir()} == {"machine.py", "output", "pc0", "pc1", "settings.yaml", "text"}


@pytest.mark.proof
def test_it_goes_on_from_the_newest_checkpoint_that_both_machines_hold(folder: Path, whole: str) -> None:
    stopped = train(folder / "machine.py", TRAIN / "train.py", cwd=folder, STOP_AFTER="3")
    assert list(validation_losses(stopped)) == [0]
    for machine in ("pc0", "pc1"):
        assert checkpoints(folder / machine) == ["step_000002", "step_000003"]
        shutil.copytree(folder / "output/checkpoints/step_000004", folder / machine / "output/checkpoints/step_000004")
    last_file = folder / "pc1/output/checkpoints/step_000004/custom_checkpoint_0.pkl"
    last_file.write_bytes(last_file.read_bytes()[:-100])  # as if the power had failed during the write

    resumed = train(folder / "machine.py", TRAIN / "train.py", cwd=folder)
    assert "newest checkpoint that all processes hold: resumes after step 3" in resumed.splitlines()
    assert validation_losses(resumed)[STEPS] == validation_losses(whole)[STEPS]
    for machine in ("pc0", "pc1"):
        assert checkpoints(folder / machine) == ["step_000004", "step_000006"]
        progress = torch.load(folder / machine / "output/checkpoints/step_000006/custom_checkpoint_0.pkl")
        assert (progress["step"], list(progress["validation_losses"])) == (STEPS, [0, 3, 4, STEPS])
        expected = load_file(folder / "output/model/model.safetensors")
        for name, weights in load_file(folder / machine / "output/model/model.safetensors").items():
            torch.testing.assert_close(weights, expected[name], msg=f"{name} on {machine}")


def test_out_of_memory_halves_the_batch_and_the_training_stays_the_same(folder: Path, whole: str) -> None:
    (folder / "halved").mkdir()
    memory = [str(SCRIPTS / "small_gpu.py"), "1", "3", "1", "0"]  # on rank 1, after step 3, for 1 of its 2 samples
    command = [str(TRAIN / "train.py"), "--config", "../settings.yaml", "--data", "../text"]
    launch = [sys.executable, "-m", "winfleet.launch", "--auto", "--processes", "2"]
    printed = output_of(*launch, "--", *memory, *command, folder=folder / "halved")
    assert "effective batch 8 = 1 batch_size x 4 gradient_accumulation_steps x 2 processes" in printed.splitlines()
    first, second = printed.split("resumes after step 2\n")
    losses = {**validation_losses(first), **validation_losses(second)}
    assert losses == pytest.approx({**validation_losses(whole), 2: losses[2]}, abs=1e-3)
    course = dict(re.findall(r"^step (\d)/6  loss (\S+) ", whole, re.MULTILINE))
    assert {**dict(re.findall(r"^step (\d)/6  loss (\S+) ", first + second, re.MULTILINE))} == course
    expected = load_file(folder / "output/model/model.safetensors")
    for name, weights in load_file(folder / "halved/output/model/model.safetensors").items():
        torch.testing.assert_close(weights, expected[name], msg=name, atol=1e-4, rtol=1e-3)

    status = json.loads(next(folder.glob("halved/logs/*/*/status.json")).read_text("utf-8"))
    said = [event["text"] for event in status["events"]]
    (memory_event,) = [text for text in said if text.startswith("OOM on rank 1 of ")]
    assert memory_event.partition(" at ")[2] == (
        "step 3: batch_size 2 -> 1, gradient_accumulation_steps 2 -> 4; all ranks start again from the newest checkpoint"
    )
    assert "Goes on after step 2: 1 step repeated" in said
    assert (folder / "settings.yaml").read_text("utf-8") == SETTINGS
    proposed = yaml.safe_load((folder / "settings.oom.yaml").read_text("utf-8"))
    assert proposed == {"training": {"batch_size": 1, "gradient_accumulation_steps": 4}}
