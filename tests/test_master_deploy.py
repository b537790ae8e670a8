"""The master's dialogue at a terminal, and scripts/master_deploy.ps1 up to the border of WSL and beyond it."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, SCRIPTS, patience
from made_files import certificate
from programs import call, output_of
from windows_lab import Lab, in_the_lab, windows
from winfleet.controller.clusters import Worker, add, fingerprint

ADDRESS = "127.77.53.1"  # of the loopback: a PC that shows a certificate
PASSWORD = "päss'w$rd"
TRAIN = ("deploy_and_train.yml", "-i")
# In place of ansible-playbook: writes down what it was called with, a line a call.
RECORDER = """#!{python}
import json, os, sys
given = {{name: os.environ.get(name) for name in ("WINFLEET_USER", "WINFLEET_PASSWORD")}}
print(json.dumps([sys.argv[1:], given, os.getcwd()]), file=open("{calls}", "a"))
"""


class Master:
    """A copy of the dialogue with inventories of its own, and a recorder in place of ansible-playbook."""

    def __init__(self, folder: Path) -> None:
        self.root, self.calls = folder / "root", folder / "calls"
        shutil.copytree(ROOT / "train" / "winfleet", self.root / "train" / "winfleet")
        (folder / "bin").mkdir()
        program = folder / "bin" / "ansible-playbook"
        program.write_text(RECORDER.format(python=sys.executable, calls=self.calls))
        program.chmod(0o755)
        self.environment = {**ENVIRONMENT, "PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}", "PYTHONPATH": str(self.root / "train"),
                            "LC_ALL": "C.UTF-8"}  # fmt: skip
        self.command = [sys.executable, "-m", "winfleet.deploy"]

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """With arguments, and without a terminal."""
        return call(*self.command, *words, folder=self.root, environment={**self.environment, **environment})

    def called(self) -> list[Any]:
        """[arguments, account, folder] of each call; -e as values."""
        calls = [json.loads(line) for line in self.calls.read_text("utf-8").splitlines()] if self.calls.exists() else []
        for words, _, folder in calls:
            assert folder == str(self.root)
            words[:] = [json.loads(word) if word.startswith("{") else word for word in words]
        return [call[:2] for call in calls]


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path)


@pytest.fixture
def pc(tmp_path: Path) -> Iterator[str]:
    """A PC that answers on port 5986; its certificate."""
    pem = certificate(tmp_path, "pc")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pc.crt", tmp_path / "key")

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                context.wrap_socket(listener.accept()[0], server_side=True).close()
            except ssl.SSLError:
                continue
            except OSError:
                return

    with socket.create_server((ADDRESS, 5986)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        yield pem
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_dialogue_asks_compares_and_hides_the_password(master: Master, pc: str, tmp_path: Path) -> None:
    (tmp_path / "my project").mkdir()
    terminal = pexpect.spawn(
        master.command[0], master.command[1:], env=master.environment, encoding="utf-8", timeout=patience(20)
    )
    said = []
    for question, answer in (
        ("Name of the cluster .lab.: ", "연구실"),
        ("Workers: .*: ", f"{ADDRESS}"),
        (
            f"pc-127-77-53-1 {ADDRESS} answers; .*new, SHA-256\\s+{fingerprint(pc)}(?s:.*)Type yes to trust them: ",
            "yes",
        ),
        ("Account on the workers .winfleet.: ", "lab"),
        ("Password on the workers .*: ", PASSWORD),
        ("Folder of your project .*: ", str(tmp_path / "none")),
        ("no folder .*none\r\nhint: (?s:.*)Folder of your project .*: ", str(tmp_path / "my project")),
        ("Its command .train.py.: ", "train.py --epochs 3"),
        ("Folder of your data .*: ", ""),
    ):
        terminal.expect(question)
        said += [terminal.before, terminal.after]
        terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0, terminal.before
    assert PASSWORD not in "".join([*said, terminal.before])
    settings = {"fleet_data": "", "fleet_config": "", "fleet_project": str(tmp_path / "my project")}
    new = {
        "fleet_cluster": "연구실",
        "fleet_worker_addresses": [ADDRESS],
        "fleet_fingerprints": {ADDRESS: fingerprint(pc)},
    }
    account = {"WINFLEET_USER": "lab", "WINFLEET_PASSWORD": PASSWORD}
    assert master.called() == [
        [["add_workers.yml", "-e", new], account],
        [["worker_setup.yml", "-i", "inventories/연구실"], account],
        [[*TRAIN, "inventories/연구실", "-e", {**settings, "fleet_command": "train.py --epochs 3"}], account],
    ]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != master.calls]
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []


def test_a_no_adds_nothing(master: Master, pc: str) -> None:
    terminal = pexpect.spawn(
        master.command[0],
        [*master.command[1:], "--workers", ADDRESS],
        env=master.environment,
        encoding="utf-8",
        timeout=patience(20),
    )
    terminal.expect("Type yes to trust them: ")
    terminal.sendline("no")
    terminal.expect("error: the certificates were not confirmed, so nothing was added")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert (terminal.exitstatus, master.called()) == (2, [])


def known_cluster(master: Master, pem: str, tmp_path: Path) -> None:
    """inventories/lab with PC1, and inventories/two with one that does not answer besides."""
    first = Worker(name="PC1", address=ADDRESS, certificate=pem, user="lab")
    other = Worker(name="PC2", address="127.77.53.2", certificate=certificate(tmp_path, "pc2"))
    for name, workers in (("lab", [first]), ("two", [first, other])):
        add(master.root / "inventories" / name, workers, replace=False, dry_run=False)


def test_with_arguments_a_known_cluster_trains_without_a_question(master: Master, pc: str, tmp_path: Path) -> None:
    known_cluster(master, pc, tmp_path)
    done = master.run("--workers", ADDRESS, "--skip-deploy", WINFLEET_PASSWORD="secret")
    assert done.returncode == 0, done.stderr
    assert f"PC1 {ADDRESS} answers" in done.stdout
    account = {"WINFLEET_USER": None, "WINFLEET_PASSWORD": "secret"}
    train = [*TRAIN, "inventories/lab"]
    assert master.called() == [[[*train, "-e", {"fleet_skip_deploy": True}], account]]
    master.calls.unlink()
    assert master.run("--cluster", "lab", WINFLEET_PASSWORD="secret").returncode == 0
    assert master.called() == [[["worker_setup.yml", "-i", "inventories/lab"], account], [train, account]]


def test_a_worker_file_says_account_and_gpus(master: Master, pc: str, tmp_path: Path) -> None:
    facts = {"gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564}]}
    values = {"name": "PC1", "address": ADDRESS, "user": "lab", "certificate": pc, "facts": facts}
    (tmp_path / "PC1.worker.yml").write_text(yaml.safe_dump(values))
    done = master.run("--files", str(tmp_path), "--skip-deploy")
    assert "GPUs: NVIDIA GeForce RTX 4090" in done.stdout
    added, _ = master.called()
    assert added[0] == ["add_workers.yml", "-e", {"fleet_cluster": "lab", "fleet_worker_files": str(tmp_path)}]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workers", ADDRESS, "--cluster", "new"], ["nobody has compared the certificates yet\nhint: compare, then --fingerprint 127.77.53.1=FINGERPRINT\n"]),
        (["--workers", ADDRESS, "--cluster", "two"], ["inventories/two also has PC2\nhint: name them too"]),
        (["--cluster", "two"], ["127.77.53.2:5986 gave no certificate: ", "hint: run scripts\\worker_setup.cmd on that PC first"]),
        (["--cluster", "none"], ["inventories/none has no workers\nhint: --workers A,B or --files FOLDER"]),
        (["--cluster", "a/b"], ["--cluster 'a/b' is no name\nhint: letters"]),
        (["--workers", "no.such.name.invalid"], ["no.such.name.invalid resolves to no address\nhint: "]),
        (["--project", "/no/such"], ["no folder /no/such\nhint: "]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_started(
    master: Master, pc: str, tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    known_cluster(master, pc, tmp_path)
    done = master.run(*words)
    for sentence in expected:
        assert sentence.replace("FINGERPRINT", fingerprint(pc)) in done.stderr
    assert (done.returncode, master.called()) == (2, [])


def test_a_changed_certificate_is_refused(master: Master, pc: str, tmp_path: Path) -> None:
    known_cluster(master, certificate(tmp_path, "before"), tmp_path)
    done = master.run("--workers", ADDRESS, WINFLEET_PASSWORD="secret")
    assert f"error: PC1 ({ADDRESS}): its certificate has the SHA-256 {fingerprint(pc)}, known is" in done.stderr
    assert (done.returncode, master.called()) == (2, [])


# ---- the Windows master ----
class Windows:
    """A PC with a stand-in for wsl.exe, and a copy of the scripts."""

    def __init__(self, lab: Lab, pc: str, folder: Path) -> None:
        self.lab, self.pc, self.root = lab, pc, folder / "winfleet main"
        (self.root / "scripts").mkdir(parents=True)
        for path in (*(ROOT / "scripts").glob("master_deploy.*"), ROOT / "scripts" / "door.ps1"):
            shutil.copy(path, self.root / "scripts")
        self.system = lab.prefix(pc) / "windows" / "system32"
        options = ("-municode", "-O1", "-static", "-o", folder / "wsl.exe")
        output_of("x86_64-w64-mingw32-gcc", *options, SCRIPTS / "wsl.c")
        self.program = folder / "wsl.exe"

    def open(
        self, *words: str, distributions: bytes | None, name: str = "master_deploy.ps1"
    ) -> tuple[int, str, list[str]]:
        """Exit status, output, and what wsl.exe was called with. Without distributions, b"": none; None: no WSL."""
        for path in self.system.glob("wsl.*"):
            path.unlink()
        if distributions is not None:
            shutil.copy(self.program, self.system)
            (self.system / "wsl.list").write_bytes(distributions)
        done = self.lab.command("run", self.pc, "--policy", "Bypass", str(self.root / "scripts" / name), *words)
        called = self.system / "wsl.called"
        words_of_wsl = called.read_text("utf-8").splitlines() if called.exists() else []
        return done.returncode, done.stdout + done.stderr, words_of_wsl


@pytest.fixture(scope="module")
def windows_pc(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Windows:
    return Windows(lab, lab.up(1)[0], tmp_path_factory.mktemp("master"))


# older versions write UTF-16, whatever WSL_UTF8 says
UBUNTU = "docker-desktop\r\nUbuntu-24.04\r\n우분투\r\n".encode("utf-16-le")


def in_wsl(folder: Path, packed: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """master_deploy.sh as bash in WSL would run it, up to make, which only says what it would do."""
    given = {"HOME": str(folder.parent / "home"), "MAKEFLAGS": "n", **environment}
    return call("bash", "scripts/master_deploy.sh", packed, folder=folder, environment=given)


def words_of(commands: str) -> list[str]:
    """The words that the last command gives to winfleet.deploy, by bash, which make uses."""
    said = output_of("bash", "-c", f"printf '%s\\0' {commands.splitlines()[-1]}")
    python, *rest = said.split("\0")[:-1]
    assert (python, rest[:2]) == (".venv/bin/python", ["-m", "winfleet.deploy"])
    return rest[2:]


@in_the_lab
def test_addresses_reach_the_dialogue_in_wsl_as_they_were_given(windows_pc: Windows, tmp_path: Path) -> None:
    words = ["--project", "C:\\my 'work' \"$HOME\" `x` 연구\\"]
    status, said, called = windows_pc.open("-WorkerIPs", "10.0.0.1,pc-2", "-SkipDeploy", *words, distributions=UBUNTU)
    assert status == 7, said
    folder, *options, packed = called
    assert folder == windows(windows_pc.root)
    assert options == ["--distribution", "Ubuntu-24.04", "--exec", "bash", "scripts/master_deploy.sh"]
    checkout = tmp_path / "winfleet main"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    shutil.copy(ROOT / "Makefile", checkout)
    (checkout / "train").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / "train" / name, checkout / "train")
    done = in_wsl(checkout, packed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "winfleet" / "Makefile").read_bytes() == (ROOT / "Makefile").read_bytes()
    assert words_of(done.stdout) == ["--workers", "10.0.0.1,pc-2", "--skip-deploy", *words]


@in_the_lab
def test_without_arguments_the_dialogue_asks(windows_pc: Windows) -> None:
    """By the .cmd, from a window whose variables have the account."""
    given = ["WINFLEET_USER=연구", f"WINFLEET_PASSWORD={PASSWORD.replace('ä', 'a')}"]
    before = ["WSLENV=HOME/p:OTHER/w", "OTHER=1", *given]
    door = windows_pc.root / "scripts" / "master_deploy.cmd"
    lines = [*(f'@set "{one}"' for one in before), f'@"{windows(door)}"', ""]
    (door.parent / "typed.cmd").write_bytes("\r\n".join(lines).encode("cp949"))
    status, said, called = windows_pc.open(distributions=b"Debian\r\n", name="typed.cmd")
    assert status == 7, said
    expected = ["--distribution", "Debian", "--exec", "bash", "scripts/master_deploy.sh"]
    assert [word for word in called[1:] if word] == [*expected, *given]


@in_the_lab
@pytest.mark.parametrize(
    ("words", "distributions", "expected"),
    [
        ([], None, "error: this PC has no WSL\nhint: as administrator: wsl --install -d Ubuntu-24.04"),
        ([], b"", "error: wsl.exe named no distribution within 20 s: WSL is not installed, or does not start\nhint: as administrator: wsl --install"),
        ([], b"\r\n", "error: WSL has no Linux distribution\nhint: as administrator: wsl --install"),
        ([], b"docker-desktop\r\n", "error: WSL has no Linux distribution"),
        (["-Distribution", "Arch"], UBUNTU, "error: WSL has no distribution Arch, but Ubuntu-24.04, 우분투\nhint: wsl --install -d Arch"),
        (["-WorkerIPs", "10.0.0.1;calc"], UBUNTU, 'error: -WorkerIPs "10.0.0.1;calc" is no address of a PC\nhint: as in -WorkerIPs'),
    ],
    ids=["wsl", "not installed", "distribution", "docker alone", "another", "address"],
)  # fmt: skip
def test_what_windows_lacks_is_named(
    windows_pc: Windows, words: list[str], distributions: bytes | None, expected: str
) -> None:
    status, said, called = windows_pc.open(*words, distributions=distributions)
    assert expected in said
    assert (status, called) == (2, [])


@in_the_lab
def test_what_if_starts_nothing(windows_pc: Windows) -> None:
    status, said, called = windows_pc.open("-WhatIf", "-SkipDeploy", distributions=UBUNTU)
    assert (status, called) == (0, []), said
    assert "run make deploy --skip-deploy" in said


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        program = tmp_path / "bin" / name
        program.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.12\n')
        program.chmod(0o755)
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    done = in_wsl(tmp_path / "checkout", "", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 2
    said = "has Python 3.10.12, needed is 3.11 or newer\nhint: in PowerShell: wsl --install -d Ubuntu-24.04"
    assert said in done.stderr
    assert not (tmp_path / "home").exists()
