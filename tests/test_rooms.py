"""The package's rooms: what stands in which, and that none knows one above it (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "train" / "winfleet"
# From the ground up; rooms of one floor do not know each other.
FLOORS = (
    {"core"}, {"machine"}, {"transfer", "rank"}, {"runs", "averaging", "libraries"}, {"checkpoints"}, {"launcher", "environments", "preflight"},
    {"rehearsal", "support"}, {"proofs"}, {"host", "view", "controller"},
)  # fmt: skip
COMMANDS = {"launch", "runner", "status", "report", "deploy", "one_pc", "prove"}
MOST_LINES, MOST_TEST_LINES = 400, 450


def floor_of(room: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, below winfleet: core.plan."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = path.parents[node.level - 1].relative_to(PACKAGE).parts
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ([module] if node.module else [".".join([*above, alias.name]) for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "winfleet":
            module = (node.module or "").partition(".")[2]
            yield from ([module] if module else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("winfleet."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_knows_one_above_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in filter(None, imports_of(path)):
        room = module.partition(".")[0]
        assert room == own or floor_of(room) < floor_of(own), f"{own} imports {module}"


def test_commands_alone_lie_at_the_top() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == COMMANDS | {"__init__"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set.union(*FLOORS)
    picture = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## The rooms")[2].partition("## ")[0]
    assert all(f" {name}" in picture for name in COMMANDS)
    assert all(f"{room}/" in picture for rooms in FLOORS for room in rooms)


def test_no_file_is_longer_than_one_can_overlook() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for folder, most in (("train", MOST_LINES), ("plugins", MOST_LINES), ("bench", MOST_LINES), ("tests", MOST_TEST_LINES))
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > most and path.name != "causes_table.py"
    }  # fmt: skip
    assert not long
