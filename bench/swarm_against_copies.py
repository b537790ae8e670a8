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
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil
from frame import BenchError, goal, measure, need_root, programs, tool
from namespaces import Net, made, run
from winfleet.core.plan import SWARM_PORT
from winfleet.transfer.folders import SHORT, digest, list_files
from winfleet.transfer.seeding import Share, seed
from winfleet.transfer.swarm import Folder, Job
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


def address(number: int) -> str:
    """Of a host, from 1 on; 0 is the controller."""
    return f"{NETWORK}.{number + 1}"


def myself(role: str, *words: str) -> list[str]:
    """This script in another part: what runs inside a namespace."""
    return [sys.executable, __file__, "--as", role, *words]


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


def check(command: Sequence[str], folder: Path) -> str:
    """Runs a command to its end, and gives what it printed. Raises BenchError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        log = (folder / LOG).read_text("utf-8", "replace")
        raise BenchError(f"{command[-1]} failed\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}{log[-2_000:]}")
    return done.stdout


def by_swarm(source: Path, folder: Path, nets: Sequence[Net]) -> Figure:
    """Time from the controller's start until the last host has told that all is there and verified."""
    files = list_files(source, honour_git=False)
    content = digest(source, files)
    (folder / TORRENT).write_bytes(make_torrent(source, files, content[:SHORT]))
    hosts = {f"host{number}": address(number) for number in range(1, len(nets))}
    for host, own in hosts.items():
        (folder / host).mkdir()
        job = Job(
            host=host, address=own, result=str(folder / host / "result.json"), controllers=(address(0),),
            peers={name: other for name, other in hosts.items() if name != host},
            folders=(Folder(kind="data", target=str(folder / host / content[:SHORT]), expected=content,
                            torrent=str(folder / TORRENT)),),
        )  # fmt: skip
        (folder / host / "job.json").write_text(job.to_json(), "utf-8")
    jobs = [
        net.command(sys.executable, "-m", "winfleet.transfer.swarm", "--job", str(folder / host / "job.json"))
        for net, host in zip(nets[1:], hosts, strict=True)
    ]
    (folder / "seed.json").write_text(json.dumps({"source": str(source), "root": content[:SHORT], "hosts": hosts}))
    with programs(jobs, folder / LOG):
        wait_for_listeners(nets[1:], SWARM_PORT)
        with measured(nets[0], _size(source)) as found:
            said = check(nets[0].command(*myself("seed", str(folder))), folder)
    return dataclasses.replace(found[0], seconds=float(said.splitlines()[-1]))  # without Python's own start


def as_seed(folder: Path) -> int:
    """The controller's part of the swarm, in its namespace; the exit status."""
    given = json.loads((folder / "seed.json").read_text("utf-8"))
    torrent = (folder / TORRENT).read_bytes()
    share = Share(source=Path(given["source"]), torrent=torrent, root=given["root"])
    start = time.perf_counter()
    results = seed([share], given["hosts"])
    seconds = time.perf_counter() - start
    for result in results.values():
        print(result)
    print(seconds)
    return 0 if all(result.state == "whole" for result in results.values()) else 1


def by_star(source: Path, folder: Path, nets: Sequence[Net]) -> Figure:
    """Time until the last host has fetched all files from the controller's HTTP server, and digested them."""
    files = [str(name) for name in list_files(source, honour_git=False)]
    with programs([nets[0].command(*myself("server", str(source)))], folder / LOG):
        wait_for_listeners(nets[:1], 8000)
        start = folder / "start"
        clients = [
            net.command(*myself("client", str(start), str(folder / f"star{number}"), *files))
            for number, net in enumerate(nets[1:])
        ]
        with programs(clients, folder / LOG) as started:
            time.sleep(len(nets) * 0.3 + 1)  # Python's own start is no part of it
            with measured(nets[0], _size(source)) as found:
                start.touch()
                if any(process.wait() for process in started):
                    raise BenchError("a host could not fetch\n" + (folder / LOG).read_text("utf-8")[-2_000:])
    return found[0]


def as_server(source: Path) -> int:
    """The star's HTTP server."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(source))
    http.server.ThreadingHTTPServer((address(0), 8000), handler).serve_forever()
    return 0


def as_client(start: Path, target: Path, names: Sequence[str]) -> int:
    """One host of the star."""
    target.mkdir()
    while not start.exists():
        time.sleep(0.02)
    for name in names:
        with urllib.request.urlopen(f"http://{address(0)}:8000/{name}") as answer, (target / name).open("wb") as file:
            shutil.copyfileobj(answer, file, 2**20)
        with (target / name).open("rb") as file:
            hashlib.file_digest(file, "sha256")
    return 0


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
    numbers = range(1, len(nets))
    (folder / "known_hosts").write_text("".join(f"{address(number)} {public}" for number in numbers))
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    # connections that Ansible keeps open for a minute lead into the last network; hence a place of their own
    keep = ["env", f"ANSIBLE_SSH_CONTROL_PATH_DIR={folder}/ssh"]
    options = f"-o UserKnownHostsFile={folder}/known_hosts -o IdentityFile={folder}/user -o IdentitiesOnly=yes"
    lines = [f"host{number} ansible_host={address(number)} target={folder}/copy{number}" for number in numbers]
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
            check(nets[0].command(*keep, *copy), folder)
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
    parser.add_argument("--as", dest="role", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.role == "seed":
        return as_seed(Path(found.words[0]))
    if found.role == "server":
        return as_server(Path(found.words[0]))
    if found.role == "client":
        return as_client(Path(found.words[0]), Path(found.words[1]), found.words[2:])
    need_root(parser)
    return measure(lambda: compare(found.mb, found.mbit, found.hosts, found.ways))


if __name__ == "__main__":
    sys.exit(main())
