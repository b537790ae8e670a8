"""A project without a lock is resolved for its workers, against a small index of this machine; its troubles have their line."""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from small_index import SmallIndex, digest
from uv import find_uv_bin
from winfleet.environments.environment import differences, index_strategy
from winfleet.environments.lock import OURS, LockError
from winfleet.environments.project import find_packages
from winfleet.environments.resolving import Workers
from winfleet.environments.wheels import Environment, download

WINDOWS, LINUX = Workers(windows=True, python_version="3.11"), Workers(windows=False, python_version="3.11")
BOTH = ("cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_28_aarch64")


class Desk:
    """A project, an empty cache and an index, as a controller has them."""

    def __init__(self, folder: Path, index: SmallIndex) -> None:
        self.project, self.cache, self.index = folder / "project", folder / "cache", index
        self.project.mkdir()

    def find(self, requirements: str = "", workers: Workers = WINDOWS) -> dict[str, Any]:
        if requirements:
            (self.project / "requirements.txt").write_text(requirements)
        return find_packages(self.project, ROOT / "train", find_uv_bin(), workers, "auto", self.cache)

    def trouble(self, requirements: str = "", workers: Workers = WINDOWS) -> str:
        before = list(self.cache.glob("locks/*"))
        with pytest.raises(LockError) as caught:
            self.find(requirements, workers)
        assert list(self.cache.glob("locks/*")) == before or "compiler" in requirements, (
            "nothing is kept of what failed"
        )
        return str(caught.value)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallIndex]:
    made = SmallIndex(tmp_path_factory.mktemp("index"))
    for name in OURS:
        made.wheel(name, "7.0")
    for version in ("2.7.1", "2.9.1", "2.10.0", "2.13.0"):
        made.wheel("torch", version, "filelock", 'nvidia-cublas-cu12==1; sys_platform == "linux"', tags=BOTH)
    for name, version in (("filelock", "1"), ("nvidia-cublas-cu12", "1"), ("small-b", "1.0"), ("small-b", "2.0")):
        made.wheel(name, version)
    made.wheel("small-a", "1.0", "small-b<2")
    made.wheel("torchaudio", "2.9.1", "torch==2.9.1", tags=BOTH)
    made.wheel("linux-only", "1.0", tags=BOTH[1:])
    made.wheel("needs-linux", "1.0", "linux-only")
    made.source("pure-source", "1.5", "small-b")
    made.source("with-a-compiler", "3.0", tag="cp311-cp311-linux_x86_64")
    made.wheel("needs-a-compiler", "1.0", "with-a-compiler")
    yield made
    made.close()


@pytest.fixture
def desk(tmp_path: Path, index: SmallIndex, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name, value in (
        ("UV_DEFAULT_INDEX", f"{index.url}/simple"), ("PIP_INDEX_URL", f"{index.url}/simple"), ("UV_CACHE_DIR", str(tmp_path / "uv")),
        ("UV_NO_CONFIG", "1"), ("UV_HTTP_RETRIES", "0"), ("PIP_NO_CACHE_DIR", "1"), ("UV_PYTHON_DOWNLOADS", "never"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return Desk(tmp_path, index)


@pytest.mark.parametrize("workers", [WINDOWS, LINUX], ids=str)
def test_requirements_become_a_lock_with_hashes_and_what_winfleet_needs(desk: Desk, workers: Workers) -> None:
    found = desk.find("small-a\ntorch==2.13.0+cu121\nnvidia-cublas-cu12==1\ntriton==3\n", workers)
    text = found["requirements"]
    assert set(found["direct"]) == {"small-a", "torch", *OURS}
    assert {line.partition("==")[0] for line in text.splitlines() if "==" in line and line[0] != " "} >= {
        "small-a",
        "small-b",
        *OURS,
    }
    assert "torch==" not in text, "its build is chosen on each worker"
    assert "nvidia-cublas" not in text
    assert "small-b==1.0" in text
    assert f"--hash=sha256:{digest((desk.index.folder / 'small_b-1.0-py3-none-any.whl').read_bytes())}" in text
    assert found["torch"] == "2.13.0"
    lock = next(desk.cache.glob("locks/*")) / "uv.lock"
    assert found["said"] == [
        f"Packages: requirements.txt resolved for {workers}, torch 2.13.0 (build 'auto'); lock: {lock}",
        "  small-a 1.0, torch 2.13.0",
        "  left to torch's build: torch==2.13.0+cu121, nvidia-cublas-cu12==1, triton==3",
    ]


def test_a_lock_is_kept_by_content(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.find("small-b\n")
    assert "small-b==2.0" in first["requirements"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")  # nothing is asked again
    assert desk.find("# a comment\nsmall-b\n") == first
    assert "127.0.0.1:9" in desk.trouble("small-b<2\n")
    assert desk.find("small-b\n")["digest"] == first["digest"]


def test_torch_is_the_one_that_winfleet_is_tested_with_where_none_is_asked_for(desk: Desk) -> None:
    desk.index.wheel("torch", "2.99.0", "filelock", tags=BOTH)
    try:
        assert desk.find("small-b\n")["torch"] == "2.13.0"
        assert desk.find("torch>2.13\n")["torch"] == "2.99.0"
    finally:
        for path in desk.index.folder.glob("torch-2.99.0-*"):
            path.unlink()


def test_a_torch_without_gloo_is_named_on_windows_and_passed_by_where_another_one_fits(desk: Desk) -> None:
    said = desk.trouble("small-b\ntorch==2.9.1\n")
    assert said.startswith("requirements.txt:2: torch==2.9.1: torch 2.8 to 2.10 has no gloo on Windows")
    assert "\nhint: take torch 2.7.1, or 2.11 and newer" in said
    assert "requirements.txt:1: torchaudio==2.9.1" in desk.trouble("torchaudio==2.9.1\n")
    assert desk.find("torch<2.11\n")["torch"] == "2.7.1"
    assert desk.find("torch==2.9.1\n", LINUX)["torch"] == "2.9.1"


def test_a_package_without_a_wheel_for_windows_is_named_with_the_line_that_asks_for_it(desk: Desk) -> None:
    assert desk.trouble("small-b\nlinux-only==1.0\n").startswith(
        "requirements.txt:2: linux-only==1.0: linux-only has no wheel for Windows and Python 3.11\n"
    )
    assert desk.trouble("needs-linux\n").startswith(
        "requirements.txt:1: needs-linux: linux-only has no wheel for Windows"
    )
    assert "linux-only==1.0" in desk.find("linux-only\n", LINUX)["requirements"]
    assert "linux-only" not in desk.find("linux-only; sys_platform == 'linux'\n")["requirements"]


def test_a_conflict_and_an_unknown_name_are_named_with_their_lines(desk: Desk) -> None:
    said = desk.trouble("torch\nsmall-a==1.0\nsmall-b==2.0\n")
    assert said.startswith(
        "requirements.txt:2: small-a==1.0; requirements.txt:3: small-b==2.0: not to be had for Windows"
    )
    assert "  | " in said
    assert "tool.uv.environments" not in said
    assert "requirements.txt:1: nobody-made-this: " in desk.trouble("nobody-made-this\n")
    assert "hint: correct the name" in desk.trouble("nobody-made-this\n")


def test_pure_source_is_built_once_into_a_wheel(desk: Desk) -> None:
    found = desk.find("pure-source\n")
    (wheel,) = Path(found["built"]).iterdir()
    assert wheel.name == "pure_source-1.5-py3-none-any.whl"
    assert "pure_source.py" in zipfile.ZipFile(wheel).namelist()
    block = found["requirements"].partition("pure-source==1.5")[2].partition("\npyyaml")[0]
    assert block.count("--hash=") == 1
    assert f"--hash=sha256:{digest(wheel.read_bytes())}" in block
    assert "  built here from source: pure_source-1.5-py3-none-any.whl" in found["said"]
    made = wheel.stat().st_ino
    assert desk.find("pure-source\n") == found
    assert wheel.stat().st_ino == made


def test_windows_workers_without_internet_get_what_was_built_here_and_uv_takes_it_there(desk: Desk) -> None:
    found = desk.find("pure-source\n")
    wanted = Environment(
        requirements=found["requirements"], torch=found["torch"], python_version="3.11", platform="win_amd64", built=Path(found["built"])
    )  # fmt: skip
    wheels, target = wanted.folder(desk.cache), desk.cache / "target"
    download(wheels, wanted)
    listed = desk.cache / "listed.txt"
    listed.write_text(found["requirements"])
    command = [find_uv_bin(), "pip", "sync", "--require-hashes", "--offline", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*command, "--python-platform", "windows", "--target", str(target), str(listed)], check=True)
    assert (target / "pure_source.py").read_text() == "built = True\n"
    assert [path.name for path in wheels.glob("torch-*")] == ["torch-2.13.0-cp311-cp311-win_amd64.whl"]


def test_source_that_needs_a_compiler_is_named_for_windows_and_left_to_linux(desk: Desk) -> None:
    said = desk.trouble("needs-a-compiler\n")
    assert said.startswith(
        "requirements.txt:1: needs-a-compiler: with-a-compiler 3.0 has no wheel for Windows and Python 3.11, and"
    )
    found = desk.find("needs-a-compiler\n", LINUX)
    assert found["built"] == ""
    assert "with-a-compiler==3.0" in found["requirements"]


def test_another_index_travels_and_does_not_hide_what_the_usual_one_has(desk: Desk, tmp_path: Path) -> None:
    other = SmallIndex(tmp_path / "other")
    other.wheel("only-there", "1.0")
    other.wheel("small-b", "0.1")
    try:
        text = desk.find(f"--extra-index-url {other.url}/simple\nonly-there\nsmall-b\n")["requirements"]
    finally:
        other.close()
    assert text.startswith(f"--extra-index-url {other.url}/simple\n")
    assert index_strategy(text) == ["--index-strategy", "unsafe-best-match"]
    assert "only-there==1.0" in text
    assert "small-b==2.0" in text


def test_a_line_for_other_systems_leaves_what_winfleet_needs(desk: Desk) -> None:
    found = desk.find("torch==2.7.1; sys_platform == 'darwin'\npsutil; sys_platform == 'darwin'\n")
    assert found["torch"] == "2.13.0"
    assert "psutil==7.0" in found["requirements"]


def test_lines_that_cannot_travel_are_all_named(desk: Desk) -> None:
    said = desk.trouble("-e .\nsmall-b\ngit+https://github.com/a/b\n./c\nd @ file:///croot/d\n")
    assert [f"requirements.txt:{number}: " in said for number in range(1, 6)] == [True, False, True, True, True]
    assert said.count("\nhint: ") == 4


def test_a_lock_of_its_own_stays_as_it_is_and_is_said(desk: Desk) -> None:
    (desk.project / "pyproject.toml").write_text((ROOT / "molecule/uv_env/project/pyproject.toml").read_text())
    (desk.project / "uv.lock").write_text((ROOT / "molecule/uv_env/project/uv.lock").read_text())
    assert desk.find()["said"] == []
    said = desk.find("nobody-made-this\n")["said"]
    assert said == [f"Packages: uv.lock of {desk.project}; the requirements.txt beside it is not read"]
    lock = (desk.project / "uv.lock").read_text()
    (desk.project / "uv.lock").write_text(lock.replace("2.13.0", "2.9.1"))
    assert "uv.lock: torch 2.9.1 has no gloo on Windows" in desk.trouble()
    assert desk.find(workers=LINUX)["torch"] == "2.9.1"
    (desk.project / "uv.lock").write_text(lock.replace("2.13.0", "2.13.0+cu130"))
    found = desk.find()
    assert found["torch"] == "2.13.0", "which build of it the workers' drivers say"
    assert differences({"python": "3.11.9", "torch": "2.13.0+cpu"}, {"torch": found["direct"]["torch"]}, "3.11") == []


def test_a_pyproject_without_a_lock_is_resolved_and_a_project_without_either_gets_our_own_lock(desk: Desk) -> None:
    (desk.project / "train.py").touch()
    ours = desk.find()
    assert ours["said"] == []
    assert ours["torch"] == "2.13.0"
    (desk.project / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\ndependencies = ["small-a"]\n')
    found = desk.find()
    assert "small-a" in found["direct"]
    assert found["said"][0].startswith("Packages: pyproject.toml resolved for Windows and Python 3.11")
