"""Remote Linux workers over SSH: an sshd in each of two network namespaces on one bridge with this one."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from conftest import Fleet, wait_until
from namespaces import Net, apart, join, run, switch_on
from programs import output_of

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
NETWORK, HERE = "10.91.7", "10.91.7.9"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or SSHD is None or shutil.which("ip") is None,
    reason="needs root, sshd (openssh-server) and ip (iproute2)",
)


@pytest.fixture
def boxes() -> Iterator[list[Net]]:
    """Two network namespaces, on a bridge with this one."""
    cable = f"wf{os.getpid() % 100000}"
    with apart(2, NETWORK) as (hub, nets):
        join(hub, nets)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "here", "netns", hub)  # goes with the hub
        run("ip", "-n", hub, "link", "set", "here", "master", "bridge", "up")
        run("ip", "address", "add", f"{HERE}/24", "dev", cable)
        run("ip", "link", "set", cable, "up")
        for net in nets:
            switch_on(net)
        try:
            yield nets
        finally:
            for net in nets:  # sessions of sshd outlive it, and a namespace and its adapters whoever is in there
                for pid in output_of("ip", "netns", "pids", net.name).split():
                    os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def ssh_arguments(boxes: list[Net], tmp_path: Path) -> Iterator[str]:
    """What ssh needs to reach the sshd of each; its host key is checked, never ignored."""
    for key in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key))
    Path("/run/sshd").mkdir(exist_ok=True)
    with ExitStack() as stack, (tmp_path / "known_hosts").open("w") as known:
        for box in boxes:
            known.write(f"{box.address} {(tmp_path / 'host.pub').read_text()}")
            config, log = tmp_path / f"sshd_{box.address}", tmp_path / f"sshd_{box.address}.log"
            config.write_text(
                f"ListenAddress {box.address}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\n"
                "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
                "Subsystem sftp internal-sftp\n"
            )
            errors = stack.enter_context(log.open("w"))
            words = box.command(str(SSHD), "-D", "-e", "-f", config)
            sshd = stack.enter_context(subprocess.Popen(words, stderr=errors))
            stack.callback(sshd.terminate)
            wait_until(partial(listens, log), 10, "sshd's start")
        known.flush()
        yield f"-o UserKnownHostsFile={tmp_path}/known_hosts -o IdentityFile={tmp_path}/user -o IdentitiesOnly=yes"


def listens(log: Path) -> bool:
    """Whether the sshd of that log has begun."""
    return "Server listening" in log.read_text()


def by_ssh(fleet: Fleet, host: str, address: str, arguments: str) -> None:
    """Makes a worker a remote one."""
    fleet.hosts[host].update(
        {
            "ansible_host": address,
            "ansible_connection": "ssh",
            "ansible_user": "root",
            "ansible_ssh_common_args": arguments,
        }
    )


@pytest.mark.proof
def test_a_local_and_a_remote_worker_train_together(fleet: Fleet, ssh_arguments: str, boxes: list[Net]) -> None:
    fleet.hosts["worker1"]["ansible_host"] = HERE
    by_ssh(fleet, "worker2", boxes[0].address, ssh_arguments)
    done = fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 30", "fleet_run=ssh")
    assert done.returncode == 0, done.stdout
    assert "Training started with 2 processes across 2 nodes" in done.stdout
    assert "rank 1 of 2" in (fleet.logs / "ssh" / "worker2" / "rank1.log").read_text("utf-8")
    plan = (fleet.logs / "ssh" / "plan.json").read_text("utf-8")
    assert f'"address": "{boxes[0].address}"' in plan
    again = fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 30", "fleet_run=ssh2", "--check")
    assert again.returncode == 0, again.stdout
    assert "worker2: Send what the host lacks" not in again.stdout
    assert "worker2: Start the launcher" in again.stdout


@pytest.mark.index
def test_two_remote_workers_get_big_folders_from_each_other_and_by_ssh_where_the_port_is_closed(
    fleet: Fleet, ssh_arguments: str, boxes: list[Net]
) -> None:
    data = fleet.folder / "data"
    data.mkdir()
    for host, box in zip(fleet.hosts, boxes, strict=True):
        by_ssh(fleet, host, box.address, ssh_arguments)
        fleet.hosts[host]["ansible_python_interpreter"] = "/usr/bin/python3"  # which has no libtorrent
    fleet.variables.update({"fleet_data": str(data), "data_sync_swarm_mb": 1})
    for closed, said in (
        (False, "worker1 100%"),
        (True, "worker2: data goes there by SSH: nobody here reaches its TCP port 29503"),
    ):
        content = os.urandom(6_000_000)
        (data / "random.bin").write_bytes(content)
        boxes[1].drop("tcp dport 29503 drop" if closed else "")
        done = fleet.play("deploy_and_train.yml", "fleet_command=bare.py --steps 3", f"fleet_run=ssh{closed:d}")
        assert done.returncode == 0, done.stdout
        assert said in done.stdout
        assert ("by SSH" in done.stdout) == closed
        for host in ("worker1", "worker2"):
            newest = max((fleet.folder / host / "data").glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime)
            assert (newest / "random.bin").read_bytes() == content
            result = (fleet.folder / host / "swarm" / "result.json").read_text("utf-8")
            assert (host == "worker2" and closed) or '"state": "whole"' in result, result
