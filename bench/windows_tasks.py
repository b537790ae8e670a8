"""Counts and times the Windows tasks of worker_setup.yml, on PCs of the lab and on simulated ones.

    .venv/bin/python bench/windows_tasks.py lab -i inventories/bench [--hosts 1 2 4] [--record]
    .venv/bin/python bench/windows_tasks.py simulated [--hosts 1 2 4 8 16 32] [--repeat N]

`lab` sets PCs up and takes that back, so give it PCs of a lab and no others. `simulated` answers Ansible's own winrm
connection from windows_answers.json, which `lab --record` writes. Whatever the figures say, it exits with 0; with 1
where a playbook fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from frame import ROOT, BenchError, Program, children_seconds, goal, hosts_of, measure, print_machine, tool
from winfleet.controller import clusters
from winfleet.controller.scripts import whole

sys.path.insert(0, str(ROOT / "molecule" / "lab"))
from wsman_server import (
    NO_SHELL,
    PC,
    RESOURCE,
    SHELL,
    Accounts,
    Fault,
    Front,
    Listener,
    every,
    find,
    text,
)

ANSWERS: Final = ROOT / "bench" / "windows_answers.json"
OURS, PEER = "worker_setup.yml", "bench/windows_tasks_peer.yml"
PORT: Final = 45986  # of every simulated PC, on an address of its own
USER, PASSWORD = "lab", "lab"
MOST_TASKS: Final = 8  # goal: Windows tasks a host
MOST_GROWTH: Final = 1.1  # goal: CPU seconds per host and task with the most hosts / with 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run of ansible-playbook took."""

    seconds: float
    cpu: float  # seconds, user and system, of ansible-playbook and all its children
    notes: Sequence[Mapping[str, Any]]  # each Windows task: "host", "what", "answer"

    @property
    def hosts(self) -> int:
        """Hosts that had a task."""
        return len({note["host"] for note in self.notes})

    @property
    def changes(self) -> int:
        """Tasks that changed something."""
        return sum(bool(note["answer"].get("changed")) for note in self.notes)


def play(playbook: str, *arguments: str) -> Run:
    """Runs a playbook as a user does. Raises BenchError with what Ansible said."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        notes = Path(name, "notes.jsonl")
        notes.touch()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_CALLBACK_PLUGINS": f"{ROOT}/plugins/callback:{ROOT}/bench/callback",
            "ANSIBLE_CALLBACKS_ENABLED": "windows_tasks",
            "WINDOWS_TASKS_FILE": str(notes),
        }
        command = [tool("ansible-playbook"), playbook, *arguments]
        command += ["-e", f"winrm_setup_facts={name}/facts"]
        cpu = children_seconds()
        with Program(command, cwd=ROOT, env=environment, stderr=subprocess.STDOUT) as program:
            code = program.wait()
            seconds = time.perf_counter() - program.begin
        if code:
            raise BenchError(f"{' '.join(command)} exited with {code}\n{program.said()[-2_000:]}")
        lines = [json.loads(line) for line in notes.read_text("utf-8").splitlines()]
    return Run(seconds=seconds, cpu=children_seconds() - cpu, notes=lines)


# ---- PCs of the lab ----


def measure_lab(inventory: str, counts: Sequence[int], *, record: bool) -> None:
    """Prints tasks and seconds of a first and a second run, of winfleet and of the peer. Raises BenchError."""
    names = hosts_of(inventory, "windows")
    if len(names) < max(counts):
        raise BenchError(f"{inventory} has {len(names)} Windows hosts, {max(counts)} are asked for\nhint: --hosts 1 2")
    print(f"\n{'':18}{'Windows tasks':>15}{'first run':>20}{'no-op run':>20}")
    print(f"{'hosts':>5}{'':13}{'a host':>15}{'seconds':>11}{'changes':>9}{'seconds':>11}{'changes':>9}")
    for count in counts:
        these = ["-i", inventory, "--limit", ",".join(names[:count])]
        for name, playbook in (("winfleet", OURS), ("stock modules", PEER)):
            play(playbook, *these, "-e", "fleet_state=absent")
            first, again = play(playbook, *these), play(playbook, *these)
            tasks = len(again.notes) / count
            print(
                f"{count:>5}  {name:<14}{tasks:>12g}{first.seconds:>11.1f}{first.changes:>9}"
                f"{again.seconds:>11.1f}{again.changes:>9}",
                flush=True,
            )
            if record and playbook == OURS and count == counts[-1]:
                write_answers(again)


def write_answers(run: Run) -> None:
    """Keeps what one host answered to each script, without what Ansible adds on the controller."""
    host = run.notes[0]["host"]
    added = {"warnings", "failed_when_result", "diff"}
    kept = {
        str(note["what"]): {name: value for name, value in note["answer"].items() if name not in added}
        for note in run.notes
        if note["host"] == host
    }
    ANSWERS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# ---- simulated PCs ----


@dataclass
class Table:
    """A PC whose PowerShell has an answer for each script of the roles. In place of the lab's Service."""

    answers: dict[str, Any]  # by the SHA-256 of the script
    shells: dict[str, bytearray] = field(default_factory=dict)  # what came on stdin
    asked: int = 0  # scripts so far

    def handle(self, envelope: ET.Element, elevated: bool) -> str:  # noqa: ARG002 (the lab's form)
        """One request to the body of its answer. Raises Fault."""
        name = (text(envelope, "Action") or "").rsplit("/", 1)[-1]
        if name == "Create":
            shell = str(uuid.uuid4()).upper()
            self.shells[shell] = bytearray()
            return (
                f"<x:ResourceCreated><a:ReferenceParameters><w:ResourceURI>{RESOURCE}</w:ResourceURI><w:SelectorSet>"
                f'<w:Selector Name="ShellId">{shell}</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>'
                f"<rsp:Shell><rsp:ShellId>{shell}</rsp:ShellId></rsp:Shell>"
            )
        shell = next((s.text or "" for s in every(envelope, "Selector") if s.get("Name") == "ShellId"), "")
        if shell not in self.shells:
            raise Fault(NO_SHELL, f"no shell {shell}")
        if name == "Command":
            return f"<rsp:CommandResponse><rsp:CommandId>{uuid.uuid4()}</rsp:CommandId></rsp:CommandResponse>"
        if name == "Send":
            for stream in every(envelope, "Stream"):
                self.shells[shell] += base64.b64decode(stream.text or "")
            return "<rsp:SendResponse/>"
        if name == "Receive":
            return self.receive(envelope, bytes(self.shells[shell]))
        if name == "Delete":
            del self.shells[shell]
            return ""
        return "<rsp:SignalResponse/>"

    def receive(self, envelope: ET.Element, stdin: bytes) -> str:
        """All that the script prints, and that it has ended."""
        desired = find(envelope, "DesiredStream")
        command = desired.get("CommandId") if desired is not None else None
        printed = base64.b64encode(json.dumps(self.answer(stdin)).encode()).decode()
        return (
            f'<rsp:ReceiveResponse><rsp:Stream Name="stdout" CommandId="{command}">{printed}</rsp:Stream>'
            f'<rsp:CommandState CommandId="{command}" State="{SHELL}/CommandState/Done"><rsp:ExitCode>0</rsp:ExitCode>'
            "</rsp:CommandState></rsp:ReceiveResponse>"
        )

    def answer(self, stdin: bytes) -> Any:
        """What the module says. Ansible's last segment on stdin holds the module's arguments."""
        manifest = json.loads(stdin.split(b"\n\0\0\0\0\n")[-1])
        arguments = next(
            variable["Value"]
            for variable in manifest["actions"][0]["params"]["Variables"]
            if variable["Name"] == "complex_args"
        )
        found = self.answers.get(digest(arguments["script"]))
        if found is None:
            return {"failed": True, "msg": "no answer is recorded for this script; hint: windows_tasks.py lab --record"}
        self.asked += 1
        for rule in found["result"].get("rules", {}).values():  # as long as on a PC of such a cluster
            rule["remote_address"] = arguments["parameters"]["Workers"]
        return found


@dataclass
class Simulated:
    """What the lab's server asks of a PC."""

    bind: str
    service: Table
    accounts: Accounts
    log: bool = False

    def setting(self, name: str) -> bool:  # noqa: ARG002
        """Neither Basic nor unencrypted."""
        return False


def digest(script: str) -> str:
    """By what a script is known, whatever its line ends."""
    return hashlib.sha256(script.removeprefix("\ufeff").replace("\r\n", "\n").encode()).hexdigest()


def read_answers() -> dict[str, Any]:
    """The recorded answers by the digest of the roles' scripts as they are now."""
    recorded = json.loads(ANSWERS.read_text("utf-8"))
    scripts = {path.name: path for path in ROOT.glob("roles/*/files/*.ps1")}
    modules = ROOT / "plugins" / "module_utils"
    return {digest(whole(scripts[name], modules)): answer for name, answer in recorded.items()}


def make_certificate(address: str, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """A self-signed certificate for the address, as worker_setup.ps1 makes one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )


@contextmanager
def simulated_cluster(folder: Path, count: int, answers: dict[str, Any]) -> Iterator[list[Table]]:
    """An inventory of so many PCs in `folder`, and their servers while the context lasts."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    accounts, fronts, tables, workers = Accounts({USER: PASSWORD}), [], [], []
    try:
        for number in range(1, count + 1):
            address = f"127.0.1.{number}"
            certificate = make_certificate(address, key).public_bytes(serialization.Encoding.PEM)
            both = folder.parent / f"{number}.pem"
            both.write_bytes(certificate + private)
            tables.append(Table(json.loads(json.dumps(answers))))
            pc = Simulated(address, tables[-1], accounts)
            fronts.append(Front(cast("PC", pc), Listener(PORT, str(both))))
            workers.append(
                clusters.Worker(name=f"PC{number}", address=address, certificate=certificate.decode(), user=USER)
            )
        clusters.add(folder, workers, replace=False, dry_run=False)
        variables = {
            "ansible_port": PORT,
            "ansible_password": PASSWORD,
            # the firewall's rules leave loopback addresses out, and shall be as long as those of a real cluster
            "fleet_address": "{{ ansible_host | replace('127.0.1.', '10.99.0.') }}",
        }
        (folder / "group_vars").mkdir()
        (folder / "group_vars" / "windows.yml").write_text(json.dumps(variables), encoding="utf-8")
        yield tables
    finally:
        for front in fronts:
            front.close(cut=True)
        Path(accounts.file).unlink()


def measure_simulated(counts: Sequence[int], repeat: int) -> None:
    """Prints what no-op runs on so many PCs cost the controller. Raises BenchError."""
    answers = read_answers()
    rows: dict[int, tuple[float, float, float]] = {}
    print(f"\n{'':5}{'Windows tasks':>15}{'no-op run':>11}{'CPU':>9}{'CPU seconds per host and task':>32}")
    print(f"{'hosts':>5}{'a host':>15}{'seconds':>11}{'seconds':>9}{'all':>16}{'without start':>16}", flush=True)
    for count in sorted(counts):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name, "cluster")
            with simulated_cluster(folder, count, answers) as tables:
                runs = [play(OURS, "-i", str(folder)) for _ in range(repeat)]
                start = statistics.median(play(OURS, "-i", str(folder), "--tags", "none").cpu for _ in range(repeat))
            asked = sum(table.asked for table in tables)
        tasks = len(runs[0].notes)
        if asked != tasks * repeat or runs[0].hosts != count:
            raise BenchError(f"{count} hosts were asked {asked} times in {repeat} runs, Ansible counts {tasks} a run")
        seconds, cpu = (statistics.median(getattr(run, what) for run in runs) for what in ("seconds", "cpu"))
        rows[count] = seconds, cpu / tasks, (cpu - start) / tasks
        print(
            f"{count:>5}{tasks / count:>15g}{seconds:>11.1f}{cpu:>9.2f}{rows[count][1]:>16.3f}{rows[count][2]:>16.3f}",
            flush=True,
        )
    few, most = 2, max(counts)
    if few not in rows or most == few:
        return
    wall, cpu, marginal = (much / little for much, little in zip(rows[most], rows[few], strict=True))
    print(f"\n{most} hosts, and {most} hosts / {few} hosts")
    print(f"  Windows tasks a host                 {tasks / most:g}  {goal(tasks / most, MOST_TASKS)}")
    print(f"  CPU seconds per host and task        {cpu:.3f}  {goal(cpu, MOST_GROWTH)}")
    print(f"  the same without Ansible's start     {marginal:.3f}")
    print(f"  seconds of the run                   {wall:.3f}  ({most / few:g} times the hosts)")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Counts and times the Windows tasks of worker_setup.yml.")
    commands = parser.add_subparsers(dest="command", required=True)
    lab = commands.add_parser("lab", help="on PCs of a lab: first and no-op run, beside stock modules")
    lab.add_argument("-i", dest="inventory", required=True, help="inventory of the lab's PCs")
    lab.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4], help="on how many PCs (default: 1 2 4)")
    lab.add_argument("--record", action="store_true", help="keep the PC's answers for `simulated`")
    simulated = commands.add_parser("simulated", help="on simulated PCs: the controller's cost of a no-op run")
    simulated.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="on how many PCs")
    simulated.add_argument(
        "--repeat", type=int, default=3, help="runs of each, of which the median counts (default: 3)"
    )
    given = parser.parse_args()
    print_machine("ansible-core")
    if given.command == "lab":
        return measure(lambda: measure_lab(given.inventory, given.hosts, record=given.record))
    return measure(lambda: measure_simulated(given.hosts, given.repeat))


if __name__ == "__main__":
    sys.exit(main())
