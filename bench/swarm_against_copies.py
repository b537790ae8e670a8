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
import signal
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
from namespaces import NetError, made, run
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
TORRENT: Final = "content.torrent"


class BenchError(RuntimeError):
    """A transfer that failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one transfer took."""

    seconds: float
    idle: float  # share of all cores, 0 to 1
    sent: float = 0.0  # copies of the content that left the controller's link


def address(number: int) -> str:
    """Of a host, from 1 on; 0 is the controller."""
    return f"{NETWORK}.{number + 1}"


@contextlib.contextmanager
def network(hosts: int, mbit: int) -> Iterator[list[str]]:
    """Namespaces of the controller and the hosts, each behind a link with a limit at both ends. Raises NetError."""
    limit = ("tbf", "rate", f"{mbit}mbit", "burst", "32k", "latency", "50ms")
    with made(hosts + 1, NETWORK, limit) as nets:
        yield [net.name for net in nets]


def inside(name: str, *words: str) -> list[str]:
    """The command line that runs the words in a namespace."""
    return ["ip", "netns", "exec", name, *words]


def myself(role: str, *words: str) -> list[str]:
    """This script in another part: what runs inside a namespace."""
    return [sys.executable, __file__, "--as", role, *words]


@contextlib.contextmanager
def programs(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs in the background; those that still run at the end are ended."""
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "log.txt").open("ab") as log:
        try:
            started.extend(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) for command in commands
            )
            yield started
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()


def wait_for_listeners(names: Sequence[str], port: int) -> None:
    """Until something listens on the port in each namespace. Raises BenchError."""
    deadline = time.monotonic() + HOST_START_SECONDS
    for name in names:
        while (
            f":{port} "
            not in subprocess.run(inside(name, "ss", "-Hltn"), capture_output=True, text=True, check=True).stdout
        ):
            if time.monotonic() > deadline:
                raise BenchError(f"nothing listens on port {port} in {name}")
            time.sleep(0.1)


def link_bytes(name: str) -> int:
    """Bytes that left a namespace's link."""
    told = subprocess.run(inside(name, "cat", "/sys/class/net/eth0/statistics/tx_bytes"),
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    return int(told)


@contextlib.contextmanager
def measured(controller: str, size: int) -> Iterator[list[Figure]]:
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
        log = (folder / "log.txt").read_text("utf-8", "replace") if (folder / "log.txt").exists() else ""
        raise BenchError(f"{command[-1]} failed\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}{log[-2_000:]}")
    return done.stdout


def by_swarm(source: Path, folder: Path, names: Sequence[str]) -> Figure:
    """Time from the controller's start until the last host has told that all is there and verified."""
    files = list_files(source, honour_git=False)
    content = digest(source, files)
    (folder / TORRENT).write_bytes(make_torrent(source, files, content[:SHORT]))
    hosts = {f"host{number}": address(number) for number in range(1, len(names))}
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
        inside(name, sys.executable, "-m", "winfleet.transfer.swarm", "--job", str(folder / host / "job.json"))
        for name, host in zip(names[1:], hosts, strict=True)
    ]
    (folder / "seed.json").write_text(json.dumps({"source": str(source), "root": content[:SHORT], "hosts": hosts}))
    with programs(jobs, folder):
        wait_for_listeners(names[1:], SWARM_PORT)
        with measured(names[0], _size(source)) as found:
            told = check(inside(names[0], *myself("seed", str(folder))), folder)
    return dataclasses.replace(found[0], seconds=float(told.splitlines()[-1]))  # without Python's own start


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


def by_star(source: Path, folder: Path, names: Sequence[str]) -> Figure:
    """Time until the last host has fetched all files from the controller's HTTP server, and digested them."""
    files = [str(name) for name in list_files(source, honour_git=False)]
    with programs([inside(names[0], *myself("server", str(source)))], folder):
        wait_for_listeners(names[:1], 8000)
        start = folder / "start"
        clients = [
            inside(name, *myself("client", str(start), str(folder / f"star{number}"), *files))
            for number, name in enumerate(names[1:])
        ]
        with programs(clients, folder) as started:
            time.sleep(len(names) * 0.3 + 1)  # Python's own start is no part of it
            with measured(names[0], _size(source)) as found:
                start.touch()
                if any(process.wait() for process in started):
                    raise BenchError("a host could not fetch\n" + (folder / "log.txt").read_text("utf-8")[-2_000:])
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


def by_copy(source: Path, folder: Path, names: Sequence[str]) -> Figure:
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
    numbers = range(1, len(names))
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
    daemons = [inside(name, sshd, "-D", "-e", "-f", str(folder / "sshd_config")) for name in names[1:]]
    ansible = str(Path(sys.executable).with_name("ansible"))
    with programs(daemons, folder):
        wait_for_listeners(names[1:], 22)
        words = ["-i", str(folder / "hosts.ini"), "workers", "-f", str(len(names)), "-m", "ansible.builtin.copy"]
        copy = [ansible, *words, "-a", f"src={whole} dest={{{{ target }}}} mode=0644"]
        with measured(names[0], _size(source)) as found:
            check(inside(names[0], *keep, *copy), folder)
    return found[0]


def _size(source: Path) -> int:
    return sum((source / name).stat().st_size for name in list_files(source, honour_git=False))


def compare(mb: int, mbit: int, hosts: Sequence[int], ways: Sequence[str]) -> None:
    """Runs and prints the table."""
    functions = {"swarm": by_swarm, "star": by_star, "copy": by_copy}
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
                with network(count, mbit) as names:
                    figure = functions[way](source, folder, names)
            ratio = figure.seconds / once
            swarm = figure.seconds if way == "swarm" else swarm
            note = f"goal ≤ {GOAL}: {'met' if ratio <= GOAL else 'missed'}" if way == "swarm" else ""
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
    if os.geteuid() != 0:
        parser.error("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces and programs go with it
    try:
        compare(found.mb, found.mbit, found.hosts, found.ways)
    except (BenchError, NetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
