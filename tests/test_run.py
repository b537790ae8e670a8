"""The program that runs all checks: Ctrl-C ends what it has started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ENVIRONMENT, ROOT, patience, processes_with, wait_until
from run import FAULTS, apart, faults


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "WINFLEET_TEST_OUTPUT": str(tmp_path), "WINFLEET_LAB_TESTS": "0"}
    command = [sys.executable, str(ROOT / "tests" / "run.py"), "quick"]
    marks = ("--basetemp", str(tmp_path / "pytest"))
    environment["PYTEST_ADDOPTS"] = " ".join(marks)
    command = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *command]  # as a background job of a script has it
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        wait_until((tmp_path / "pytest").exists, 60, "the first test")
        os.kill(run.pid, signal.SIGINT)
        run.communicate(timeout=patience(120))
    assert run.returncode == 130
    wait_until(lambda: not processes_with(str(tmp_path)), 5, "the end of all that it had started")


def test_what_a_lane_leaves_running_ends_with_it(tmp_path: Path) -> None:
    if os.geteuid():
        return
    left = f"setsid sleep 1000 {tmp_path} & sleep 0.5"
    subprocess.run(["bash", "-c", apart(left, network=True)], check=False, capture_output=True)
    wait_until(lambda: not processes_with(str(tmp_path)), 5, "the end of a process that was left")


def test_the_end_repeats_what_failed() -> None:
    molecule = (
        "  \x1b[2m│\x1b[0m \x1b[31mfatal: [PC2]: FAILED! => {'msg': 'no door'}\x1b[0m\n  \x1b[2m│\x1b[0m\n"
        "\x1b[36mdefault ➜ converge: Executed: Failed\x1b[0m\ndefault   : actions=3  successful=2  failed=1\nbye\n"
    )
    assert faults(molecule) == [
        "fatal: [PC2]: FAILED! => {'msg': 'no door'}",
        "default ➜ converge: Executed: Failed",
        "default   : actions=3  successful=2  failed=1",
    ]
    assert faults("FAILED tests/test_x.py::test_y - assert 1 == 2\n1 failed, 2 passed in 3s\n") == [
        "FAILED tests/test_x.py::test_y - assert 1 == 2"
    ]
    assert faults("\n".join(map(str, range(9)))) == ["5", "6", "7", "8"][-FAULTS:]
