"""A Linux host's part in the swarm by wheels beside Ansible's Python: what it lacks, and why it takes none."""

import platform
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from winfleet.environments.wheels import fetch
from winfleet.host import swarming

GIVEN: dict[str, Any] = {
    "versions": {"psutil": "2", "libtorrent": "1"},
    "archive": "",
    "agent": "0" * 64,
    "folders": [],
}


def wheels(tmp_path: Path) -> Path:
    """A zip with a wheel that is for another system."""
    with zipfile.ZipFile(tmp_path / "made.whl", "w") as wheel:
        wheel.writestr("psutil.py", "raise ImportError('of another libc')")
    with zipfile.ZipFile(tmp_path / "wheels.zip", "w") as packed:
        packed.write(tmp_path / "made.whl", "made.whl")
    return tmp_path / "wheels.zip"


def test_a_host_without_wheels_says_for_which_python_and_machine(tmp_path: Path) -> None:
    asked = swarming.by_wheels(tmp_path, GIVEN)
    assert asked == {"lacks": {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "machine": platform.machine()}}


def test_an_older_python_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarming, "OLDEST", (3, 99))
    found = swarming.by_wheels(tmp_path, GIVEN)
    assert (found["torrent"], "not 3.11 or newer" in found["why"]) == (False, True)


def test_wheels_lie_there_once_in_place_of_older_ones_and_what_does_not_run_is_said(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "agent" / "wheels-of-before").mkdir(parents=True)
    found = swarming.by_wheels(home, {**GIVEN, "archive": str(wheels(tmp_path))})
    assert found == {"torrent": False, "why": "ImportError: of another libc"}
    (place,) = (home / "agent").iterdir()
    assert (place / "psutil.py").is_file()
    assert place.name.endswith("-libtorrent-1-psutil-2")
    assert "lacks" not in swarming.by_wheels(home, GIVEN)


@pytest.mark.index
def test_what_pip_does_not_have_is_said(tmp_path: Path) -> None:
    assert "No matching distribution found for libtorrent" in fetch(
        tmp_path, "3.11", ["manylinux_2_17_nowhere"], "libtorrent", "psutil"
    )
    assert list(tmp_path.glob("*.whl")) == []
