"""What comes home of a run and what stays: the model and the newest checkpoint first, then what fits; later all the rest."""

import json
import re
import tarfile
from pathlib import Path

import pytest
from conftest import Fleet
from winfleet.controller.unpacking import unpack
from winfleet.host.outputs import choose, pack

CODE = "c" * 12


def test_what_fits_comes_the_model_and_the_checkpoint_first_then_the_smallest() -> None:
    sizes = {"model": 50, "c/a": 20, "c/b": 20, "small": 1, "middle": 30, "large": 90}
    first = [["model"], ["c/a", "c/b"]]
    assert choose(sizes, first, 1_000) == ["model", "c/a", "c/b", "small", "middle", "large"]
    assert choose(sizes, first, 95) == ["model", "c/a", "c/b", "small"]
    assert choose(sizes, first, 45) == ["c/a", "c/b", "small"], "a model that is too large obeys the limit, too"
    assert choose(sizes, first, 39) == ["small", "c/a"], "what goes together does not fit together"
    assert choose(sizes, first, 0) == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A host with a run that changed a file of its code and wrote others."""
    run = tmp_path / "runs" / "r"
    for path, text in {
        tmp_path / "code" / CODE / "train.py": "x", tmp_path / "code" / CODE / "results.csv": "old", run / "work" / "train.py": "x",
        run / "work" / "results.csv": "new", run / "work" / "out" / "step_1" / "model.pt": "1", run / "work" / "out" / "step_2" / "model.pt": "2" * 600_000,
        run / "work" / "final" / "model.safetensors": "f" * 300_000, run / "work" / "final" / "config.json": "{}", run / "work" / "wandb" / "a.wandb": "w",
        run / "work" / "large.bin": "l" * 2_000_000, run / "rank0.log": "log",
    }.items():  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def members(home: Path, *, first: bool, limit_mb: float | None) -> tuple[list[str], list[tuple[str, int]]]:
    packed = pack(home, "r", code=CODE, data="", all_outputs=first, limit_mb=limit_mb)
    with tarfile.open(packed["archive"]) as tar:
        return sorted(tar.getnames()), [(one["path"], one["bytes"]) for one in packed["left"]]


def test_the_first_host_brings_its_outputs_and_the_others_their_part_of_the_checkpoint(home: Path) -> None:
    small = [
        "rank0.log",
        "work/final/config.json",
        "work/final/model.safetensors",
        "work/results.csv",
        "work/wandb/a.wandb",
    ]
    assert members(home, first=True, limit_mb=1) == (
        sorted([*small, "work/out/step_2/model.pt"]),
        [("large.bin", 2_000_000)],
    )
    assert members(home, first=True, limit_mb=0.4) == (
        small,
        [("large.bin", 2_000_000), ("out/step_2/model.pt", 600_000)],
    )
    everything, left = members(home, first=True, limit_mb=None)
    assert {"work/large.bin", "work/out/step_1/model.pt"} < set(everything)
    assert left == []
    assert members(home, first=False, limit_mb=1)[0] == [
        "rank0.log",
        "shared/out/step_2/model.pt",
        "work/wandb/a.wandb",
    ]


def test_two_hosts_files_may_arrive_in_one_folder_at_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tarfile makes a folder that it has not found; another host's is there by then."""
    packed = pack(home, "r", code=CODE, data="", all_outputs=True, limit_mb=1)

    def is_there_by_now(folder: str, *_: object) -> None:
        raise FileExistsError(17, "File exists", folder)

    monkeypatch.setattr("os.makedirs", is_there_by_now)
    logs = tmp_path / "logs"
    unpack(Path(packed["archive"]), logs / "pc1", logs, logs)
    assert (logs / "out" / "step_2" / "model.pt").read_text() == "2" * 600_000
    assert (logs / "pc1" / "rank0.log").read_text() == "log"


@pytest.mark.proof
def test_what_stayed_is_named_and_fetched_later_without_replacing_anything(fleet: Fleet) -> None:
    fleet.hosts.pop("worker2")
    done = fleet.play(
        "deploy_and_train.yml", "fleet_command=bare.py --steps 3", "fleet_run=r", "fleet_fetch_limit_mb=0"
    )
    assert done.returncode == 0, done.stdout
    work = fleet.home("worker1") / "runs" / "r" / "work"
    assert f"stay on worker1: {work}\n    result.txt (0.0 MB)\n" in done.stdout
    assert "ansible-playbook fetch.yml -i INVENTORY -e fleet_run=r" in done.stdout
    home = fleet.logs / "r"
    assert json.loads((home / "worker1" / "left.json").read_text())["left"] == [{"path": "result.txt", "bytes": 8}]
    assert "Stays on worker1" in (home / "report.html").read_text()
    (home / "mine.txt").write_text("of this machine")
    (work / "mine.txt").write_text("of the host")
    fetched = fleet.play("fetch.yml", "fleet_run=r")
    assert fetched.returncode == 0, fetched.stdout
    assert (home / "result.txt").read_text() == "1 ranks\n"
    assert (home / "mine.txt").read_text() == "of this machine"
    assert re.search(
        r"worker1: 1 file brought to .*\n  kept, as it differs from that of worker1: .*/mine\.txt\n", fetched.stdout
    ), fetched.stdout
    refused = fleet.play("fetch.yml", "fleet_run=other")
    assert refused.returncode != 0
    assert "hint: give the name of a run" in refused.stdout


def test_code_and_data_with_one_file_are_refused_with_both_paths_before_anything_is_sent(
    fleet: Fleet, tmp_path: Path
) -> None:
    project, data = tmp_path / "project", tmp_path / "corpus"
    for path in (project / "train.py", project / "data" / "a.bin", data / "a.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    done = fleet.play(
        "deploy_and_train.yml", f"fleet_project={project}", f"fleet_data={data}", "fleet_command=train.py"
    )
    assert done.returncode != 0
    assert f"code and data both have data/a.bin: {project}/data/a.bin and {data}/a.bin\n" in done.stdout
    assert not (fleet.home("worker1") / "code").exists()
