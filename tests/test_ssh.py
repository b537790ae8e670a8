"""A remote Linux worker over SSH: sshd in a network namespace that has an address of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Fleet, wait_until
from namespaces import run

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
BOX, HERE = "10.91.7.2", "10.91.7.1"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or SSHD is None or shutil.which("ip") is None,
    reason="needs root, sshd (openssh-server) and ip (iproute2)",
)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace, joined to this one by a pair of virtual adapters."""
    name = f"winfleet-{os.getpid()}"
    here, there = f"wf{os.getpid() % 100000}a", f"wf{os.getpid() % 100000}b"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        run("ip", "address", "add", f"{HERE}/24", "dev", here)
        run("ip", "link", "set", here, "up")
        run("ip", "-n", name, "address", "add", f"{BOX}/24", "dev", there)
        run("ip", "-n", name, "link", "set", there, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)  # the adapters go with it


@pytest.fixture
def ssh_arguments(namespace: str, tmp_path: Path) -> Iterator[str]:
    """What ssh needs to reach the sshd in the namespace; its host key is checked, never ignored."""
    for key in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key))
    (tmp_path / "known_hosts").write_text(f"{BOX} {(tmp_path / 'host.pub').read_text()}")
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress {BOX}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    words = ["ip", "netns", "exec", namespace, str(SSHD), "-D", "-e", "-f", str(config)]
    with (tmp_path / "sshd.log").open("w") as log, subprocess.Popen(words, stderr=log) as sshd:
        try:
            wait_until(lambda: "Server listening" in (tmp_path / "sshd.log").read_text(), 10, "sshd's start")
            yield f"-o UserKnownHostsFile={tmp_path}/known_hosts -o IdentityFile={tmp_path}/user -o IdentitiesOnly=yes"
        finally:
            sshd.terminate()


@pytest.mark.proof
def test_a_local_and_a_remote_worker_train_together(fleet: Fleet, ssh_arguments: str) -> None:
    fleet.hosts["worker1"]["ansible_host"] = HERE
    fleet.hosts["worker2"].update(
        {
            "ansible_host": BOX,
            "ansible_connection": "ssh",
            "ansible_user": "root",
            "ansible_ssh_common_args": ssh_arguments,
        }
    )
    done = fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 30", "fleet_run=ssh")
    assert done.returncode == 0, done.stdout
    assert "Training started with 2 processes across 2 nodes" in done.stdout
    assert "rank 1 of 2" in (fleet.logs / "ssh" / "worker2" / "rank1.log").read_text("utf-8")
    plan = (fleet.logs / "ssh" / "plan.json").read_text("utf-8")
    assert f'"address": "{BOX}"' in plan
    again = fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 30", "fleet_run=ssh2", "--check")
    assert again.returncode == 0, again.stdout
    assert "worker2: Send what the host lacks" not in again.stdout
    assert "worker2: Start the launcher" in again.stdout
