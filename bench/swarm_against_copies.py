"""Compares the swarm with a star from one HTTP server and with Ansible's copy, on links of 100 Mbit/s.

    .venv/bin/python bench/swarm_against_copies.py [--mb N] [--hosts 2 4 8 16] [--ways swarm star copy]

The controller and each host are network namespaces on one bridge; every link is limited in both directions. Needs root,
iproute2 and, for Ansible's copy, sshd. Times are divided by S/B, the time in which one link carries the content once.
Whatever the figures say, it exits with 0; with 1 where a transfer fails. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from frame import BenchError, goal, measure, need_root, programs, tool
from namespaces import Net, in_namespaces, made, run
from winfleet.core.plan import SWARM_PORT
from winfleet.transfer.folders import SHORT, digest, list_files
from winfleet.transfer.job import Folder, Job
from winfleet.transfer.seeding import Share, seed
from winfleet.transfer.torrents import make_torrent

FILES: Final = 4
NETWORK: Final = "10.98.7"
GOAL: Final = 1.2  # of the swarm's time to S/B
WAYS: Final = ("swarm", "star", "copy")
HOST_START_SECONDS: Final = 60.0  # hosts are ready before the clock starts
TORRENT, LOG = "content.torrent", "log.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one transfer took."""

    seconds: float
    idle: float  # share of all cores, 0 to 1
    sent: float = 0.0  # copies of the content that left the controller's link


def wait_for_listeners(nets: Sequence[Net], port: int) -> None:
    """Until something listens on the port in each namespace. Raises BenchError."""
    deadline = time.monotonic() + HOST_START_SECONDS
    for net in nets:
        while f":{port} " not in told(net, "ss", "-Hltn"):
            if time.monotonic() > deadline:
                raise BenchError(f"nothing listens on port {port} in {net.name}")
            time.sleep(0.1)


def told(net: Net, *words: str) -> str:
    """What a command says in a namespace."""
    return subprocess.run(net.command(*words), capture_output=True, text=True, check=True).stdout


def link_bytes(net: Net) -> int:
    """Bytes that left a namespace's link."""
    return int(told(net, "cat", "/sys/class/net/eth0/statistics/tx_bytes"))


@contextlib.contextmanager
def measured(controller: Net, size: int) -> Iterator[list[Figure]]:
    """Puts the figure of what is done inside into the list."""
    found: list[Figure] = []
    before, sent, start = psutil.cpu_times(), link_bytes(controller), time.perf_counter()
    yield found
    seconds, after = time.perf_counter() - start, psutil.cpu_times()
    idle = (after.idle + after.iowait) - (before.idle + before.iowait)
    found.append(
        Figure(seconds=seconds, idle=idle / (sum(after) - sum(before)), sent=(link_bytes(controller) - sent) / size)
    )


def by_swarm(source: Path, folder: Path, nets: Sequence[Net]) -> Figure:
    """Time from the controller's start until the last host has told that all is there and verified."""
    files = list_files(source, honour_git=False)
    content = digest(source, files)
    (folder / TORRENT).write_bytes(make_torrent(source, files, content[:SHORT]))
    hosts = {f"host{number}": net.address for number, net in enumerate(nets[1:], 1)}
    for host, own in hosts.items():
        (folder / host).mkdir()
        job = Job(
            host=host, address=own, result=str(folder / host / "result.json"), controllers=(nets[0].address,),
            peers={name: other for name, other in hosts.items() if name != host},
            folders=(Folder(kind="data", target=str(folder / host / content[:SHORT]), expected=content,
                            torrent=str(folder / TORRENT)),),
        )  # fmt: skip
        (folder / host / "job.json").write_text(job.to_json(), "utf-8")
    jobs = [
        net.command(sys.executable, "-m", "winfleet.transfer.swarm", "--job", str(folder / host / "job.json"))
        for net, host in zip(nets[1:], hosts, strict=True)
    ]
    share = Share(source=source, torrent=(folder / TORRENT).read_bytes(), root=content[:SHORT])
    with programs(jobs, folder / LOG):
        wait_for_listeners(nets[1:], SWARM_PORT)
        with measured(nets[0], _size(source)) as found:
            (seconds,) = in_namespaces(nets[:1], give, [(share, hosts)])
    return dataclasses.replace(found[0], seconds=seconds)


def give(share: Share, hosts: Mapping[str, str]) -> float:
    """The controller's part of the swarm, in its namespace; its seconds. Raises BenchError where a host went without."""
    start = time.perf_counter()
    results = seed([share], hosts)
    seconds = time.perf_counter() - start
    if any(result.state != "whole" for result in results.values()):
        raise BenchError("\n".join(map(str, results.values())))
    return seconds


def by_star(source: Path, folder: Path, nets: Sequence[Net]) -> Figure:
    """Time until the last host has fetched all files from the controller's HTTP server, and digested them."""
    files = [str(name) for name in list_files(source, honour_git=False)]
    server = nets[0].command(
        sys.executable, "-m", "http.server", "8000", "--bind", nets[0].address, "--directory", source
    )
    with programs([server], folder / LOG):
        wait_for_listeners(nets[:1], 8000)
        hosts = nets[1:]
        with measured(nets[0], _size(source)) as found:
            in_namespaces(hosts, take, [(nets[0].address, folder / host.name, files) for host in hosts])
    return found[0]


def take(address: str, target: Path, names: Sequence[str]) -> None:
    """One host of the star."""
    target.mkdir()
    for name in names:
        with urllib.request.urlopen(f"http://{address}:8000/{name}") as answer, (target / name).open("wb") as file:
            shutil.copyfileobj(answer, file, 2**20)
        with (target / name).open("rb") as file:
            hashlib.file_digest(file, "sha256")


def by_copy(source: Path, folder: Path, nets: Sequence[Net]) -> Figure:
    """Time of `ansible -m copy` of one file with all the content, over ssh, with as many forks as hosts."""
    for key in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    public = (folder / "host.pub").read_text("utf-8")
    whole = folder / "whole.bin"
    with whole.open("wb") as file:
        for name in list_files(source, honour_git=False):
            file.write((source / name).read_bytes())
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if sshd is None:
        raise BenchError("no sshd\nhint: apt-get install openssh-server, or leave out --ways copy")
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "known_hosts").write_text("".join(f"{net.address} {public}" for net in nets[1:]))
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    # connections that Ansible keeps open for a minute lead into the last network; hence a place of their own
    keep = ["env", f"ANSIBLE_SSH_CONTROL_PATH_DIR={folder}/ssh"]
    options = f"-o UserKnownHostsFile={folder}/known_hosts -o IdentityFile={folder}/user -o IdentitiesOnly=yes"
    lines = [f"{net.name} ansible_host={net.address} target={folder}/{net.name}" for net in nets[1:]]
    (folder / "hosts.ini").write_text(
        "[all:vars]\nansible_user=root\n"
        f"ansible_python_interpreter={sys.executable}\nansible_ssh_common_args={options}\n[workers]\n"
        + "\n".join(lines)
        + "\n"
    )
    daemons = [net.command(sshd, "-D", "-e", "-f", folder / "sshd_config") for net in nets[1:]]
    with programs(daemons, folder / LOG):
        wait_for_listeners(nets[1:], 22)
        words = ["-i", str(folder / "hosts.ini"), "workers", "-f", str(len(nets)), "-m", "ansible.builtin.copy"]
        copy = [tool("ansible"), *words, "-a", f"src={whole} dest={{{{ target }}}} mode=0644"]
        with measured(nets[0], _size(source)) as found:
            done = subprocess.run(nets[0].command(*keep, *copy), capture_output=True, text=True, check=False)
        if done.returncode:
            log = (folder / LOG).read_text("utf-8", "replace")
            raise BenchError(f"{copy[-1]} failed\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}{log[-2_000:]}")
    return found[0]


def _size(source: Path) -> int:
    return sum((source / name).stat().st_size for name in list_files(source, honour_git=False))


def compare(mb: int, mbit: int, hosts: Sequence[int], ways: Sequence[str]) -> None:
    """Runs and prints the table."""
    functions = {"swarm": by_swarm, "star": by_star, "copy": by_copy}
    limit = ("tbf", "rate", f"{mbit}mbit", "burst", "32k", "latency", "50ms")
    once = mb * 1e6 / (mbit * 1e6 / 8)
    print(
        f"{mb} MB in {FILES} files, links of {mbit} Mbit/s: S/B = {once:.1f} s; {psutil.cpu_count()} cores", flush=True
    )
    print(f"{'hosts':>5}  {'way':<6}{'seconds':>9}{'/ (S/B)':>9}{'sent / S':>10}{'CPU idle':>10}  against the swarm")
    for count in hosts:
        swarm = 0.0
        for way in ways:
            with tempfile.TemporaryDirectory(prefix="bench-swarm-") as name:
                folder, source = Path(name), Path(name, "source")
                source.mkdir()
                for number in range(FILES):
                    (source / f"part{number}").write_bytes(os.urandom(mb * 10**6 // FILES))
                with made(count + 1, NETWORK, limit) as nets:
                    figure = functions[way](source, folder, nets)
            ratio = figure.seconds / once
            swarm = figure.seconds if way == "swarm" else swarm
            note = goal(ratio, GOAL) if way == "swarm" else ""
            note = f"{figure.seconds / swarm:.1f} times as long" if way != "swarm" and swarm else note
            print(
                f"{count:>5}  {way:<6}{figure.seconds:>9.1f}{ratio:>9.2f}{figure.sent:>10.2f}{figure.idle:>10.0%}  {note}",
                flush=True,
            )


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compares the swarm with a star and with Ansible's copy.")
    parser.add_argument("--mb", type=int, default=256, help="size of the content in MB (default: 256)")
    parser.add_argument("--mbit", type=int, default=100, help="of every link, both ways, in Mbit/s (default: 100)")
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4, 8, 16], help="how many (default: 2 4 8 16)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    found = parser.parse_args()
    need_root(parser)
    return measure(lambda: compare(found.mb, found.mbit, found.hosts, found.ways))


if __name__ == "__main__":
    sys.exit(main())
