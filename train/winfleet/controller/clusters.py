"""A user's cluster, inventories/<name>/: made and extended from the *.worker.yml files that worker_setup.ps1 writes."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from winfleet.core.files import write_atomic
from winfleet.core.plan import HOST_NAME, PlanError, check_addresses

CLUSTER_NAME = re.compile(r"[\w][\w.-]{0,63}")
WINRM_PORT = 5986


class ClusterError(ValueError):
    """A cluster that cannot be made; the text names the host or file, the value and the fix. Nothing was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One Windows PC as it described itself, or as it was found at its address."""

    name: str
    address: str  # IPv4
    certificate: str  # PEM
    user: str = ""  # "": the cluster's user
    port: int = WINRM_PORT

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate as worker_setup.ps1 prints it, AA:BB:… ."""
        return fingerprint(self.certificate)


def fingerprint(certificate: str) -> str:
    """SHA-256 over the certificate's DER form, hex with colons. Raises ValueError where it is no PEM."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip() + "\n")).hexdigest().upper()
    return ":".join(digest[place : place + 2] for place in range(0, 64, 2))


def read_worker(path: Path) -> Worker:
    """Reads a *.worker.yml. It came from another machine: only plain values of the right kind are taken.

    Raises ClusterError naming the file and what is wrong with it.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8-sig"))
        name, address, certificate = (str(values[key]) for key in ("name", "address", "certificate"))
        worker = Worker(
            name=name, address=address, certificate=certificate, user=str(values.get("user", "")),
            port=int(values.get("port", WINRM_PORT)),
        )  # fmt: skip
        found = worker.fingerprint
        ipaddress.IPv4Address(address)
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}\nhint: give the files that worker_setup wrote") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise ClusterError(f"{path} is no worker file: {error}\nhint: run scripts\\worker_setup.cmd again") from None
    if not HOST_NAME.fullmatch(name) or re.search(r"[{}\n]", worker.user):
        raise ClusterError(f"{path}: name {name!r} or user {worker.user!r} cannot be used\nhint: rename the PC")
    said = str(values.get("certificate_sha256", found)).upper()
    if said != found:
        raise ClusterError(
            f"{path}: the certificate has the SHA-256 {found}, the file says {said}\n"
            f"hint: the file was changed on its way; fetch it from {name} again"
        )
    return worker


def fetch_worker(address: str, timeout: float = 10.0) -> Worker:
    """Asks a PC for its certificate (seconds). Who answers is not known until a person has compared the fingerprint.

    Raises ClusterError where nobody answers.
    """
    try:
        certificate = ssl.get_server_certificate((address, WINRM_PORT), timeout=timeout)
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(
            f"{address}:{WINRM_PORT} gave no certificate: {error}\nhint: run scripts\\worker_setup.cmd on that PC first"
        ) from None
    return Worker(name=f"pc-{address.replace('.', '-')}", address=address, certificate=certificate)


def check_fingerprint(worker: Worker, wanted: str) -> None:
    """Raises ClusterError where the PC's certificate is not the one whose fingerprint was given."""
    if re.sub(r"[^0-9A-F]", "", wanted.upper()) != worker.fingerprint.replace(":", ""):
        raise ClusterError(
            f"{worker.address}: its certificate has the SHA-256 {worker.fingerprint}, given was {wanted}\n"
            "hint: compare it with what worker_setup printed on that PC; if it differs, somebody else answers"
        )


def check_certificates(fingerprints: Mapping[str, str]) -> None:
    """Raises ClusterError where two hosts, each with the SHA-256 of its certificate, have the same one."""
    seen: dict[str, str] = {}
    for name, digest in fingerprints.items():
        if digest in seen:
            raise ClusterError(
                f"{seen[digest]} and {name} have the same certificate, SHA-256 {digest}: they were cloned from one image after "
                "worker_setup, or are one PC\n"
                "hint: run scripts\\worker_setup.cmd again on both, which gives a clone one of its own, and bring their new files; "
                "name one PC once"
            )
        seen[digest] = name


def pinned(files: Mapping[str, Path]) -> dict[str, str]:
    """Host -> SHA-256 of its certificate, where its file is there and named after it: another may be an authority's."""
    found = {}
    for name, path in files.items():
        if path.stem == name and path.is_file():
            with contextlib.suppress(ValueError):
                found[name] = fingerprint(path.read_text("ascii"))
    return found


def load(folder: Path) -> CommentedMap:
    """The cluster's hosts.yml with its comments, or an empty one. Raises ClusterError where it is no inventory."""
    path = folder / "hosts.yml"
    document = CommentedMap()
    if path.exists():
        try:
            document = YAML().load(path.read_text("utf-8")) or CommentedMap()
        except (OSError, ValueError) as error:
            raise ClusterError(f"{path}: {error}\nhint: correct the file") from None
    for group in ("workers", "windows"):
        entry = document.setdefault(group, CommentedMap())
        if not isinstance(entry, dict) or not isinstance(entry.setdefault("hosts", CommentedMap()), dict):
            raise ClusterError(f"{path}: group {group} has no mapping of hosts\nhint: correct the file")
    return document


def merge(folder: Path, document: CommentedMap, workers: Sequence[Worker], *, replace: bool) -> bool:
    """Adds the workers behind the hosts that are there; those known by name get their new address. Whether it changed.

    Raises ClusterError for two hosts of one address or one certificate, and, unless `replace`, for a certificate that is
    not the old one.
    """
    hosts, before = document["workers"]["hosts"], YAML_text(document)
    for worker in workers:
        certificate = certificate_file(folder, worker.name)
        if worker.name in hosts and certificate.exists() and not replace:
            old = fingerprint(certificate.read_text("ascii"))
            if old != worker.fingerprint:
                raise ClusterError(
                    f"{worker.name}: its certificate has changed: SHA-256 {worker.fingerprint}, known is {old}\n"
                    "hint: if you set the PC up anew, say so: -e fleet_replace_certificates=true"
                )
        entry = hosts.get(worker.name) or CommentedMap()
        entry.update({
            "ansible_host": worker.address,
            "ansible_winrm_ca_trust_path": f"{{{{ inventory_dir }}}}/../certificates/{folder.name}/{certificate.name}",
        })  # fmt: skip
        if worker.user:
            entry["ansible_user"] = worker.user
        hosts[worker.name] = entry
        document["windows"]["hosts"].setdefault(worker.name, None)
    pairs = [(str(name), str((entry or {}).get("ansible_host", name))) for name, entry in hosts.items()]
    try:
        check_addresses(pairs)
    except PlanError as error:
        raise ClusterError(str(error)) from None
    known = pinned({str(name): certificate_file(folder, str(name)) for name in hosts})
    check_certificates({**known, **{worker.name: worker.fingerprint for worker in workers}})
    return YAML_text(document) != before


def certificate_file(folder: Path, name: str) -> Path:
    """Where a host's certificate lies: beside the cluster's folder, all files in which Ansible would read as hosts."""
    return folder.parent / "certificates" / folder.name / f"{name}.pem"


def YAML_text(document: CommentedMap) -> str:  # noqa: N802 (what it gives)
    """The inventory as it is written."""
    from io import StringIO

    stream = StringIO()
    YAML().dump(document, stream)
    return stream.getvalue()


def write(folder: Path, document: CommentedMap, workers: Sequence[Worker]) -> bool:
    """Writes hosts.yml and the certificates; whether anything changed. Each file is replaced whole."""
    texts = {folder / "hosts.yml": YAML_text(document)}
    texts |= {certificate_file(folder, worker.name): worker.certificate.strip() + "\n" for worker in workers}
    changed = False
    for path, text in texts.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        changed = True
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    return changed


def add(folder: Path, workers: Sequence[Worker], *, replace: bool, dry_run: bool) -> Mapping[str, Any]:
    """Makes or extends the cluster. Returns {"changed", "hosts": names in machine_rank order}. Raises ClusterError."""
    if not CLUSTER_NAME.fullmatch(folder.name):
        raise ClusterError(f"fleet_cluster {folder.name!r} is no name\nhint: letters, digits, '.', '_' and '-'")
    if not workers:
        raise ClusterError(
            "no workers were given\nhint: -e fleet_worker_files=FOLDER, or -e fleet_worker_addresses=A,B"
        )
    document = load(folder)
    changed = merge(folder, document, workers, replace=replace)
    if not dry_run:
        changed = write(folder, document, workers)
    return {"changed": changed, "hosts": [str(name) for name in document["workers"]["hosts"]]}
