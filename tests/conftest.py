"""What tests share: how programs are started, and a small cluster on this machine's loopback addresses."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from namespaces import PROGRAMS

if TYPE_CHECKING:
    from windows_lab import Lab, NewPc, Stock

# About how long a test with such a fixture or marker takes.
SECONDS = {"ansible": 10, "launch": 6, "copied": 3, "index": 3, "lab": 10}
# Whole trainings and transfers, which `make quick` leaves out: two thirds of the time of what needs neither lab nor Ansible.
LONG = {f"test_{name}.py" for name in ("continued", "joining", "launch", "libraries", "prove", "swarm", "train")}
CLONE_NEWNET = 0x40000000  # linux/sched.h
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "scripts"
sys.path.insert(0, str(ROOT / "train"))  # for train_config, which stands beside the trainer

# One thread a rank, so that many ranks on two cores do not wait for each other's threads.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("WINFLEET_", "WANDB_", "MOLECULE_"))},
    "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_NOCOLOR": "1",
}


needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
    reason=f"needs root, {', '.join(PROGRAMS)}, for network namespaces",
)


def pytest_configure() -> None:
    """Gives each of several workers (tests/run.py) a network of its own, so that ports 29500-29504 are its own."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.environ.get("WINFLEET_TEST_NETWORKS") == "1":
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace for this worker")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs in the Windows lab or by Ansible, by its fixtures; files that take longest come first.

    Workers take whole files, one after the other, and the last one should not have the longest alone.
    """
    weights: dict[Path, int] = {}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "lab" in fixtures:
            item.add_marker("lab")
        if "fleet" in fixtures:
            item.add_marker("ansible")
        if item.path.name in LONG:
            item.add_marker("long")
        weight = sum(seconds for name, seconds in SECONDS.items() if name in fixtures or item.get_closest_marker(name))
        weights[item.path] = weights.get(item.path, 0) + weight
    items.sort(key=lambda item: -weights[item.path])


def patience(seconds: float) -> float:
    """How long something may take on this machine as it is now, that takes less than `seconds` where nothing else runs.

    What runs beside a test takes its share of the cores: processes that want one now, or did in the last minute.
    """
    wanting = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    return seconds * (1 + max(wanting, os.getloadavg()[0]) / (os.cpu_count() or 1))


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition says once it is true; fails the test after `seconds` of an idle machine."""
    begin, limit = time.monotonic(), patience(seconds)
    while time.monotonic() < begin + limit:
        if found := condition():
            return found
        time.sleep(0.1)
        limit = max(limit, patience(seconds))
    pytest.fail(f"{what} did not happen within {limit:.0f} s")


def processes_with(text: str) -> list[str]:
    """Command lines of processes whose command line or folder holds the text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if line and (text in line or text in os.readlink(folder / "cwd")) and int(folder.name) != os.getpid():
                found.append(f"{folder.name} {line}")
        except OSError:
            continue
    return found


class Fleet:
    """Two workers of this machine, below a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logs, self.inventory = folder, folder / "logs", folder / "hosts.yml"
        self.before: list[str] = []  # words before each command, as to run it in a network namespace
        self.hosts: dict[str, dict[str, Any]] = {
            f"worker{number}": {"ansible_host": f"127.0.0.{number}", "fleet_home": str(folder / f"worker{number}")}
            for number in (1, 2)
        }
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "uv_env_python": sys.executable,
            "fleet_logs": str(self.logs),
            "fleet_environment": {"OMP_NUM_THREADS": "1"},
            "fleet_project": str(SCRIPTS),
            "fleet_data": "",
            "fleet_config": "",
            "fleet_rehearsal": False,  # tests/test_rehearse.py has it; elsewhere it would only take its time
        }

    def write(self) -> None:
        """Writes the inventory as it stands now."""
        workers = {"workers": {"hosts": self.hosts, "vars": self.variables}}
        self.inventory.write_text(yaml.safe_dump(workers, allow_unicode=True), encoding="utf-8")

    def play(
        self, name: str, *arguments: str, seconds: float = 240, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a playbook to its end, with its two outputs as one text."""
        process = self.start(name, *arguments, **environment)
        output, _ = process.communicate(timeout=patience(seconds))
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def start(self, name: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Starts a playbook; arguments are settings (name=value) or options of ansible-playbook."""
        self.write()
        command = [*self.before, "ansible-playbook", name, "-i", str(self.inventory)]
        for argument in arguments:
            command += [argument] if argument.startswith("-") else ["-e", argument]
        return subprocess.Popen(command, cwd=ROOT, env={**ENVIRONMENT, **environment}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def home(self, host: str) -> Path:
        """The host's fleet_home, as a folder of this machine."""
        return self.folder / host

    def status(self, host: str, run: str) -> dict[str, Any]:
        """The run's status on a host, {} where there is none yet."""
        path = self.home(host) / "runs" / run / "status.json"
        values: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return values

    def wait_for_step(self, run: str, step: int, seconds: float = 60) -> None:
        """Waits until every rank has done so many steps."""
        wait_until(
            lambda: all(
                status and all(rank["step"] >= step for rank in status["ranks"])
                for status in (self.status(host, run) for host in self.hosts)
            ),
            seconds,
            f"step {step} of {run}",
        )


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A small cluster; whatever still runs on it is stopped afterwards."""
    made = Fleet(tmp_path)
    yield made
    if processes_with(str(tmp_path)):
        made.play("stop.yml", "fleet_stop_grace_seconds=0")
    left = processes_with(str(tmp_path))
    assert not left, f"processes stayed behind: {left}"


@pytest.fixture(scope="session")
def lab() -> Iterator["Lab"]:
    """A lab of Windows PCs, for as long as the tests that ask for it run."""
    from windows_lab import open_lab

    with open_lab() as made:
        yield made


@pytest.fixture(scope="module")
def stock(lab: "Lab", tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stock"]:
    """Three PCs that are made new again and again."""
    from windows_lab import Stock

    made = Stock(lab, lab.up(3), tmp_path_factory.mktemp("pcs"))
    yield made
    made.close()


@pytest.fixture
def pc(stock: "Stock") -> Iterator["NewPc"]:
    """A new Windows PC."""
    with stock.take() as made:
        yield made
