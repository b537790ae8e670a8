"""The master's dialogue: finds workers, then has Ansible set them up, deploy and train.

    make deploy                                              asks for all it needs
    python -m winfleet.deploy --workers 192.168.0.21,192.168.0.22 --user lab [--project FOLDER] [--skip-deploy]

With arguments it asks for nothing but the password, where WINFLEET_PASSWORD does not have it, and a yes to certificates
that nobody has compared yet; without a terminal it does not ask at all. Exit status: that of the first playbook that
failed, 2 where none was started.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import locale
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from winfleet.controller.clusters import (
    CLUSTER_NAME,
    ClusterError,
    Worker,
    certificate_file,
    fetch_worker,
    fingerprint,
    load,
    read_worker,
)

ROOT: Final = Path(__file__).resolve().parents[2]
INVENTORIES: Final = "inventories"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that the user decides. Folders are absolute, "" where the default of group_vars/all.yml holds."""

    cluster: str
    addresses: tuple[str, ...] = ()  # IPv4; empty: those of the inventory
    files: str = ""  # folder with *.worker.yml
    user: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # address: SHA-256, given by the user
    project: str = ""
    command: str = ""
    data: str = ""
    config: str = ""
    skip_deploy: bool = False

    @property
    def folder(self) -> Path:
        """Of the cluster."""
        return ROOT / INVENTORIES / self.cluster


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A Windows worker that answered."""

    worker: Worker
    name: str  # in the inventory, "" where it is new
    gpus: tuple[str, ...] | None = None  # None: not known before worker_setup.yml looks

    def __str__(self) -> str:
        gpus = "GPUs: worker_setup.yml will look" if self.gpus is None else f"GPUs: {', '.join(self.gpus) or 'none'}"
        state = "its certificate is known" if self.name else f"new, SHA-256\n    {self.worker.fingerprint}"
        return f"  {self.name or self.worker.name} {self.worker.address} answers; {gpus}; {state}"


# ---- what is there ----
def known_hosts(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Name -> entry of the cluster's hosts, {} where there is no such cluster. Raises ClusterError."""
    return {str(name): entry or {} for name, entry in load(folder)["workers"]["hosts"].items()}


def addresses_of(text: str) -> tuple[str, ...]:
    """IPv4 addresses of names and addresses with commas or blanks between them. Raises ClusterError."""
    found = []
    for name in filter(None, re.split(r"[,\s]+", text)):
        try:
            found.append(socket.gethostbyname(name))
        except OSError:
            raise ClusterError(f"{name} resolves to no address\nhint: give its IPv4 address") from None
    return tuple(dict.fromkeys(found))


def look(job: Job) -> list[Found]:
    """Asks the job's workers, or the cluster's own, for their certificates. Raises ClusterError with all that is wrong."""
    hosts = known_hosts(job.folder)
    names = {str(entry.get("ansible_host", name)): name for name, entry in hosts.items()}
    files = {worker.address: (worker, gpus) for worker, gpus in read_files(job.files)}
    wanted = job.addresses or tuple(files) or tuple(
        address for address, name in names.items() if certificate_file(job.folder, name).exists()
    )  # fmt: skip
    found, problems = [], []
    for address in wanted:
        try:
            worker, name = fetch_worker(address, timeout=5), names.get(address, "")
            described, gpus = files.get(address, (worker, None))
            check_same(worker, described, job.folder, name)
            found.append(Found(worker=described, name=name, gpus=gpus))
        except ClusterError as error:
            problems.append(str(error))
    if problems:
        raise ClusterError("\n".join(problems))
    if not found and not hosts:
        raise ClusterError(f"{job.folder} has no workers\nhint: --workers A,B or --files FOLDER")
    return found


def read_files(folder: str) -> list[tuple[Worker, tuple[str, ...]]]:
    """The workers of a folder's *.worker.yml, with their GPUs. Raises ClusterError."""
    paths = sorted(Path(folder).glob("*.worker.yml")) if folder else []
    if folder and not paths:
        raise ClusterError(f"no *.worker.yml in {folder}\nhint: copy them there from the workers, or give addresses")
    workers = [read_worker(path) for path in paths]  # checks them
    facts = [(yaml.safe_load(path.read_text("utf-8-sig")).get("facts") or {}).get("gpus") or [] for path in paths]
    return [(worker, tuple(str(gpu.get("name")) for gpu in gpus)) for worker, gpus in zip(workers, facts, strict=True)]


def check_same(worker: Worker, described: Worker, folder: Path, name: str) -> None:
    """Raises ClusterError where the PC shows another certificate than its file, or than the one that is known."""
    pinned = certificate_file(folder, name) if name else None
    known = fingerprint(pinned.read_text("ascii")) if pinned and pinned.exists() else described.fingerprint
    if worker.fingerprint not in {known, described.fingerprint} or described.fingerprint != known:
        raise ClusterError(
            f"{name or described.name} ({worker.address}): its certificate has the SHA-256 {worker.fingerprint}, known is {known}\n"
            f"hint: if you set the PC up anew, bring its file: ansible-playbook add_workers.yml -e fleet_cluster={folder.name} "
            "-e fleet_worker_files=FOLDER -e fleet_replace_certificates=true"
        )


# ---- asking ----
def ask(question: str, default: str = "") -> str:
    """The answer, or the default."""
    return input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default


def as_folder(text: str) -> str:
    """The folder's absolute path; in WSL also one as Windows writes it. Raises ClusterError where there is none."""
    if not text:
        return ""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text) and shutil.which("wslpath"):
        text = subprocess.run(["wslpath", "-u", text], capture_output=True, text=True, check=True).stdout.strip()
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise ClusterError(f"no folder {path}\nhint: give the path of a folder on this machine")
    return str(path)


def ask_folder(question: str) -> str:
    """A folder that is there, or ""."""
    while True:
        try:
            return as_folder(ask(question))
        except ClusterError as error:
            print(error)


def ask_workers() -> Job:
    """Cluster and workers."""
    while True:
        cluster = ask("Name of the cluster", "lab")
        try:
            if not CLUSTER_NAME.fullmatch(cluster):
                raise ClusterError(f"{cluster!r} is no name\nhint: letters, digits, '.', '_' and '-'")
            there = ", ".join(known_hosts(ROOT / INVENTORIES / cluster))
            given = ask(
                f"Workers: addresses with commas, or the folder with their *.worker.yml{f' (Enter: {there})' if there else ''}"
            )
            is_folder = bool(given) and ("/" in given or "\\" in given or Path(given).is_dir())
            return Job(
                cluster=cluster,
                files=as_folder(given) if is_folder else "",
                addresses=() if is_folder else addresses_of(given),
            )
        except ClusterError as error:
            print(error)


def ask_work() -> dict[str, Any]:
    """Project, command and data."""
    project = ask_folder("Folder of your project (Enter: the example)")
    command = ask("Its command", "train.py") if project else ""
    return {"project": project, "command": command, "data": ask_folder("Folder of your data (Enter: none)")}


def confirm(job: Job, found: Iterable[Found]) -> dict[str, str]:
    """Address -> SHA-256 of new certificates that the user has compared. Raises ClusterError where the answer is no."""
    new = {one.worker.address: one.worker.fingerprint for one in found if not one.name and not job.files}
    unknown = [address for address in new if address not in job.fingerprints]
    if unknown and not sys.stdin.isatty():
        given = " ".join(f"--fingerprint {address}={new[address]}" for address in unknown)
        raise ClusterError(f"nobody has compared the certificates yet\nhint: compare, then {given}")
    if unknown and ask("Compare with what worker_setup printed on each PC. Type yes to trust them") != "yes":
        raise ClusterError("the certificates were not confirmed, so nothing was added\nhint: type yes")
    return {**new, **{address: job.fingerprints[address] for address in new if address in job.fingerprints}}


def ask_account(job: Job, found: Sequence[Found]) -> dict[str, str]:
    """Account and password for Ansible, by its environment alone. {} where the inventory or the environment has them."""
    hosts, given = known_hosts(job.folder), {}
    user = job.user or os.environ.get("WINFLEET_USER", "")
    nameless = [one for one in found if not one.worker.user and not hosts.get(one.name, {}).get("ansible_user")]
    if nameless and not user and sys.stdin.isatty():
        user = ask("Account on the workers", "winfleet")
    if user:
        given["WINFLEET_USER"] = user
    vault = job.folder / "group_vars" / "windows" / "vault.yml"
    if found and not os.environ.get("WINFLEET_PASSWORD") and not vault.exists() and sys.stdin.isatty():
        password = getpass.getpass("Password on the workers (not shown, not kept; Enter: the inventory has it): ")
        given |= {"WINFLEET_PASSWORD": password} if password else {}
    return given


# ---- doing ----
def playbooks(job: Job, found: Sequence[Found], fingerprints: Mapping[str, str]) -> list[list[str]]:
    """The commands, in their order."""
    where, commands = ["-i", f"{INVENTORIES}/{job.cluster}"], []
    if any(not one.name for one in found):
        new = {"fleet_cluster": job.cluster, "fleet_worker_files": job.files} if job.files else {
            "fleet_cluster": job.cluster, "fleet_worker_addresses": list(fingerprints), "fleet_fingerprints": dict(fingerprints),
        }  # fmt: skip
        commands.append(["ansible-playbook", "add_workers.yml", "-e", json.dumps(new)])
    if not job.skip_deploy:
        commands.append(["ansible-playbook", "worker_setup.yml", *where])
    settings: dict[str, Any] = {
        f"fleet_{name}": value for name in ("project", "command", "data", "config") if (value := getattr(job, name))
    }
    if job.project:  # the example's text and settings are not its own
        settings = {"fleet_data": "", "fleet_config": "", **settings}
    if job.skip_deploy:
        settings["fleet_skip_deploy"] = True
    commands.append(
        ["ansible-playbook", "deploy_and_train.yml", *where, *(["-e", json.dumps(settings)] if settings else [])]
    )
    return commands


def usable_locale() -> dict[str, str]:
    """{} where Ansible starts with this locale, else one with which it does: as Ansible itself asks."""
    try:
        locale.setlocale(locale.LC_ALL, "")
        encoding = locale.getlocale()[1] or ""
    except (locale.Error, ValueError):  # never generated, as in a new WSL; or unknown to Python
        encoding = ""
    return {} if encoding.lower() in {"utf-8", "utf8"} else {"LC_ALL": "C.UTF-8"}


def run(commands: Iterable[list[str]], account: Mapping[str, str]) -> int:
    """Runs them one after the other until one fails; its exit status. What is secret is in their environment alone."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    environment = {**os.environ, "PATH": path, **usable_locale(), **account}
    for command in commands:
        print(f"\n$ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return done.returncode
    return 0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.deploy", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cluster", default="lab", help="name of the cluster, a folder below inventories/")
    parser.add_argument("--workers", default="", help="addresses with commas: all workers of the cluster")
    parser.add_argument("--files", default="", help="folder with the workers' *.worker.yml, in place of addresses")
    parser.add_argument("--fingerprint", action="append", default=[], metavar="ADDRESS=SHA256", help="of a new worker")
    parser.add_argument("--user", default="", help="account on the workers")
    parser.add_argument("--project", default="", help="folder of your project; default: the example")
    parser.add_argument("--command", default="", help="script and arguments; default: train.py")
    parser.add_argument("--data", default="", help="folder of your data")
    parser.add_argument("--config", default="", help="settings (YAML) that the command finds as {config}")
    parser.add_argument("--skip-deploy", action="store_true", help="train at once with what the workers have")
    return parser.parse_args(words)


def job_of(given: argparse.Namespace) -> Job:
    """What the arguments say. Raises ClusterError."""
    if not CLUSTER_NAME.fullmatch(given.cluster):
        raise ClusterError(f"--cluster {given.cluster!r} is no name\nhint: letters, digits, '.', '_' and '-'")
    pairs = [text.partition("=") for text in given.fingerprint]
    job = Job(
        cluster=given.cluster, addresses=addresses_of(given.workers), files=as_folder(given.files), user=given.user,
        fingerprints={address: digest for address, _, digest in pairs}, project=as_folder(given.project),
        command=given.command or ("train.py" if given.project else ""), data=as_folder(given.data),
        config=str(Path(given.config).expanduser().resolve()) if given.config else "", skip_deploy=given.skip_deploy,
    )  # fmt: skip
    others = [
        name for name, entry in known_hosts(job.folder).items() if entry.get("ansible_host", name) not in job.addresses
    ]
    if job.addresses and others:
        raise ClusterError(
            f"{INVENTORIES}/{job.cluster} also has {', '.join(others)}\n"
            f"hint: name them too, or make a cluster of these alone: --cluster NAME"
        )
    return job


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = sys.argv[1:] if words is None else words
    try:
        given = arguments(words)
        job = job_of(given) if words else ask_workers()
        found = look(job)
        print("\n".join(["Workers:", *map(str, found)]) if found else f"Workers: those of {INVENTORIES}/{job.cluster}")
        fingerprints = confirm(job, found)
        account = ask_account(job, found)
        if not words:
            job = dataclasses.replace(job, **ask_work())
        return run(playbooks(job, found, fingerprints), account)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
    except (EOFError, KeyboardInterrupt):
        print("\nstopped; run it again to go on", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
