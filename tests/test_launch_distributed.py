"""The front door of one PC: scripts/launch_distributed.ps1 in the lab, and winfleet.one_pc behind it."""

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, SCRIPTS, patience, processes_with, wait_until
from uv import find_uv_bin
from windows_lab import MASTER, Lab, in_the_lab, windows
from winfleet.core.plan import PlanError
from winfleet.environments.lock import read_lock
from winfleet.environments.wheels import Environment, download
from winfleet.one_pc import full_command

PYTHON, UV = "C:\\lab\\python\\python.exe", "C:\\lab\\python\\uv.exe"
NOT_STARTED = "내부 오류"  # ERROR_INTERNAL_ERROR: Wine at times loses a new process before it has begun
TRAINING = {
    "batch_size": 4, "gradient_accumulation_steps": 1, "steps": 6, "warmup_steps": 1, "eval_every": 0, "eval_batches": 1, "log_every": 2,
    "checkpoint_every": 0, "context": 32, "layers": 1, "heads": 2, "width": 32, "wandb": False,
}  # fmt: skip


class Door:
    """launch_distributed.ps1 of an unpacked repository, at a new PC."""

    def __init__(self, lab: Lab, pc: str, root: Path) -> None:
        self.lab, self.pc, self.root = lab, pc, root
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("scripts", "train"):
            shutil.copytree(ROOT / name, root / name, ignore=ignore)

    def open(self, *words: str, name: str = "launch_distributed.ps1") -> tuple[int, str]:
        """Its exit status, and what it printed. Where Wine could not start its first program it is tried again, once."""
        command = ("run", self.pc, "--policy", "Bypass", str(self.root / "scripts" / name), *words)
        done = self.lab.command(*command)
        said = done.stdout + done.stderr
        if done.returncode and (not said or ("trying to start process" in said and NOT_STARTED in said)):
            done = self.lab.command(*command)  # what fails without a word was not run either
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def door(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Door:
    pc = lab.up(1)[0]
    lab.do("reset", pc)
    return Door(lab, pc, tmp_path_factory.mktemp("unpacked") / "winfleet-main")


@pytest.fixture(scope="module")
def wheels() -> Path:
    """All wheels of the lock for Windows, as the controller keeps them for workers without internet."""
    lock = read_lock(ROOT / "train", ROOT / "train", find_uv_bin(), "3.11", "auto")
    wanted = Environment(
        requirements=lock["requirements"], torch=lock["torch"], python_version="3.11", platform="win_amd64"
    )
    folder = wanted.folder(Path("~/.cache/winfleet").expanduser())
    if not folder.is_dir():
        download(folder, wanted)
    return folder


@in_the_lab
@pytest.mark.proof
def test_a_pc_without_internet_makes_the_environment_and_trains(door: Door, wheels: Path) -> None:
    settings = door.root / "settings.yaml"
    settings.write_text(yaml.safe_dump({"training": TRAINING}))
    words = ["-Auto", "-Python", PYTHON, "-Uv", UV, "-Wheels", windows(wheels)]
    status, said = door.open(*words, "-Processes", "2", "-Config", windows(settings))
    assert status == 0, said
    for line in ("GPUs: none", "Making the environment below C:\\winfleet", "[INFO] Initializing distributed training...",
                 "[INFO] Rank 1/2 initialized", "[INFO] All processes joined successfully", "[INFO] Run finished"):  # fmt: skip
        assert line in said
    losses = [float(loss) for loss in re.findall(r"step \d/6  loss (\d\.\d+)", said)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    plan = json.loads(next(door.root.glob("logs/*/plan.json")).read_text("utf-8"))
    assert (plan["backend"], plan["hosts"][0]["processes"]) == ("gloo", 2)
    assert next(door.root.glob("logs/*/*/output")).is_dir()
    assert (door.lab.prefix(door.pc) / "winfleet" / "temp").is_dir(), "the user's own is below a Korean name"
    assert "would be made" not in door.open(*words, "-WhatIf")[1], "it is there now"


@in_the_lab
@pytest.mark.proof
def test_a_pc_by_itself_proves_what_it_can(door: Door, wheels: Path) -> None:
    words = ("-Prove", "-Python", PYTHON, "-Uv", UV, "-Wheels", windows(wheels), "--", "--yes")
    status, said = door.open(*words, name="launch_distributed.cmd")
    red = re.findall("^  failed: ([a-z-]+): ", said, re.MULTILINE)
    assert set(red) <= {"ctrl-c"}, said  # Wine's console ends the launcher before it can say that it was stopped
    assert (status, bool(re.search(": [456] proved", said))) == (len(red), True), said


@in_the_lab
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "error: -Auto is missing\nhint: launch_distributed.ps1 -Auto trains on this PC"),
        (["-Auto", "-Python", PYTHON, "-Uv", UV, "--", "none.py"], "error: no script none.py in C:\\users\\김연구\nhint: give its path"),
        (["-Auto", "-Python", PYTHON, "-Uv", UV, "-Config", "no.yaml"], "error: no settings no.yaml in C:\\users\\김연구\nhint: give the path"),
        (["-Auto", "-Uv", UV, "-Wheels", "C:\\lab"], "error: no Python 3.11 on this PC\nhint: install one, or give"),
        (["-Auto", "-Python", PYTHON, "-Uv", UV, "-Wheels", "C:\\no"], "error: no folder C:\\no\nhint: give the folder that holds the wheels"),
        (["-Auto", "-Python", UV], f"error: {UV} is no Python\nhint: give a python.exe of 3.11 or newer"),
        (["-Auto", "-Folder", "C:\\users\\김연구\\w"], "error: C:\\users\\김연구\\w has letters that are not ASCII"),
        (["-Auto", "-Python", PYTHON], "hint: without internet give -Uv, -Python and -Wheels"),
    ],
    ids=["auto", "script", "settings", "python offline", "wheels", "no python", "folder", "uv offline"],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_fix(door: Door, words: list[str], expected: str) -> None:
    status, said = door.open(*words)
    assert expected in said
    assert status == 2


@in_the_lab
def test_words_with_quotes_arrive_as_they_are(door: Door) -> None:
    status, said = door.open(
        "-Auto", "-Python", PYTHON, "-Uv", UV, "-Folder", "C:\\quoted", "-WhatIf", "--", "--seed", 'a "b" c\\', ""
    )
    assert status == 0, said
    assert "C:\\quoted\\env\\" in said
    assert said.rstrip().endswith('train_config.yaml --seed "a \\"b\\" c\\\\" ""')


@in_the_lab
def test_a_double_click_trains_and_what_if_changes_nothing(door: Door) -> None:
    folder = "C:\\other"
    status, said = door.open("-WhatIf", "-Folder", folder, name="launch_distributed.cmd")
    assert status == 0, said
    assert 'Performing the operation "Fetch uv from PyPI" on target "C:\\other\\agent\\uv.exe"' in said
    assert not (door.lab.prefix(door.pc) / "other").exists()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Path]:
    """A folder that the PCs reach by http."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer((MASTER, 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        (tmp_path / "port").write_text(str(server.server_address[1]))
        yield tmp_path
        server.shutdown()


@in_the_lab
def test_uv_is_fetched_by_the_locks_hash_and_no_other(door: Door, index: Path) -> None:
    wheel, lock = index / "uv-0.13.9-py3-none-win_amd64.whl", door.root / "train" / "uv.lock"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.write(door.lab.prefix(door.pc) / "lab" / "python" / "uv.exe", "uv-0.13.9.data/scripts/uv.exe")
    text = lock.read_text("utf-8")
    address = f"http://{MASTER}:{(index / 'port').read_text()}/{wheel.name}"
    elsewhere = re.sub(r"https://[^\"]+/uv-[\d.]+-py3-none-win_amd64\.whl", address, text)
    right = re.sub(
        rf'({re.escape(address)}", hash = "sha256:)\w+',
        rf"\g<1>{hashlib.sha256(wheel.read_bytes()).hexdigest()}",
        elsewhere,
    )
    target = door.lab.prefix(door.pc) / "fetched" / "agent"
    words = ("-Auto", "-Python", PYTHON, "-Folder", "C:\\fetched", "--", "none.py")
    try:
        lock.write_text(elsewhere, "utf-8")
        status, said = door.open(*words)
        assert (status, "hint: something on the way changed it" in said, list(target.iterdir())) == (2, True, []), said
        lock.write_text(right, "utf-8")
        assert "error: no script none.py" in door.open(*words)[1]
        assert [path.name for path in target.iterdir()] == ["uv.exe"]
    finally:
        lock.write_text(text, "utf-8")


def test_words_are_a_script_or_arguments_of_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").touch()
    Path("mine.yaml").touch()
    assert full_command(["mine.py", "--epochs", "3"], None) == ["mine.py", "--epochs", "3"]
    assert full_command(["mine.py"], Path("mine.yaml")) == ["mine.py", "--config", str(tmp_path / "mine.yaml")]
    assert full_command(["-m", "package"], None) == ["-m", "package"]
    trainer, *rest = full_command(["--help"], None)
    assert (Path(trainer), rest[-1]) == (ROOT / "train" / "train.py", "--help")
    assert Path(rest[rest.index("--config") + 1]) == ROOT / "train" / "configs" / "train_config.yaml"
    with pytest.raises(PlanError, match=r"no script other\.py"):
        full_command(["other.py"], None)


def test_ctrl_c_ends_launcher_and_ranks_and_their_status_is_handed_on(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from winfleet import one_pc as o; a = sys.argv[1:]\n"
        "f = o.arguments(['--home', '.', '--uv', 'uv', '--processes', '2', '--', *a])\n"
        "sys.exit(o.start(f, o.full_command(f.command, None), sys.executable))"
    )
    command = [sys.executable, "-c", code, str(SCRIPTS / "bare.py"), "--steps", "100000"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(lambda: b"Training started" in (tmp_path / "output").read_bytes(), 60, "the start of the training")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(patience(30)) == 3
    finally:
        process.kill()
    assert processes_with(str(tmp_path)) == []
