"""One zip for a person who helps: what controller and hosts know of a run, without secrets and names of accounts.

Runs on the controller. What hosts sent is data: names and sizes are bounded, and every text and file name goes through the
redactor before it is written.
"""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import json
import os
import platform
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from winfleet.core.files import as_object
from winfleet.core.plan import RUN_NAME, newest_run
from winfleet.support.gather import run_files, tail
from winfleet.support.redaction import SECRET_NAME, Redactor, accounts_in
from winfleet.transfer.folders import is_plain

MOST_MEMBERS: Final = 300  # of one host
MOST_BYTES: Final = 1_000_000  # of one file
PAGE_BYTES: Final = 5_000_000  # of report.html, which cannot be cut
MEANINGS: Final = (  # file's name -> what it is; the first that fits
    (r"CONTENTS\.txt", "this list"),
    (r"inventory\.json", "settings of the hosts, secret ones without their values"),
    (r"controller/versions\.txt", "system, Python and packages of the controller"),
    (r"report\.html", "report of the run"),
    (r"plan\.json", "plan of the run: hosts, command, settings, digests"),
    (r"status\.json", "last status of a host's launcher: ranks, events, cause"),
    (r"launcher\.log", "log of a host's launcher, its end"),
    (r"rank\d+\.log", "what a rank printed, its end"),
    (r"rank\d+\.stack\.txt", "where a rank that did not move stood"),
    (r"\.jsonl", "measured values, the end"),
    (r"accelerate-env\.txt", "accelerate env"),
    (r"packages\.txt", "packages of the environment"),
    (r"nvidia-smi\.txt", "nvidia-smi"),
    (r"(network|routes)\.txt", "adapters, addresses, routes"),
    (r"system\.txt", "system, disk, our folders, variables of torch"),
    (r"\.ya?ml", "settings"),
    (r"", "a file of the run"),
)


class SupportError(Exception):
    """Why there is no zip; one sentence and a hint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What goes into the zip, before anything was taken out."""

    files: Mapping[str, bytes]  # path in the zip -> content
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)  # host -> why it sent nothing
    secrets: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()


def choose_run(logs: Path, wanted: str) -> str:
    """The run that is asked for, else the newest below the folder of logs; "" where there is none. Raises SupportError."""
    if not wanted:
        newest = newest_run(logs)
        return newest.name if newest else ""
    if not RUN_NAME.fullmatch(wanted):
        raise SupportError(
            f"fleet_run {wanted!r} is not a run name\n  hint: letters, digits, '.', '_' and '-', 64 at most"
        )
    return wanted


def read_archive(archive: Path) -> dict[str, bytes]:
    """The plain files of a host's archive, each cut to its end, names of paths in them. Raises SupportError."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if len(found) >= MOST_MEMBERS:
                    break
                if is_plain(member) and member.size <= MOST_BYTES and (file := tar.extractfile(member)) is not None:
                    found[PurePosixPath(member.name).as_posix()] = file.read(MOST_BYTES)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SupportError(f"what it sent cannot be read: {error}") from None
    return found


def identity(files: Mapping[str, bytes]) -> set[str]:
    """Names of the account that a host's identity.json tells."""
    values = as_object(files.get("identity.json", b""))
    return {str(values.get("user", "")), re.split(r"[\\/]", str(values.get("home", "")))[-1]}


def of_controller(logs: Path, run: str, inventory: Mapping[str, object]) -> dict[str, bytes]:
    """The controller's own files: inventory, versions, and what came home of the run."""
    found = {
        "controller/inventory.json": json.dumps(inventory, indent=2, ensure_ascii=False, default=str).encode(),
        "controller/versions.txt": versions().encode(),
    }
    folder = logs / run
    if run and folder.is_dir():
        places = [folder, *(path for path in folder.iterdir() if path.is_dir() and list(path.glob("status.json")))]
        for place in places:
            for path in run_files(place):
                found[f"run/{path.relative_to(folder).as_posix()}"] = tail(path)
        page = folder / "report.html"
        if page.is_file() and page.stat().st_size <= PAGE_BYTES:
            found["run/report.html"] = page.read_bytes()
    return found


def versions() -> str:
    """System, Python and packages of this machine."""
    packages = sorted({f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()})
    return "\n".join([platform.platform(), f"python {platform.python_version()}", "", *packages, ""])


def secrets_of_environment(names: Iterable[str]) -> set[str]:
    """Values of this process's variables that are secret: those that are named, and those whose name says so."""
    named = set(names)
    return {value for name, value in os.environ.items() if name in named or SECRET_NAME.search(name)}


def accounts_here() -> set[str]:
    """Names of the account that runs this."""
    return {getpass.getuser(), Path.home().name, os.environ.get("WINFLEET_USER", "")}


def as_text(content: bytes) -> str:
    """Text without control characters: terminals obey some."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def redact(bundle: Bundle) -> tuple[dict[str, str], Redactor]:
    """Path -> text, both without what is not for strangers, and the redactor with its counts."""
    redactor = Redactor(bundle.secrets, bundle.accounts)
    texts = {name: as_text(content) for name, content in bundle.files.items() if not name.endswith("/identity.json")}
    for text in texts.values():
        redactor.learn(accounts_in(text))
    clean: dict[str, str] = {}
    for name, text in texts.items():
        path = "/".join(re.sub(r"[^\w. ()=-]", "_", redactor.text(part)) for part in name.split("/"))
        while path in clean:  # two names that differed in what was taken out alone
            path += "_"
        clean[path] = redactor.text(text)
    return clean, redactor


def contents(files: Mapping[str, str], problems: Mapping[str, str], redactor: Redactor) -> str:
    """CONTENTS.txt: each file with what it is, hosts that sent nothing, and what was taken out."""
    lines = ["Made by winfleet's collect.yml for a person who helps.", "", "Files:"]
    for name in sorted({*files, "CONTENTS.txt"}):
        size = f"{len(files.get(name, '').encode()) / 1e3:8.1f} kB" if name in files else " " * 11
        meaning = next(text for form, text in MEANINGS if re.search(form, name))
        lines.append(f"  {size}  {name}: {meaning}")
    lines += (
        ["", "Hosts that sent nothing:", *(f"  {host}: {why}" for host, why in sorted(problems.items()))]
        if problems
        else []
    )
    counted = [f"  {count} x {kind}" for kind, count in sorted(redactor.counts.items()) if count]
    lines += ["", "Taken out, each replaced by its kind:", *(counted or ["  nothing"])]
    lines += ["", "Private addresses, names of hosts and paths below home folders are left, as help needs them."]
    return "\n".join(lines) + "\n"


def write(bundle: Bundle, path: Path) -> str:
    """Writes the zip and returns its CONTENTS.txt. Raises SupportError."""
    files, redactor = redact(bundle)
    problems = {redactor.text(host): redactor.text(why) for host, why in bundle.problems.items()}
    listed = contents(files, problems, redactor)
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("CONTENTS.txt", listed)
            for name, text in sorted(files.items()):
                zipped.writestr(name, text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SupportError(
            f"{path}: {error.strerror}\n  hint: give a folder that you may write to: -e fleet_logs=PATH"
        ) from None
    return listed
