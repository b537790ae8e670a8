"""With --auto the console is the ranks' and ours: no line of ours goes on in a progress bar."""

import re
from pathlib import Path

import pexpect
import pytest
from conftest import ENVIRONMENT, patience
from launchers import LAUNCH, auto, copied

__all__ = ["copied"]

# tqdm's bar ends without a line break, and draws itself anew over itself.
BAR = """
import time
from tqdm import tqdm
for step in tqdm(range(60), mininterval=0.05):
    time.sleep(0.15)
print("done without a line break", end="", flush=True)
"""
OURS = r"\d\d:\d\d:\d\d \[INFO\] "


@pytest.fixture
def script(copied: Path) -> Path:
    (copied / "bar.py").write_text(BAR, "utf-8")
    return copied


def test_our_lines_are_lines_of_their_own_in_a_pipe(script: Path) -> None:
    done = auto(script, "--", "bar.py", processes=1)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.split("\n")
    ours = [line for line in lines if "[INFO]" in line]
    assert len([line for line in ours if "ranks up" in line]) >= 1, "some while the bar stands"
    assert all(re.match(OURS, line) for line in ours), ours
    assert re.search(r"98%\|.*\| 59/60 \[", done.stderr)
    assert done.stdout.endswith("done without a line break")


def test_our_lines_are_lines_of_their_own_in_a_terminal(script: Path) -> None:
    command = " ".join([*LAUNCH, "--auto", "--processes", "1", "--", "bar.py"])
    seen = pexpect.run(command, cwd=str(script), env=ENVIRONMENT, encoding="utf-8", timeout=int(patience(60)))
    text = str(seen)
    assert re.search(r"98%\|.*\| 59/60 \[", text)
    ours = [part for part in re.split(r"[\r\n]+", text) if "[INFO]" in part]
    assert len(ours) >= 5
    assert all(re.match(OURS, part) for part in ours), ours
