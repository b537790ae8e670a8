"""Doors that are shut, and runs that are cut off: worker_setup.yml names each cause once with host and fix, and goes on."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, patience, wait_until
from lab_place import NET
from windows_lab import MASTER, MOST_SECONDS, PASSWORD, Lab, Pc, in_the_lab
from winfleet.core.causes_table import CONNECTION

pytestmark = in_the_lab

# Commands that each PC's owner gives after worker_setup.ps1. The doors of the others are opened and stay as they are.
OTHER_CERTIFICATE = """
$c = New-SelfSignedCertificate -Subject CN=other -NotBefore (Get-Date).AddDays(FIRST) -NotAfter (Get-Date).AddDays(LAST) -TextExtension '2.5.29.17={text}IPAddress=ADDRESS'
$null = Set-WSManInstance winrm/config/Listener -SelectorSet @{ Address = '*'; Transport = 'HTTPS' } -ValueSet @{ CertificateThumbprint = $c.Thumbprint }
"""
POLICIES = "HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System"
SPOILED = {
    "good": "",
    "refused": "Stop-Service WinRM; Set-NetFirewallProfile -All -Enabled False",
    "remoting-off": "Stop-Service WinRM",
    "firewalled": "Disable-NetFirewallRule -Name winfleet-winrm-https",
    "renewed": OTHER_CERTIFICATE.replace("FIRST", "-1").replace("LAST", "99"),
    "expired": OTHER_CERTIFICATE.replace("FIRST", "-9").replace("LAST", "-1"),
    "early": OTHER_CERTIFICATE.replace("FIRST", "1").replace("LAST", "99"),
    "filtered": f"Remove-ItemProperty {POLICIES} LocalAccountTokenFilterPolicy",
    "by-hand": "$null = New-NetFirewallRule -Name winfleet-ports -DisplayName mine -Protocol TCP -LocalPort 80",
}
PINNED_AFTERWARDS = ("expired", "early")  # the others' certificates are known from before
CODES = {
    "refused": "refused",
    "remoting-off": "firewalled",  # a PC whose firewall is on keeps silent where nobody listens
    "firewalled": "firewalled",
    "renewed": "certificate-other",
    "expired": "certificate-expired",
    "early": "clock-skew",
    "filtered": "filtered-token",
    "wrong-password": "password",
    "not-trusted": "certificate-other",
    "not-pinned": "certificate-file",
    "unknown": "name-unknown",
}


class Cluster:
    """An inventory of PCs, and runs of worker_setup.yml on it."""

    def __init__(self, lab: Lab, folder: Path, pcs: dict[str, Pc]) -> None:
        self.lab, self.folder, self.pcs = lab, folder, pcs

    def host(self, name: str, **values: Any) -> dict[str, Any]:
        return {"ansible_host": self.pcs[name].address, "ansible_winrm_ca_trust_path": str(self.pem(name)), **values}

    def pem(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def start(self, hosts: dict[str, dict[str, Any]]) -> "subprocess.Popen[str]":
        """Starts worker_setup.yml with its two outputs as one."""
        variables = {"ansible_user": "lab", "winrm_setup_facts": str(self.folder / "facts")}
        groups = {"workers": {"hosts": hosts, "vars": variables}, "windows": {"hosts": dict.fromkeys(hosts)}}
        inventory = self.folder / f"{'-'.join(hosts)[:40]}.yml"
        inventory.write_text(yaml.safe_dump(groups, sort_keys=False), "utf-8")
        return subprocess.Popen(
            ["ansible-playbook", "worker_setup.yml", "-i", str(inventory)], cwd=ROOT, text=True, start_new_session=True,
            env={**ENVIRONMENT, "WINFLEET_PASSWORD": PASSWORD}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, hosts: dict[str, dict[str, Any]], seen: Callable[[str], Any] = len) -> tuple[int, str]:
        """Runs it to its end; `seen` is called with each line as it comes."""
        process = self.start(hosts)
        assert process.stdout
        lines = []
        limit = threading.Timer(patience(MOST_SECONDS), os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        try:
            for line in process.stdout:
                lines.append(line)
                seen(line)
            return process.wait(), "".join(lines)
        finally:
            limit.cancel()

    def assert_completes(self, name: str) -> None:
        """A run on this host alone does what is left to do, and the next one finds nothing."""
        code, output = self.run({name: self.host(name)})
        assert code == 0, output
        assert "error" not in output
        rules = {rule["Id"] for rule in self.pcs[name].raw()["firewall"] or []}
        assert {"winfleet-ports", "winfleet-gloo"} <= rules
        code, output = self.run({name: self.host(name)})
        assert code == 0, output
        assert f"{name}: Set" not in output, "changed again"


def errors(output: str) -> dict[str, list[str]]:
    """What was said of each host, hints too."""
    found: dict[str, list[str]] = {}
    for host, text in re.findall(r"^error: ([\w-]+): (.*(?:\n +hint: .*)?)", output, re.MULTILINE):
        found.setdefault(host, []).append(text)
    return found


@pytest.fixture(scope="module")
def cluster(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PC for each fault that is the PC's own."""
    folder, names = tmp_path_factory.mktemp("cluster"), lab.up(len(SPOILED))
    for name in SPOILED:
        (folder / name).mkdir()
    made = Cluster(lab, folder, {role: Pc(lab, pc, folder / role) for role, pc in zip(SPOILED, names, strict=True)})
    more = [f"{NET}.{number}" for number in (201, 202)]
    for address in more:
        lab.join(made.pcs["good"].name, address)

    def prepare(role: str) -> None:
        pc = made.pcs[role]
        assert "error" not in pc.setup("-MasterIP", MASTER)
        made.pem(role).write_text(pc.worker()["certificate"])
        assert pc.do(SPOILED[role].replace("ADDRESS", pc.address)) == ""
        if role in PINNED_AFTERWARDS:
            wait_until(lambda: pc.served() != made.pem(role).read_text().split(), 10, "the other certificate")
            made.pem(role).write_text(pc.served_pem())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, SPOILED))
    yield made
    for address in more:
        lab.leave(made.pcs["good"].name, address)  # the next test's PC is the same one, made new but for its adapter
    for pc in made.pcs.values():
        pc.close()
    lab.do("halt", *names)


def test_each_fault_is_named_once_and_the_others_go_on(cluster: Cluster) -> None:
    hosts = {name: cluster.host(name) for name in SPOILED}
    hosts["wrong-password"] = cluster.host("good", ansible_host=f"{NET}.201", ansible_password="wrong")
    hosts["not-trusted"] = {**cluster.host("firewalled"), "ansible_host": f"{NET}.202"}
    hosts["not-pinned"] = {"ansible_host": f"{NET}.203", "ansible_winrm_ca_trust_path": str(cluster.pem("nobody"))}
    hosts["unknown"] = {"ansible_host": "no-such-pc.invalid", "ansible_winrm_ca_trust_path": str(cluster.pem("good"))}
    hosts |= {name: {"ansible_host": f"{NET}.204"} for name in ("twin-1", "twin-2")}
    rule = cluster.pcs["by-hand"].state()["firewall"]["winfleet-ports"]
    named: dict[str, float] = {}

    def note(line: str) -> None:
        if found := re.match(r"error: ([\w-]+):", line):
            named[found[1]] = time.monotonic()

    code, output = cluster.run(hosts, note)
    assert code != 0
    said = errors(output)
    assert set(said) == {*CODES, "by-hand", "twin-1", "twin-2"}, output
    assert [host for host, texts in said.items() if len(texts) != 1] == [], output
    rows = {row.code: row for row in CONNECTION}
    for host, code_of_cause in CODES.items():
        row = rows[code_of_cause]
        cause, fix = row.cause.format(host=host), row.fix.format(host=host)
        assert said[host] == [f"did not answer: {cause} [{row.code}]\n  hint: {fix}"]
    for twin in ("twin-1", "twin-2"):
        assert f"hosts twin-1 and twin-2 have the same address {NET}.204\n  hint: " in said[twin][0]
    assert "a firewall rule named winfleet-ports is there that is not of the group winfleet" in said["by-hand"][0]
    assert cluster.pcs["by-hand"].state()["firewall"]["winfleet-ports"] == rule
    assert named["firewalled"] - named["unknown"] < patience(13), "three seconds, and what a busy machine adds"
    assert "Windows 11 Pro" in output, "the table of the hosts that were set up"
    cluster.assert_completes("good")


def when(host: str, task: str, act: Callable[[], Any]) -> Callable[[str], None]:
    """Acts once, when the host has changed by this task."""
    acted: list[str] = []

    def look(line: str) -> None:
        if f"{host}: {task}" in line and not acted:
            acted.append(line)
            act()

    return look


@pytest.mark.proof
def test_a_run_that_was_killed_is_completed_by_the_next(cluster: Cluster) -> None:
    cluster.pcs["firewalled"].do("Enable-NetFirewallRule -Name winfleet-winrm-https")
    process = cluster.start({"firewalled": cluster.host("firewalled")})
    assert process.stdout
    for line in process.stdout:
        if "firewalled: Set the rules" in line:
            os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (cluster.folder / "facts" / "firewalled.json").exists(), "it was killed before its end"
    cluster.assert_completes("firewalled")


@pytest.mark.proof
def test_a_connection_that_drops_is_one_clear_error(cluster: Cluster) -> None:
    pc = cluster.pcs["filtered"]
    pc.do(f"$null = New-ItemProperty {POLICIES} LocalAccountTokenFilterPolicy -Value 1 -PropertyType DWord -Force")
    unplug = when("filtered", "Set the rules", lambda: cluster.lab.plug(pc.name, "down"))
    try:
        code, output = cluster.run({"filtered": cluster.host("filtered")}, unplug)
    finally:
        cluster.lab.plug(pc.name, "up")
    assert code != 0
    said = errors(output)
    assert {name: len(texts) for name, texts in said.items()} == {"filtered": 1}, output
    assert re.fullmatch(r"did not answer: .* \[(dropped|firewalled|off)\]\n  hint: .*", said["filtered"][0]), output
    cluster.assert_completes("filtered")
