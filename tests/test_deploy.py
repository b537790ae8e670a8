"""The playbooks as a user types them, on two workers of this machine."""

import json
import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, SCRIPTS, Fleet, patience, processes_with

pytestmark = pytest.mark.ansible

SECRET = "s3cret-0f-the-test"


def test_the_documented_example_of_an_own_project_trains_again_and_is_removed(fleet: Fleet) -> None:
    guide = (ROOT / "docs" / "examples" / "own_project" / "README.md").read_text("utf-8")
    typed = shlex.split(next(line for line in guide.splitlines() if line.startswith("ansible-playbook ")))
    assert typed[:4] == ["ansible-playbook", "deploy_and_train.yml", "-i", "inventory"]
    words = [word for word in typed[4:] if word != "-e"]
    assert "fleet_command=train.py --epochs 3" in words
    done = fleet.play("deploy_and_train.yml", *words, "fleet_run=own")
    assert done.returncode == 0, done.stdout
    assert "Run own: 2 processes on worker1, worker2" in done.stdout
    assert "Training started with 2 processes across 2 nodes" in done.stdout
    home = fleet.logs / "own"
    assert re.search(rf"training loss fell from [0-9.]+ to [0-9.]+ · .*report: .*{home.name}/report.html", done.stdout)
    assert (home / "model.pt").exists(), "what the command wrote on rank 0's host is brought home"
    assert "epoch 3/3" in (home / "worker1" / "rank0.log").read_text("utf-8")
    assert json.loads((home / "plan.json").read_text("utf-8"))["command"] == ["train.py", "--epochs", "3"]
    assert not (fleet.folder / "worker1" / "code").joinpath("README.md").exists()

    longer = [word.replace("--epochs 3", "--epochs 100000") for word in words]
    again = fleet.play("deploy_and_train.yml", *longer, "fleet_run=own2", "fleet_follow=false")
    assert again.returncode == 0, again.stdout
    assert "Send what the host lacks" not in again.stdout, "nothing changed, so nothing is sent"

    fleet.wait_for_step("own2", 2)
    (fleet.folder / "worker2" / "notes.txt").write_text("of the user")
    removed = fleet.play("remove.yml", "fleet_stop_grace_seconds=10")
    assert removed.returncode == 0, removed.stdout
    assert not (fleet.folder / "worker1").exists()
    assert [path.name for path in (fleet.folder / "worker2").iterdir()] == ["notes.txt"]
    assert not processes_with(str(fleet.folder))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fleet, str]:
    """Workers with one rank and two, and what Ansible showed of their first run, `first`: with a secret, and with large outputs."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.hosts["worker2"]["fleet_processes"] = 2
    words = ("fleet_command=bare.py --steps 3", "fleet_run=first", "fleet_fetch_limit_mb=0")
    done = fleet.play("deploy_and_train.yml", *words, "-vvv", WANDB_API_KEY=SECRET)
    assert done.returncode == 0, done.stdout
    return fleet, done.stdout


def test_a_secret_reaches_the_ranks_and_is_written_down_nowhere(deployed: tuple[Fleet, str]) -> None:
    fleet, shown = deployed
    assert "secret is there" in (fleet.logs / "first" / "worker1" / "rank0.log").read_text("utf-8")
    holders = [path for path in fleet.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holders == []
    assert SECRET not in shown


def test_large_outputs_stay_where_they_are_and_their_place_is_printed(deployed: tuple[Fleet, str]) -> None:
    fleet, shown = deployed
    place = fleet.home("worker1") / "runs" / "first" / "work"
    assert f"outputs of 0 MB stay on worker1: {place}" in shown
    assert (place / "result.txt").read_text("utf-8") == "3 ranks\n"
    assert not (fleet.logs / "first" / "result.txt").exists()


@pytest.mark.proof
def test_the_generated_configuration_serves_accelerate_launch_by_hand(deployed: tuple[Fleet, str]) -> None:
    fleet, _ = deployed

    def by_hand(host: str) -> "subprocess.Popen[str]":
        config = fleet.home(host) / "runs" / "first" / "accelerate.yaml"
        typed = next(line for line in config.read_text("utf-8").splitlines() if "accelerate launch" in line)
        typed = typed.removeprefix("#").replace("SCRIPT", f"{SCRIPTS / 'bare.py'} --steps 3")
        return subprocess.Popen(
            ["bash", "-c", typed], cwd=config.parent, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE
        )

    first, second = by_hand("worker1"), by_hand("worker2")
    said = [process.communicate(timeout=patience(90))[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    for rank, text in ((0, said[0]), (1, said[1]), (2, said[1])):
        assert f"rank {rank} of 3" in text


def test_linux_workers_need_no_worker_setup(deployed: tuple[Fleet, str]) -> None:
    done = deployed[0].play("worker_setup.yml")
    assert done.returncode == 0
    assert "worker1: not Windows, so winrm_setup, firewall and power_plan are skipped" in done.stdout


def test_a_rank_that_raises_is_named_with_its_exception_and_last_lines(deployed: tuple[Fleet, str]) -> None:
    fleet, _ = deployed
    command = "fleet_command=bare.py --steps 500 --sleep 0.02 --fail-rank 1 --fail-step 20"
    done = fleet.play("deploy_and_train.yml", command, "fleet_run=bad")
    assert done.returncode != 0
    assert (
        "error: run bad failed: rank 1 on worker2 failed (exit code 1): ValueError: on purpose: 손실이 이상합니다"
        in done.stdout
    )
    assert '  | [rank1]:     raise ValueError("on purpose: 손실이 이상합니다")' in done.stdout
    assert "hint: all logs are in " in done.stdout
    assert "ValueError: on purpose" in (fleet.logs / "bad" / "report.html").read_text("utf-8")


def test_the_default_training_leaves_model_checkpoint_and_a_wandb_run_for_each_rank(fleet: Fleet) -> None:
    config = fleet.folder / "small.yaml"
    small = (ROOT / "molecule" / "hosts" / "train_config.yaml").read_text().replace("wandb: false", "wandb: true")
    config.write_text(small)
    words = (f"fleet_project={ROOT / 'train'}", f"fleet_config={config}", "fleet_run=default")
    done = fleet.play("deploy_and_train.yml", *words, 'fleet_command="train.py --data {data} --config {config}"',
                      f"fleet_data={ROOT / 'data' / 'text'}")  # fmt: skip
    assert done.returncode == 0, done.stdout
    fell = re.search(r"validation loss fell from ([0-9.]+) to ([0-9.]+) · 2 processes on 2 hosts", done.stdout)
    assert fell, done.stdout
    assert float(fell[2]) < float(fell[1])
    home = fleet.logs / "default"
    assert (home / "output" / "model" / "model.safetensors").exists()
    assert [path.name for path in (home / "output" / "checkpoints").iterdir()] == ["step_000030"]
    for folder in (home / "output", home / "worker2" / "output"):
        assert list(folder.glob("wandb/offline-run-*/run-*.wandb")), f"no W&B run in {folder}"


@pytest.mark.proof
def test_a_smaller_batch_that_memory_asked_for_is_proposed_beside_the_settings(fleet: Fleet) -> None:
    config = fleet.folder / "mine.yaml"
    config.write_text("per_device_train_batch_size: 2 # as large as it goes\ngradient_accumulation_steps: 3\n")
    command = (
        "small_gpu.py 1 1 1 0 like_trainer.py --config {config}"  # on rank 1, after a step, for 1 of its 2 samples
    )
    done = fleet.play("deploy_and_train.yml", f"fleet_command={command}", f"fleet_config={config}", "fleet_run=oom")
    assert done.returncode == 0, done.stdout
    said = "per_device_train_batch_size 2 -> 1, gradient_accumulation_steps 3 -> 6"
    assert done.stdout.count(f"  OOM on rank 1 of worker2 at step 1: {said}; all ranks start again") == 1
    assert re.search(r"  proposed after its memory ran out: \S*mine.oom.yaml\n", done.stdout)
    for folder in (config.parent, fleet.logs / "oom"):
        proposed = yaml.safe_load((folder / "mine.oom.yaml").read_text("utf-8"))
        assert proposed == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}
    for number in (1, 2):
        log = (fleet.logs / "oom" / f"worker{number}" / f"rank{number - 1}.log").read_text("utf-8")
        assert [line for line in log.splitlines() if line[:5] == "batch"] == ["batch 2 x 3", "batch 1 x 6"]
    assert said.replace(">", "&gt;") in (fleet.logs / "oom" / "report.html").read_text("utf-8")
