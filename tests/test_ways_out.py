"""What the controller's own environment must not change: hosts are reached directly, and Ansible starts whatever the locale is."""

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import patience
from programs import call
from winfleet.core.causes import describe_unreachable

PC, BEHIND_A_PROXY = "127.77.54.1", "127.77.54.2"


class Door:
    """Listens at an address and answers nothing; `asked` has the first line, or the first bytes, of each caller."""

    def __init__(self, address: str, port: int) -> None:
        self.asked: list[bytes] = []
        self.listener = socket.create_server((address, port))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.answer)
        self.thread.start()

    def answer(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                self.asked.append(client.recv(4096).partition(b"\r\n")[0])

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def doors() -> Iterator[tuple[Door, Door]]:
    """A PC's port for WinRM, and a proxy."""
    made = Door(PC, 5986), Door("127.0.0.1", 0)
    yield made
    for door in made:
        door.close()


def test_hosts_are_reached_past_the_controllers_proxy_unless_one_is_given(
    doors: tuple[Door, Door], tmp_path: Path
) -> None:
    pc, proxy = doors
    address = f"http://127.0.0.1:{proxy.port}"
    hosts = {"pc1": {"ansible_host": PC}, "pc2": {"ansible_host": BEHIND_A_PROXY, "ansible_winrm_proxy": address}}
    groups = {
        "windows": {"hosts": hosts, "vars": {"ansible_user": "lab", "ansible_password": "x"}},
        "workers": {"children": {"windows": None}},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
    done = call("ansible-playbook", "preflight.yml", "-i", str(tmp_path), environment=dict.fromkeys(names, address))
    assert any(pc.asked), done.stdout
    assert {*proxy.asked} == {f"CONNECT {BEHIND_A_PROXY}:5986 HTTP/1.0".encode()}, done.stdout


KNOCK = """
import sys
from ansible.errors import AnsibleConnectionFailure
from winfleet.controller.actions import knock
try:
    knock(sys.argv[1], int(sys.argv[2]))
except AnsibleConnectionFailure as error:
    print(error)
"""


def knocked(address: str, port: int) -> str:
    """What `knock` raises, called in another process: beside Ansible's modules torch cannot be imported."""
    done = call(sys.executable, "-c", KNOCK, address, str(port))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_host_where_nobody_takes_a_connection_is_known_in_seconds() -> None:
    """Its connection may take long, as the first sign-in of an account makes a profile."""
    with socket.create_server((PC, 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        address = full.getsockname()
        for _ in range(2):  # more than that the system does not take for a program that accepts nobody
            waiting.enter_context(contextlib.closing(client := socket.socket()))
            client.setblocking(False)
            client.connect_ex(address)
        time.sleep(0.1)
        begun = time.monotonic()
        silent = knocked(*address)
        assert time.monotonic() - begun < patience(6)
    codes = [re.findall(r"\[(\S+)\]", describe_unreachable("pc1", said)) for said in (silent, knocked(*address))]
    assert codes == [["firewalled"], ["refused"]]


LOCALES = (
    {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "ko_KR.UTF-8"}, {"LC_ALL": "ko_KR.eucKR"}, {"LC_ALL": "", "LANG": "ko_KR.UTF-8"},
    {"LC_ALL": "", "LANG": "C.UTF-8", "LC_TIME": "ko_KR.UTF-8"},  # as ssh hands a part of it over
)  # fmt: skip
DIALOGUE = "import sys; from winfleet.deploy import run; sys.exit(run([['ansible-playbook', '--version']], {}))"


@pytest.mark.parametrize("environment", LOCALES, ids=str)
def test_ansible_starts_in_a_locale_that_it_would_refuse(environment: dict[str, str]) -> None:
    refused = call("ansible-playbook", "--version", environment=environment).stderr
    assert re.search("could not initialize the preferred locale|requires the locale encoding to be UTF-8", refused)
    for words in (make("ansible-playbook --version"), (sys.executable, "-c", DIALOGUE)):
        done = call(*words, environment=environment)
        assert (done.returncode, "ansible-playbook [core" in done.stdout) == (0, True), done.stderr


def test_a_locale_that_works_stays() -> None:
    lines = call(*make("env #"), environment={"LC_ALL": "", "LANG": "C.UTF-8"}).stdout.splitlines()
    assert {"LC_ALL=", "LANG=C.UTF-8"} <= {*lines}


def make(program: str) -> tuple[str, ...]:
    """`make status` with another program in place of ansible-playbook; it installs nothing."""
    return ("make", "-o", ".venv/.control", "status", f"PLAY={program}")
