"""File names that Windows cannot hold: said on the controller, with the file, why, and the fix."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from test_preflight import found, wanted
from winfleet.preflight.judge import find_problems
from winfleet.transfer.names import LONGEST_PATH, explain_unholdable, find_troubles, room_below

HOME = "C:\\winfleet"
ROOM = 200


def windows(**values: Any) -> dict[str, Any]:
    return {"os": "Windows", "home": HOME, **values}


def troubles(*names: str, room: int = ROOM) -> dict[str, str]:
    return {str(name): why for name, why in find_troubles(map(PurePosixPath, names), room).items()}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("con.txt", "'con.txt' is a device there"), ("sub/AUX/x", "'AUX' is a device there"),
        ("Com1.tar.gz", "'Com1.tar.gz' is a device there"), ("lpt²", "'lpt²' is a device there"),
        ("nul .x", "'nul .x' is a device there"), ("a:b", "'a:b' has ':'"), ("wie?/x", "'wie?' has '?'"),
        ('a<b>"|*', "'a<b>\"|*' has '\"'"), ("a\\b", "'a\\\\b' has '\\\\'"), ("a\nb", "'a\\nb' has '\\n'"),
        ("end.", "'end.' ends with a dot"), ("end /x", "'end ' ends with a space"),
        ("길" * 256, f"{'길' * 20!r}… has more than 255 characters"), ("name-\udcff", "it is not UTF-8"),
        ("x/" + "y" * 200, "2 characters too long below fleet_home"),
    ],
)  # fmt: skip
def test_a_name_that_windows_cannot_hold_is_explained(name: str, why: str) -> None:
    assert troubles("good", name) == {name: why}


def test_names_that_windows_holds_are_let_pass() -> None:
    assert (
        troubles("한글.txt", "console.py", "COM10", "com", "a.con", ".x", "a b/ c", "ß", "ss", "x/" + "y" * 198) == {}
    )


def test_names_that_differ_by_case_alone_are_named_with_each_other() -> None:
    assert troubles("Data/a", "data/b", "x/README", "x/readme", "x/Readme2") == {
        "data/b": "data and Data differ by case alone",
        "x/readme": "x/readme and x/README differ by case alone",
    }


def test_the_longest_path_is_what_unpacking_and_the_work_folder_leave() -> None:
    arriving = len(f"{HOME}\\data\\.0123456789ab.abcdefgh\\")
    assert room_below(HOME, "data", "short") == LONGEST_PATH - arriving
    assert room_below(HOME, "data", "r" * 64) == LONGEST_PATH - len(f"{HOME}\\runs\\{'r' * 64}\\work\\data\\")
    name = PurePosixPath("a" * (LONGEST_PATH - arriving + 1))
    hosts = {"pc1": windows(), "pc2": windows(long_paths=True)}
    assert explain_unholdable("data /d", "data", [name], hosts, "short") == (
        f"data /d has names that Windows cannot hold: {name}: 1 characters too long below fleet_home\n"
        "hint: rename them; long paths fit with a shorter fleet_home, or once pc1 has LongPathsEnabled "
        "(HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem)"
    )
    assert explain_unholdable("data /d", "data", [name], {"pc2": hosts["pc2"]}, "short") == ""


def test_the_preflight_names_them_for_windows_hosts_alone(tmp_path: Path) -> None:
    for name in ("con.txt", "ok", *(f"{number}?" for number in range(6))):
        (tmp_path / name).write_text("x")
    (tmp_path / "train.py").write_text("")
    asked = wanted(project=tmp_path, command="train.py", data=tmp_path)
    said = [str(problem) for problem in find_problems({"pc1": found(**windows())}, {}, asked)]
    listed = "; ".join(f"{number}?: '{number}?' has '?'" for number in range(5))
    assert said == [
        f"controller: {setting} {tmp_path} has names that Windows cannot hold: {listed}, and 2 more\n  hint: rename them"
        for setting in ("fleet_project", "fleet_data")
    ]
    assert find_problems({"pc1": found(os="Linux")}, {}, asked) == []
    assert (
        explain_unholdable("code /c", "code", [PurePosixPath("con")], {"pc1": {"os": "Linux", "home": "/h"}, "pc2": {}})
        == ""
    )
