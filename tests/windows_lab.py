"""Windows PCs for tests: those of molecule/lab, in a lab of their own that stands beside any other."""

import contextlib
import fcntl
import hashlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, patience, wait_until
from lab_place import FOLDER, LAB, NET, PREFIX, SETTINGS, why_no_lab
from programs import call

SCRIPT = ROOT / "scripts" / "worker_setup.ps1"
MASTER, PASSWORD, ADAPTER = f"{NET}.1", "lab", "이더넷"
MOST_SECONDS = 300.0  # of a command of the lab's


in_the_lab = pytest.mark.skipif(bool(why_no_lab()), reason=why_no_lab())


def windows(path: Path) -> str:
    """A file of this machine as the PCs name it."""
    return f"Z:{path}".replace("/", "\\")


class Lab:
    """The only place that knows how the lab is spoken to. PCs are numbered from 1 on."""

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """A command of the lab's to its end; fails the test where that does not come, with what runs then."""
        with subprocess.Popen(
            [LAB, *words], env=SETTINGS, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                said, errors = process.communicate(timeout=patience(MOST_SECONDS))
            except subprocess.TimeoutExpired as late:
                listed = subprocess.run(
                    ["ps", "-eo", "pid,ppid,stat,wchan:16,etimes,args"], check=False, capture_output=True, text=True
                )
                process.kill()
                for pipe in (process.stdout, process.stderr):  # a program on the PC may hold their other ends
                    assert pipe
                    pipe.close()
                pytest.fail(f"lab {words} does not end: {late.stdout!r} {late.stderr!r}\n{listed.stdout}")
        return subprocess.CompletedProcess(process.args, process.returncode, said, errors)

    def do(self, *words: str) -> None:
        """A command that must succeed."""
        done = self.command(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    def up(self, count: int) -> list[str]:
        """So many PCs; those that are there stay as they are. Their names."""
        self.do("up", str(count))
        return [f"{PREFIX}{number}" for number in range(1, count + 1)]

    def run(self, pc: str, script: Path, *arguments: str) -> str:
        """Runs a script as an administrator who sits at the PC; what it printed, errors too."""
        done = self.command("run", pc, "--policy", "Bypass", str(script), *arguments)
        return done.stdout + "".join(line for line in done.stderr.splitlines(True) if not line.startswith("wine: "))

    def prefix(self, pc: str) -> Path:
        return FOLDER / pc / "drive_c"

    def join(self, pc: str, address: str) -> None:
        """Gives the PC one more address, until it is taken away."""
        command = ["ip", "-n", pc, "address", "add", f"{address}/24", "dev", ADAPTER]
        subprocess.run(command, check=True, capture_output=True)

    def leave(self, pc: str, address: str) -> None:
        """Takes it away again."""
        command = ["ip", "-n", pc, "address", "delete", f"{address}/24", "dev", ADAPTER]
        subprocess.run(command, check=False, capture_output=True)

    @contextlib.contextmanager
    def switched(self, pc: str, adapter: str, address: str) -> Iterator[None]:
        """A virtual switch's adapter on the PC, as WSL and Hyper-V make them: its name begins with vEthernet."""
        inside = ["ip", "-n", pc]
        subprocess.run([*inside, "link", "add", adapter, "type", "bridge"], check=True, capture_output=True)
        try:
            subprocess.run(
                [*inside, "address", "add", f"{address}/20", "dev", adapter], check=True, capture_output=True
            )
            subprocess.run([*inside, "link", "set", adapter, "up"], check=True, capture_output=True)
            yield
        finally:
            subprocess.run([*inside, "link", "delete", adapter], check=False, capture_output=True)

    def plug(self, pc: str, state: str) -> None:
        """Pulls the PC's network cable (`down`), or plugs it in again (`up`)."""
        subprocess.run(["ip", "-n", pc, "link", "set", ADAPTER, state], check=True, capture_output=True)

    def server(self, pc: str) -> int:
        """The Linux process of the PC's WinRM server; all that Ansible starts on the PC sees its disks."""
        return int((FOLDER / f"{pc}.pid").read_text())

    def add_disk(self, pc: str, folder: Path, megabytes: int) -> Path:
        """Puts a disk of its own below a folder of the PC, until the PC is made new; the folder as this machine sees it."""
        folder.mkdir(parents=True, exist_ok=True)
        inside = ["nsenter", "--target", str(self.server(pc)), "--mount"]
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        subprocess.run([*inside, *mount], check=True, capture_output=True)
        return Path(f"/proc/{self.server(pc)}/root{folder}")

    def processes(self, pc: str, *words: str) -> dict[int, str]:
        """Command lines with one of the words among a PC's processes, as Linux sees them, by their id there."""
        pids = subprocess.run(["ip", "netns", "pids", pc], capture_output=True, text=True, check=True).stdout
        found = {}
        for pid in pids.split():
            with contextlib.suppress(OSError):
                line = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if any(word in line for word in words):
                    found[int(pid)] = line
        return found

    def address(self, pc: str) -> str:
        return f"{NET}.{10 + int(pc.removeprefix(PREFIX))}"


@contextlib.contextmanager
def open_lab() -> Iterator[Lab]:
    """A lab without PCs yet, taken away at the end. One test run at a time has it, and takes away what a killed one left."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lab = Lab()
        lab.do("down")
        try:
            yield lab
        finally:
            lab.do("down")


# What the lab keeps outside its state file.
LOOK = """
$key = 'HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System'
$service = Get-Service WinRM
@{ service = "$($service.Status) $($service.StartType)"
   policy = (Get-ItemProperty $key -ErrorAction SilentlyContinue).LocalAccountTokenFilterPolicy
   certificates = @(Get-ChildItem Cert:\\LocalMachine\\My | Sort-Object Thumbprint | ForEach-Object { $_.Thumbprint }) } | ConvertTo-Json
"""


# Runs 1.ps1, 2.ps1, … as they appear, each in a scope of its own, and says on both outputs when one has ended.
WINDOW = """
param([string]$Folder)
for ($number = 1; ; $number++) {
    $pause = 20 # looking costs a PC that nobody sits at some of the machine's cores
    while (-not [IO.File]::Exists("$Folder\\$number.ps1")) { Start-Sleep -Milliseconds $pause; $pause = [Math]::Min($pause + 10, 300) }
    try { & "$Folder\\$number.ps1" | Out-Host } catch { Write-Host "error: $_" }
    [Console]::Out.WriteLine("end of $number")
    [Console]::Error.WriteLine("end of $number")
}
"""


class Window:
    """A PowerShell window at a PC: a script takes a fifth of the time that a PowerShell of its own would need."""

    def __init__(self, pc: str, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.number, self.read = folder, 0, [0, 0]
        self.outputs = [folder / "stdout", folder / "stderr"]
        script = folder / "window.ps1"
        script.write_text(WINDOW, "utf-8-sig")
        command = [str(LAB), "run", pc, "--policy", "Bypass", str(script), windows(folder)]
        with self.outputs[0].open("wb") as stdout, self.outputs[1].open("wb") as stderr:
            self.process = subprocess.Popen(command, env=SETTINGS, stdout=stdout, stderr=stderr)

    def type(self, commands: str) -> str:
        """Runs commands; what they printed, then their errors."""
        self.number += 1
        new = self.folder / "new"
        new.write_text(commands, "utf-8-sig")
        new.rename(self.folder / f"{self.number}.ps1")
        said = "".join(self.wait_for_end(index) for index in (0, 1))
        return "".join(line for line in said.splitlines(True) if not line.startswith("wine: "))

    def wait_for_end(self, index: int) -> str:
        end, output = f"end of {self.number}\n", self.outputs[index]

        def new_text() -> str:
            assert self.process.poll() is None, [path.read_text("utf-8") for path in self.outputs]
            text = output.read_text("utf-8")[self.read[index] :]
            return text if text.endswith(end) else ""

        text = str(wait_until(new_text, 180, f"the end of {self.folder / str(self.number)}.ps1"))
        self.read[index] += len(text)
        return text.removesuffix(end)

    def close(self) -> None:
        """The PC must be switched off or made new then, which ends what runs on it."""
        self.process.kill()
        self.process.wait()


class Pc:
    """A PC, and a copy of worker_setup.ps1 in a folder of its own, as on a USB stick."""

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        self.lab, self.folder, self.name, self.address = lab, folder, name, lab.address(name)
        self.script = folder / SCRIPT.name
        self.script.write_bytes(SCRIPT.read_bytes())
        self.window: Window | None = None

    def do(self, commands: str) -> str:
        """Runs commands at the PC."""
        self.window = self.window or Window(self.name, self.folder / "window")
        return self.window.type(commands)

    def setup(self, *arguments: str) -> str:
        """Runs worker_setup.ps1."""
        words = [
            word if re.fullmatch(r"-[A-Z]\w+", word) else "'" + word.replace("'", "''") + "'" for word in arguments
        ]
        return self.do(f"& '{windows(self.script)}' {' '.join(words)}")

    def setup_by_itself(self, *arguments: str) -> str:
        """The same in a PowerShell of its own, as worker_setup.cmd starts it."""
        return self.lab.run(self.name, self.script, *arguments)

    def win_ping(self, trust: Path, variables: Mapping[str, Any]) -> str:
        """What Ansible says that signs in as lab, with the certificate checked; `variables` say by what."""
        usual = {
            "ansible_connection": "winrm", "ansible_port": 5986, "ansible_user": "lab",
            "ansible_winrm_server_cert_validation": "validate", "ansible_winrm_ca_trust_path": str(trust),
        }  # fmt: skip
        words = ("-i", f"{self.address},", "-m", "ansible.windows.win_ping", "-e", json.dumps({**usual, **variables}))
        done = call("ansible", "all", *words)
        return done.stdout + done.stderr

    def close(self) -> None:
        if self.window:
            self.window.close()

    @property
    def notes(self) -> Path:
        return self.lab.prefix(self.name) / "ProgramData" / "winfleet"

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name.upper()}.worker.yml"

    def worker(self) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load(self.file.read_text("utf-8"))
        return values

    def raw(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.lab.prefix(self.name) / "lab" / "state.json").read_text("utf-8"))
        return values

    def state(self) -> dict[str, Any]:
        """All that the PC remembers, in an order of its own and without what is empty: firewall rules are rewritten."""
        state = {name: value for name, value in self.raw().items() if name != "remoting"}  # a note of the lab's own
        state["firewall"] = {
            rule["Id"]: {name: value for name, value in rule.items() if value} for rule in state["firewall"] or []
        }
        text = self.do(LOOK)
        return {**state, **json.loads(text[text.index("{") :]), "files": sorted(map(str, self.notes.rglob("*")))}

    def door(self, port: int) -> bool:
        with socket.socket() as client:
            client.settimeout(2)
            return client.connect_ex((self.address, port)) == 0

    def served_pem(self) -> str:
        """The certificate that port 5986 answers with."""
        return ssl.get_server_certificate((self.address, 5986), timeout=5)

    def served(self) -> list[str]:
        """The certificate that port 5986 answers with, as words; none while it does not answer."""
        try:
            return self.served_pem().split()
        except OSError:
            return []

    def assert_open(self) -> None:
        """The door is open to who has the worker's file, and nothing else is."""
        worker = self.worker()
        wait_until(
            lambda: self.served() == worker["certificate"].split(), 10, "an answer with the certificate of the file"
        )
        assert not self.door(5985)
        der = ssl.PEM_cert_to_DER_cert(worker["certificate"])
        assert worker["certificate_sha256"].replace(":", "").lower() == hashlib.sha256(der).hexdigest()
        assert (worker["name"], worker["address"], worker["port"]) == (self.name.upper(), self.address, 5986)
        wsman = self.raw()["wsman"]
        assert (wsman["Service\\Auth\\Basic"], wsman["Service\\AllowUnencrypted"]) == ("false", "false")
        assert wsman["Service\\IPv4Filter"] == "*"


class NewPc(Pc):
    """A freshly installed PC on which nothing listens; `before` is its state."""

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        super().__init__(lab, name, folder)
        lab.do("reset", name)
        self.do("Set-NetConnectionProfile -NetworkCategory Public")  # as it is; from here on there is a state file
        self.before = self.state()
        assert not self.door(5985)
        assert not self.door(5986)


class Stock:
    """New PCs: while a test uses one, the next ones are made."""

    def __init__(self, lab: Lab, names: list[str], folder: Path) -> None:
        self.lab, self.folder, self.made = lab, folder, 0
        self.pool = ThreadPoolExecutor(len(names))
        self.coming: list[Future[NewPc]] = []
        for name in names:
            self.order(name)

    def order(self, name: str) -> None:
        """Has this PC made new."""
        self.made += 1
        folder = self.folder / str(self.made)
        folder.mkdir()
        self.coming.append(self.pool.submit(NewPc, self.lab, name, folder))

    @contextlib.contextmanager
    def take(self) -> Iterator[NewPc]:
        """The next new PC, which goes back at the end."""
        pc = self.coming.pop(0).result()
        try:
            yield pc
        finally:
            pc.close()
            self.order(pc.name)

    def close(self) -> None:
        self.pool.shutdown()
        for one in self.coming:
            one.result().close()
