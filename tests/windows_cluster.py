"""Two Windows PCs of the lab as a cluster, on which the playbooks run as a user types them."""

import contextlib
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import ENVIRONMENT, ROOT, Fleet, wait_until
from lab_place import LAB, PREFIX, SETTINGS
from windows_lab import Lab, windows

ONE, TWO = f"{PREFIX}1".upper(), f"{PREFIX}2".upper()
LAUNCHER, RANK = "winfleet.launch", "winfleet.runner"


# Somebody else's program: listens on a port, and says its number.
STRANGER = """
import os, socket, sys, time
with socket.create_server(("0.0.0.0", int(sys.argv[1]))):
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def added(lab: Lab, name: str) -> Iterator[Path]:
    """The inventory inventories/NAME of two new PCs that worker_setup.ps1 opened and add_workers.yml added."""
    lab.do("down")
    names = lab.up(2)
    settings = {**SETTINGS, **{one: ENVIRONMENT[one] for one in ("PATH", "ANSIBLE_CONFIG")}, "LAB_CLUSTER": name}
    done = subprocess.run([LAB.with_name("ready"), *names], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inventory = ROOT / "inventories" / name
    try:
        yield inventory
    finally:
        for folder in (inventory, ROOT / "inventories" / "certificates" / name):
            shutil.rmtree(folder, ignore_errors=True)


class Cluster(Fleet):
    """Two Windows PCs with the inventory that add_workers.yml made of them."""

    def __init__(self, lab: Lab, folder: Path, inventory: Path) -> None:
        super().__init__(folder)
        self.lab, self.inventory = lab, inventory
        self.hosts = {host: {} for host in (ONE, TWO)}
        for of_linux in ("ansible_connection", "ansible_python_interpreter", "uv_env_python"):
            del self.variables[of_linux]

    def write(self) -> None:
        """Writes what stands beside the inventory."""
        for host, values in self.hosts.items():
            self.put(f"host_vars/{host}.yml", values)
        self.put("group_vars/workers.yml", self.variables)

    def put(self, name: str, values: dict[str, Any]) -> None:
        path = self.inventory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")

    def home(self, host: str) -> Path:
        """C:\\winfleet of a PC."""
        return self.lab.prefix(host.lower()) / "winfleet"

    def processes(self, host: str, *words: str) -> dict[int, str]:
        """See Lab.processes."""
        return self.lab.processes(host.lower(), *words)

    def of_runs(self, *words: str) -> list[str]:
        """Processes of runs on both PCs: launchers and ranks, or those that the words name."""
        return [line for host in self.hosts for line in self.processes(host, *(words or (LAUNCHER, RANK))).values()]

    def wait_for_the_end(self, seconds: float, *words: str) -> None:
        """Waits until no process of a run is left on any PC."""
        wait_until(lambda: not self.of_runs(*words), seconds, f"the end of {words or 'all processes'} of the run")

    def rank_log(self, run: str, host: str, rank: int) -> str:
        path = self.home(host) / "runs" / run / f"rank{rank}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""


@contextlib.contextmanager
def stranger(cluster: Cluster, host: str, port: int) -> Iterator[int]:
    """A program of someone else that listens on a port of a PC; its process id there."""
    script = cluster.folder / "stranger.py"
    script.write_text(STRANGER, "utf-8")
    command = [str(LAB), "run", host.lower(), r"C:\lab\python\python.exe", windows(script), str(port)]
    with subprocess.Popen(command, env=SETTINGS, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            output = process.stdout
            line = wait_until(
                lambda: select.select([output], [], [], 0)[0] and output.readline(), 60, "the stranger's number"
            )
            yield int(line)
        finally:
            for pid in cluster.processes(host, script.name):
                os.kill(pid, 9)
            process.kill()


@contextlib.contextmanager
def begun(cluster: Cluster, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """deploy_and_train.yml under way; a test that fails meanwhile leaves it no time to go on."""
    process = cluster.start("deploy_and_train.yml", *arguments)
    try:
        yield process
    finally:
        process.kill()


def errors(output: str) -> int:
    """How many errors are shown; what a program of a host said stands within one."""
    return len(re.findall("^error: ", output, re.MULTILINE))


def tasks(output: str) -> list[tuple[str, str]]:
    """The tasks that Ansible shows with -vvv, each with what it shows of it."""
    parts = re.split(r"^TASK \[(.+)\] \*+$", output, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))
