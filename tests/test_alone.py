"""A user's packages on one PC: requirements are resolved there as for a cluster, by a Python that has nothing but itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, patience
from small_index import SmallIndex
from uv import find_uv_bin
from winfleet.environments.lock import OURS

BASE = os.path.realpath(sys.executable)  # outside of the tests' environment
# -S: as the Python that uv fetches, it finds no package. The environment is made, and no training begun.
DOOR = """
import sys
from pathlib import Path
from winfleet import one_pc
one_pc.TRAIN = Path(sys.argv[1])
one_pc.start = lambda found, command, python: print("STARTED", command[-1], python) or 0
sys.exit(one_pc.main(sys.argv[2:]))
"""
USE = "import small_b\ntry: import small_a, pure_source\nexcept ImportError as error: print(error)\nelse: print('all')"


class OnePc:
    """A PC with a project, and nothing made yet; `ours` stands for train/."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project, self.home, self.ours = (folder, *(folder / name for name in ("p", "home", "ours")))
        self.project.mkdir()
        (self.project / "mine.py").touch()
        self.index = SmallIndex(folder / "index")
        self.index.fill()
        self.index.wheel_of_this_python("packaging")
        self.environment = {
            **{name: value for name, value in ENVIRONMENT.items() if not name.startswith(("PIP_", "UV_"))},
            "UV_DEFAULT_INDEX": f"{self.index.url}/simple", "UV_CACHE_DIR": str(folder / "uv"), "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_RETRIES": "0", "PYTHONPATH": str(ROOT / "train"),
        }  # fmt: skip
        self.lock(self.ours, "torch", *OURS, "packaging")

    def lock(self, folder: Path, *names: str) -> None:
        folder.mkdir(exist_ok=True)
        listed = f'[project]\nname = "x"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = {list(names)}\n'
        (folder / "pyproject.toml").write_text(listed)
        command = [find_uv_bin(), "lock", "--quiet", "--project", str(folder), "--python", BASE]
        subprocess.run(command, env=self.environment, check=True)

    def open(self, *words: str) -> tuple[int, str]:
        command = [BASE, "-S", "-c", DOOR, str(self.ours), "--home", str(self.home), "--uv", find_uv_bin()]
        done = subprocess.run(
            [*command, "--torch-backend", "", *words, "--", "mine.py"], cwd=self.project, env=self.environment, capture_output=True, text=True,
            check=False, timeout=patience(120),
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def has(self, said: str) -> str:
        """What the Python that was made says of the packages."""
        python = said.partition("STARTED mine.py ")[2].strip()
        return subprocess.run([python, "-c", USE], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def pc(tmp_path: Path) -> OnePc:
    return OnePc(tmp_path)


def test_requirements_are_resolved_once_and_what_is_source_alone_is_built(pc: OnePc) -> None:
    (pc.project / "requirements.txt").write_text("small-a==1.0\npure-source\ntorch==2.13.0+cu121\n")
    status, said = pc.open("--dry-run")
    assert (status, pc.home.exists()) == (0, False), said
    assert "  small-a 1.0, pure-source 1.5, torch 2.13.0\n" in said
    assert "would be made" in said
    status, said = pc.open()
    assert status == 0, said
    assert f"Packages: requirements.txt resolved for Linux and Python {sys.version_info.major}." in said
    assert "left to torch's build: torch==2.13.0+cu121" in said
    assert pc.has(said) == "all"
    pc.index.close()
    again = pc.open()
    assert again[0] == 0, again[1]
    assert "Making" not in again[1]
    assert "Resolving" not in again[1]
    assert "would be made" not in pc.open("--dry-run")[1]


def test_without_internet_all_comes_from_the_folder_of_wheels(pc: OnePc) -> None:
    pc.index.close()
    shutil.rmtree(pc.folder / "uv")
    (pc.project / "requirements.txt").write_text("small-a\n")
    status, said = pc.open("--wheels", str(pc.index.folder))
    assert status == 0, said
    assert "  small-a 1.0\n" in said
    assert pc.has(said) == "No module named 'pure_source'"
    for wheel in pc.index.folder.glob("small_b-*"):
        wheel.unlink()
    (pc.project / "requirements.txt").write_text("small-a>=1\n")
    status, said = pc.open("--wheels", str(pc.index.folder))
    assert (status, "error: requirements.txt:1: small-a>=1: not to be had for Linux" in said) == (2, True), said


def test_a_lock_of_its_own_stays_as_it_is_and_a_line_that_cannot_travel_is_named(pc: OnePc) -> None:
    (pc.project / "requirements.txt").write_text("small-a\ngit+https://github.com/a/b\n")
    status, said = pc.open()
    assert (status, pc.home.joinpath("env").exists()) == (2, False)
    assert "error: requirements.txt:2: git+https://github.com/a/b: a repository is no release" in said
    pc.lock(pc.project, "small-b", "torch")
    before = (pc.project / "uv.lock").read_bytes()
    status, said = pc.open()
    assert status == 0, said
    assert f"Packages: uv.lock of {pc.project}; the requirements.txt beside it is not read" in said
    assert pc.has(said) == "No module named 'small_a'"
    assert (pc.project / "uv.lock").read_bytes() == before
