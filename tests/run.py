"""Runs the checks of the project in lanes side by side, as most of them wait much of their time.

    python tests/run.py [lint] [molecule] [pytest] [quick] [proofs] [loaded]

As root on Linux each worker of pytest has a network of its own, so that ports 29500-29504 are its own, and what tests start
lives in a namespace of processes that ends with them. Elsewhere one test runs at a time. A lane's output is printed when it
is done. Ctrl-C ends all lanes, says what each was at, and takes the lab's PCs away; a lane that says nothing for longer than any
test may take is ended likewise, and has failed. With `proofs` the tests that take minutes run, too. With `loaded` four endless
loops a core run beside them, as no test may fail for time alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from lab_place import LAB, SETTINGS, why_no_lab

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = Path(os.environ.get("WINFLEET_TEST_OUTPUT") or ROOT / ".cache")
LOOPS: Final = 4  # a core
ENDING_SECONDS: Final = 60.0  # for tests to take away what they made, once they are asked to end
# Processes and mounts of their own; a shell is their first process, as somebody must wait for orphans.
APART: Final = "unshare --pid --fork --kill-child --mount --mount-proc bash -c"
MOUNTS: Final = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns"
OTHERS: Final = "not lab and not index"
QUICK: Final = f"{OTHERS} and not ansible and not long"
COUNTED: Final = re.compile(r"(\d+) (passed|failed|skipped|error)")
FAULT: Final = re.compile(
    r"^\W*(FAILED |ERROR|fatal: |failed: |CRITICAL|E   |Would reformat|.*: error: |.*Executed: Failed|.* failed=[1-9])"
)
COLOR: Final = re.compile(r"\x1b\[[\d;]*m")
TEST_SECONDS: Final = 900  # of one test, of the longest five times what it takes on an idle machine
PROOF_SECONDS: Final = 3600
FAULTS, FAULT_LETTERS = 4, 220  # the last ones, repeated where one looks first


def cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1


def longest(wanted: set[str]) -> int:
    """Seconds that one test may take."""
    return PROOF_SECONDS if wanted & {"proofs", "loaded"} else TEST_SECONDS


def apart(command: str, *, network: bool) -> str:
    """The command, whose processes all end with it, and which as `network` has a network of its own with a loopback alone."""
    if network:
        return f"{APART.replace(' --pid', ' --net --pid')} '{MOUNTS} && ip link set lo up && {command}; exit $?'"
    return f"{APART} '{MOUNTS} && {command}; exit $?'"


def molecule(name: str, *scenarios: str, local: bool = True) -> str:
    """The scenarios, with a new folder of their own for what molecule and the hosts keep: one that was ended leaves a state."""
    place = CACHE / f"molecule-{name}"
    hosts = f"WINFLEET_INVENTORY={ROOT}/molecule/hosts/local.yml " if local else ""
    return (
        f"rm -rf {place}; {hosts}WINFLEET_MOLECULE={place}/hosts MOLECULE_EPHEMERAL_DIRECTORY={place}/state "
        f"molecule test {' '.join(f'-s {scenario}' for scenario in scenarios)}"
    )


def lanes(wanted: set[str]) -> dict[str, list[str]]:
    """Name -> commands of each lane that this machine can run."""
    root = os.geteuid() == 0 and all(shutil.which(name) for name in ("unshare", "ip"))
    lab = root and not why_no_lab()
    found: dict[str, list[str]] = {
        name: [] for name in ("lab", "tests", "windows", "roles", "lint", "index")
    }  # longest first
    # a worker that is lost ends them all: with another one in its place xdist waits for ever
    workers = f"-n {cores() + 1} --dist loadfile --no-loadscope-reorder --max-worker-restart 0"
    if wanted & {"lint", "quick"}:
        found["lint"] += ["ruff check . && ruff format --check .", "mypy"]
        found["lint"] += ["ansible-lint --offline -q"] if "lint" in wanted else []
    if "quick" in wanted:
        found["tests"].append(
            apart(f'pytest {workers} -m "{QUICK}"', network=False) if root else f'pytest -m "{QUICK}"'
        )
    if "molecule" in wanted:
        if lab:
            found["windows"].append(
                molecule("windows", "default", "winrm_setup", "firewall", "power_plan", local=False)
            )
        linux = molecule("linux", *(() if lab else ("default",)), "launch", "data_sync", "accelerate_config")
        found["roles"].append(apart(linux, network=True) if root else linux)
        found["index"].append(molecule("index", "uv_env"))
    if "pytest" in wanted:
        chosen = "" if "proofs" in wanted else " and not proof"
        pytest = f"pytest -o faulthandler_timeout={longest(wanted)}"
        found["lab"] += [f'{pytest} -m "lab{chosen}" --durations=20'] if lab else []
        found["tests"].append(apart(f'{pytest} {workers} --durations=20 -m "{OTHERS}{chosen}"', network=False) if root
                              else f'{pytest} -m "{OTHERS}{chosen}"')  # fmt: skip
        found["index"].append(f'{pytest} -m "index and not lab"')
    if not root:  # ports are shared, so one thing at a time
        found = {"lint": found["lint"], "tests": [*found["roles"], *found["index"], *found["tests"]]}
    return {name: commands for name, commands in found.items() if commands}


class Lane:
    """Commands one after the other in a session of their own: Ctrl-C reaches this program alone, which ends lanes in order."""

    def __init__(self, name: str, commands: list[str]) -> None:
        self.name, self.output, self.begun = name, CACHE / f"test-{name}.txt", time.monotonic()
        self.said, self.heard = 0, self.begun  # bytes, and when there were more of them for the last time
        script = "failed=0\n" + "".join(f"{command} || failed=1\n" for command in commands) + "exit $failed\n"
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**environment, "WINFLEET_TEST_NETWORKS": str(int(os.geteuid() == 0))}, start_new_session=True,
            )  # fmt: skip

    def silent(self) -> float:
        """Seconds since it said something."""
        if (size := self.output.stat().st_size) != self.said:
            self.said, self.heard = size, time.monotonic()
        return time.monotonic() - self.heard

    def at(self) -> str:
        """What it was at: the last lines that it said, and how long ago."""
        last = lines_of(self.read())[-FAULTS:]
        return "\n  ".join([f"{self.name}: ENDED, silent for {self.silent():.0f} s after", *last])

    def read(self) -> str:
        """All that it said."""
        return self.output.read_text("utf-8", "replace")

    def end(self, sign: signal.Signals) -> None:
        """Sends the signal to all of the lane's own processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, sign)

    def tell(self) -> str:
        """Prints all that it said; the line for the summary, with what failed below it."""
        said = self.read()
        seconds = time.monotonic() - self.begun
        print(f"\n== {self.name}, {seconds:.0f} s\n{said.strip()}", flush=True)
        if self.process.returncode == 0:
            return f"{self.name}: passed in {seconds:.0f} s"
        return "\n  ".join([f"{self.name}: FAILED in {seconds:.0f} s", *faults(said)])


def lines_of(said: str) -> list[str]:
    """Its lines that say something, without colours and frames."""
    return [line.strip(" │")[:FAULT_LETTERS] for line in COLOR.sub("", said).splitlines() if line.strip(" │")]


def faults(said: str) -> list[str]:
    """The last lines that say what failed, without colours; of a program that says it otherwise its last lines."""
    lines = lines_of(said)
    return ([line for line in lines if FAULT.match(line)] or lines)[-FAULTS:]


def end_all(running: list[Lane]) -> None:
    """Has tests take away what they made, then ends what is left, and the lab's PCs."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    at = "\n".join(lane.at() for lane in running)
    print(f"\n{at}\nEnding what runs; a second Ctrl-C does not make it faster", flush=True)
    begun = time.monotonic()
    for sign, seconds in ((signal.SIGINT, ENDING_SECONDS), (signal.SIGKILL, 2 * ENDING_SECONDS)):
        for lane in running:
            lane.end(sign)
        while any(lane.process.poll() is None for lane in running) and time.monotonic() - begun < seconds:
            time.sleep(0.1)
    if any(lane.name in ("lab", "windows") for lane in running):
        for environment in (None, SETTINGS):  # molecule's, and that of the tests
            subprocess.run([LAB, "down"], cwd=ROOT, env=environment, check=False, capture_output=True)
        for folder in ("inventories/lab", "inventories/certificates/lab"):
            shutil.rmtree(ROOT / folder, ignore_errors=True)


def counted(lanes: list[Lane]) -> dict[str, int]:
    """What pytest's summaries say: passed, failed, skipped, error -> tests."""
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    for lane in lanes:
        for line in lane.read().splitlines():
            if re.search(r"\b(passed|failed|skipped|error)\b.* in [\d.]+s", line):
                for number, kind in COUNTED.findall(line):
                    counts[kind] += int(number)
    return counts


def main(words: list[str]) -> int:
    """The command line; returns the exit status."""
    # whoever starts this in the background may have it ignored, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    CACHE.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    parts = set(words) - {"loaded", "proofs"} or {"lint", "molecule", "pytest"}
    wanted = lanes(parts | set(words) & {"proofs", "loaded"})
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(LOOPS * cores() * ("loaded" in words))
    ]
    running, every, told = list[Lane](), list[Lane](), list[str]()
    try:
        while running or wanted:
            while wanted and len(running) < max(2, cores()):  # more would only wait for one another's cores
                name = next(iter(wanted))
                running.append(Lane(name, wanted.pop(name)))
                every.append(running[-1])
            if any(lane.silent() > longest(set(words)) + ENDING_SECONDS for lane in running):
                end_all(running)
                print("\n" + "\n".join(told), "\nA lane said nothing for longer than a test may take")
                return 1
            for lane in [lane for lane in running if lane.process.poll() is not None]:
                running.remove(lane)
                told.append(lane.tell())
            time.sleep(0.2)
    except KeyboardInterrupt:
        end_all(running)
        return 130
    finally:
        for loop in loops:
            loop.kill()
    counts = counted(every)
    print("\n" + "\n".join(told), f"\nall in {time.monotonic() - begun:.0f} s")
    print(f"{counts['passed']} passed, {counts['failed'] + counts['error']} failed, {counts['skipped']} skipped")
    return 1 if any(lane.process.returncode for lane in every) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
