"""What a project without a lock asks for: lines of requirements.txt and pyproject.toml, read as people write them."""

from pathlib import Path

import pytest
from winfleet.environments.wishes import Wishes, read_wishes

FREEZE = """\
# made by pip freeze
accelerate==1.1.0
nvidia-cublas-cu12==12.1.3.1
nvidia-cuda-nvrtc-cu12==12.1.105
nvidia-cudnn-cu12==9.1.0.70
nvidia-cusparselt-cu12==0.6.2
nvidia-ml-py==12.560.30
nvidia-nccl-cu12==2.21.5
nvidia-nvjitlink-cu12==12.4.127
torch==2.7.1+cu121
torchvision==0.22.1+cu121 ; python_version >= "3.9"
triton==3.3.1
"""


def read(folder: Path, text: str | bytes, python: str = "3.11", name: str = "requirements.txt") -> Wishes:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    found = read_wishes(folder, python)
    assert found is not None
    return found


def wanted(wishes: Wishes) -> dict[str, str]:
    return {str(wish.requirement): wish.place.partition(":")[2] for wish in wishes.wanted}


def test_what_pip_freeze_writes_is_left_to_torchs_build(tmp_path: Path) -> None:
    found = read(tmp_path, FREEZE)
    assert found.refused == []
    assert wanted(found) == {
        "accelerate==1.1.0": "2", "nvidia-ml-py==12.560.30": "7", "torch==2.7.1": "10",
        'torchvision==0.22.1; python_version >= "3.9"': "11",
    }  # fmt: skip
    assert len(found.left) == 9
    assert "triton==3.3.1" in found.left
    assert "torch==2.7.1+cu121" in found.left


def test_powershells_utf_16_and_comments_hashes_and_joined_lines_are_read(tmp_path: Path) -> None:
    text = "numpy == 2.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\r\n\r\ntqdm # bars\r\n--pre\r\n"
    found = read(tmp_path, b"\xff\xfe" + text.encode("utf-16-le"))
    assert wanted(found) == {"numpy==2.0": "1", "tqdm": "5"}
    assert found.prereleases


def test_files_that_are_included_are_followed(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("tqdm\n-r ../requirements.txt\n-c limits.txt\n")
    (tmp_path / "more" / "limits.txt").write_text("numpy<2\n")
    found = read(tmp_path, "six\n-r more/base.txt\n-rnone.txt\n--requirement=https://a.b/c.txt\n")
    assert found.files == ["requirements.txt", "more/base.txt", "more/limits.txt"]
    assert [str(wish) for wish in found.wanted] == ["requirements.txt:1: six", "more/base.txt:1: tqdm"]
    assert [str(wish) for wish in found.limits] == ["more/limits.txt:1: numpy<2"]
    assert [line.partition("\n")[0] for line in found.refused] == [
        "requirements.txt:3: -rnone.txt: no such file", "requirements.txt:4: --requirement=https://a.b/c.txt: no such file",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-e .", "an editable package"), ("--editable=git+https://x/y", "an editable package"), (".", "the path lies"),
        ("git+https://github.com/a/b.git@main#egg=b", "a repository"), ("b @ git+ssh://git@x/b", "a repository"),
        ("./local", "the path lies"), ("../x/y.tar.gz", "the path lies"), ("C:\\wheels\\a-1-py3-none-any.whl", "the path lies"),
        ("~/x", "the path lies"), ("a-1-py3-none-any.whl", "the path lies"), ("--find-links wheels", "the path lies"),
        ("numpy @ file:///croot/numpy_1707/dist/numpy-1.26.4-cp311.whl#sha256=1f", "the file lies"),
        ("https://x.y/a.zip", "an address needs a name"), ("numpy=1.26.4=py311h64a7726_0", "that is conda's own form: write numpy==1.26.4"),
        ("--index-url https://u:secret@x/simple", "the address holds a password"), ("--frobnicate", "winfleet does not know"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_travel_is_named(tmp_path: Path, line: str, why: str) -> None:
    found = read(tmp_path, f"six\n\n{line}\n")
    assert [str(wish) for wish in found.wanted] == ["requirements.txt:1: six"]
    (said,) = found.refused
    assert said.startswith("requirements.txt:3: ")
    assert why in said
    assert "\n  hint: " in said
    assert "secret" not in said


def test_indexes_travel_but_for_torchs(tmp_path: Path) -> None:
    lines = "--extra-index-url https://download.pytorch.org/whl/cu121\n--extra-index-url=https://a.b/simple\n-f https://c.d/x.html\n"
    found = read(tmp_path, lines + "https://x.y/a_b-1.0-py3-none-any.whl\n")
    assert (found.indexes, found.links) == (["https://a.b/simple"], ["https://c.d/x.html"])
    assert found.left == ["--extra-index-url https://download.pytorch.org/whl/cu121"]
    assert wanted(found) == {"a-b @ https://x.y/a_b-1.0-py3-none-any.whl": "4"}


PROJECT = """\
[project]
name = "x"
requires-python = ">=3.12"
dependencies = [
  "torch>=2.0",
  "b",
  "c @ git+https://x/c",
]
[tool.uv.sources]
b = { path = "../b" }
torch = { index = "pytorch" }
"""


def test_a_pyproject_is_read_with_its_lines(tmp_path: Path) -> None:
    found = read(tmp_path, PROJECT, name="pyproject.toml")
    assert [str(wish) for wish in found.wanted] == ["pyproject.toml:5: torch>=2.0"]
    assert [line.partition("\n")[0] for line in found.refused] == [
        'pyproject.toml: requires-python is ">=3.12", and workers get Python 3.11',
        "pyproject.toml:6: b: tool.uv.sources takes it from this machine",
        "pyproject.toml:7: c @ git+https://x/c: a repository is no release, so workers cannot have it",
    ]
    assert not [line for line in read(tmp_path, PROJECT, "3.12", "pyproject.toml").refused if "requires-python" in line]


def test_requirements_win_over_a_pyproject_and_one_for_tools_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 99\n")
    assert read_wishes(tmp_path, "3.11") is None
    poetry = read(
        tmp_path, '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\ntorch = "*"\n', name="pyproject.toml"
    )
    assert "only another tool knows its dependencies" in poetry.refused[0]
    assert read(tmp_path, "six\n").files == ["requirements.txt"]
    (tmp_path / "requirements.txt").unlink()
    assert "pyproject.toml: " in read(tmp_path, "[project\n", name="pyproject.toml").refused[0]
