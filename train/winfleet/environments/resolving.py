"""A lock for a project that has none: uv resolves it on the controller for the workers' system, once, and keeps it by content."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from winfleet.environments.environment import index_strategy
from winfleet.environments.lock import OURS, LockError
from winfleet.environments.wishes import Wish, Wishes, read_wishes

NAME: Final = "winfleet-workers"  # of the project that is made here
NO_GLOO: Final = (Version("2.8"), Version("2.11"))  # torch for Windows from the first on, before the second
GLOO: Final = "torch!=2.8.*,!=2.9.*,!=2.10.*"
NO_WHEEL: Final = re.compile(r"([A-Za-z0-9][\w.-]*)(?:[=<>!]=?\S+)? ha(?:s|ve) no .*?compatible wheels")
SAID: Final = 1_500  # characters of uv's words


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """What it is resolved for."""

    windows: bool
    python_version: str  # the minor

    @property
    def marker(self) -> str:
        """The workers' machine in the words of a requirement."""
        system, machine = ("win32", "AMD64") if self.windows else ("linux", platform.machine())
        return f"sys_platform == '{system}' and platform_machine == '{machine}' and python_version == '{self.python_version}'"

    @property
    def tags(self) -> frozenset[Tag]:
        """Of the wheels that such a machine takes; of Linux, those of any age of its C library."""
        minor = tuple(map(int, self.python_version.split(".")))
        platforms = ["win_amd64"]
        if not self.windows:
            kinds = [f"manylinux_2_{number}" for number in range(5, 60)] + [
                "manylinux1",
                "manylinux2010",
                "manylinux2014",
                "linux",
            ]
            platforms = [f"{kind}_{platform.machine()}" for kind in kinds]
        return frozenset([*cpython_tags(minor, platforms=platforms), *compatible_tags(minor, platforms=platforms)])

    def __str__(self) -> str:
        return f"{'Windows' if self.windows else 'Linux'} and Python {self.python_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A lock that was made here."""

    folder: Path  # with pyproject.toml and uv.lock
    wishes: Wishes
    head: str  # lines that the requirements begin with: other indexes


def resolve(
    project: Path,
    ours: Path,
    uv: str,
    workers: Workers,
    cache: Path,
    say: Callable[[str], object] = str,
    options: Sequence[str] = (),
) -> Resolved | None:
    """The project's lock below `cache`, made where it is missing; None where the project asks for nothing.

    Packages that winfleet's own lock (of the folder `ours`) has are taken in its versions where the project lets them be.
    `say` is told where it takes a while, `options` are more words for uv. Raises LockError with the requirement's own line.
    """
    try:
        wishes = read_wishes(project, workers.python_version)
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{project}: {error}\nhint: give a requirements.txt that can be read") from None
    if wishes is None:
        return None
    if wishes.refused:
        raise LockError("\n".join(wishes.refused).replace("\n  hint:", "\nhint:"))
    known = (ours / "uv.lock").read_bytes()
    text = project_text(wishes, workers, gloo=workers.windows)
    head = "".join(
        [*(f"--extra-index-url {url}\n" for url in wishes.indexes), *(f"--find-links {url}\n" for url in wishes.links)]
    )
    asking = [
        uv,
        "lock",
        *options,
        *head.split(),
        *index_strategy(head),
        *(["--prerelease", "allow"] if wishes.prereleases else []),
    ]
    named = "\n".join([text, *asking[1:]]).encode() + known
    folder = cache / "locks" / hashlib.sha256(named).hexdigest()[:12]
    found = Resolved(folder=folder, wishes=wishes, head=head)
    if folder.is_dir():
        return found
    say(
        f"Resolving {', '.join(wishes.files)} for {workers} (once; longer where packages are published as source alone)"
    )
    said = lock(folder, text, known, asking)
    bare = project_text(wishes, workers, gloo=False)
    if "torch" in said and workers.windows and not lock(None, bare, known, asking):
        raise LockError(say_no_gloo([wish for wish in wishes.wanted if is_named(wish.name, said)], said))
    if said:
        raise LockError(say_unresolved(said, wishes, workers))
    return found


def project_text(wishes: Wishes, workers: Workers, *, gloo: bool) -> str:
    """The pyproject.toml of a project that asks for the same, and for what winfleet itself needs."""
    names = {wish.name for wish in wishes.wanted if wish.requirement.marker is None}
    wanted = [str(wish.requirement) for wish in wishes.wanted] + [
        name for name in ("torch", *OURS) if name not in names
    ]
    limits = [str(wish.requirement) for wish in wishes.limits] + ([GLOO] if gloo else [])
    settings: dict[str, Any] = {
        "environments": [workers.marker], "required-environments": [workers.marker], "constraint-dependencies": limits,
    }  # fmt: skip
    lines = [
        "[project]",
        f'name = "{NAME}"',
        'version = "0"',
        'requires-python = ">=3.11"',
        f"dependencies = {json.dumps(wanted)}",
    ]
    lines += [
        "[tool.uv]",
        "package = false",
        *(f"{key} = {json.dumps(value)}" for key, value in settings.items() if value),
    ]
    return "\n".join(lines) + "\n"


def lock(folder: Path | None, text: str, known: bytes, asking: Sequence[str]) -> str:
    """Locks the project of this text, by the command `asking`, into the folder, or nowhere; uv's words where it cannot.

    The folder appears once it is done.
    """
    parent = folder.parent if folder else None
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".winfleet-", dir=parent) as temporary:
        fresh = Path(temporary, "lock")
        fresh.mkdir()
        (fresh / "pyproject.toml").write_text(text, "utf-8")
        (fresh / "uv.lock").write_bytes(known)  # uv keeps the versions of a lock that it finds
        command = [
            *asking,
            "--quiet",
            "--no-progress",
            "--color",
            "never",
            "--python",
            sys.executable,
            "--project",
            str(fresh),
        ]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode:
            return done.stderr.strip() or f"uv ended with {done.returncode}"
        if folder and not folder.is_dir():
            shutil.move(fresh, folder)
    return ""


def say_unresolved(said: str, wishes: Wishes, workers: Workers) -> str:
    """Why there is no lock: the lines that it is about, and uv's own words."""
    about = [str(wish) for wish in [*wishes.wanted, *wishes.limits] if is_named(wish.name, said)]
    if missing := NO_WHEEL.search(" ".join(said.replace("|", " ").split())):
        lines = [str(wish) for wish in wishes.wanted if wish.name == missing[1].lower()] or about
        return (
            f"{'; '.join(lines) or missing[1]}: {missing[1]} has no wheel for {workers}\n{quote(said)}"
            "\nhint: take a version that has one, or mark the line for other systems: NAME; sys_platform == 'linux'"
        )
    index = re.search(r"Failed to fetch|error sending request|network|dns error", said, re.IGNORECASE)
    hint = (
        "is the package index reachable from this machine? It is needed once, to resolve"
        if index
        else "change these lines so that they fit"
    )
    if re.search("was not found in the package registry", said):
        hint = "correct the name, or name its index: --extra-index-url URL"
    return f"{'; '.join(about) or ', '.join(wishes.files)}: not to be had for {workers}\n{quote(said)}\nhint: {hint}"


def say_no_gloo(asking: Sequence[Wish], said: str) -> str:
    """That torch's Windows wheels of these versions cannot train on several PCs, and who asks for them."""
    lines = "; ".join(map(str, asking)) or "the project"
    return (
        f"{lines}: torch 2.8 to 2.10 has no gloo on Windows, so its ranks cannot find each other\n{quote(said)}\n"
        "hint: take torch 2.7.1, or 2.11 and newer, and what fits it"
    )


def check_gloo(torch: str, lines: Iterable[str]) -> None:
    """Raises LockError where the torch of a lock for Windows has no gloo. `lines` say who asks for it."""
    low, high = NO_GLOO
    if low <= Version(torch.partition("+")[0]) < high:
        raise LockError(
            f"{'; '.join(lines)}: torch {torch} has no gloo on Windows, so its ranks cannot find each other\n"
            "hint: take torch 2.7.1, or 2.11 and newer"
        )


def is_named(name: str, said: str) -> bool:
    """Whether a package is spoken of, and not only another one whose name holds this one's."""
    pattern = name.replace("-", "[-_.]")  # in its normal form it has letters, digits and hyphens alone
    return re.search(rf"(?<![\w.-]){pattern}(?![\w-])", said, re.IGNORECASE) is not None


def quote(said: str) -> str:
    """Uv's words without its advice, which is for a project of one's own."""
    words = said.partition("\nhint:")[0].strip()
    words = re.sub(r"\s+for split \(markers:[^)]*\)", "", words)[:SAID]
    return "\n".join(f"  | {line}" for line in words.splitlines())


def packages_of(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Name -> its entry in the lock."""
    entries = tomllib.loads((folder / "uv.lock").read_text("utf-8"))["package"]
    return {entry["name"]: entry for entry in entries}


def has_wheel(entry: Mapping[str, Any], tags: frozenset[Tag]) -> bool:
    """Whether a package of the lock has a wheel that such a machine takes."""
    for wheel in entry.get("wheels", []):
        name = str(wheel.get("url") or wheel.get("filename") or wheel.get("path")).partition("#")[0].rpartition("/")[2]
        try:
            if not tags.isdisjoint(parse_wheel_filename(name.replace("%2B", "+"))[3]):
                return True
        except InvalidWheelFilename:
            continue
    return False


def who_asks(name: str, packages: Mapping[str, Mapping[str, Any]], wishes: Wishes) -> list[str]:
    """The requirements that lead to a package, in their own lines."""
    return [str(wish) for wish in wishes.wanted if name in reach(wish.name, packages)] or [f"winfleet itself: {name}"]


def reach(name: str, packages: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """A package and all that it needs."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        waiting += [each["name"] for each in packages.get(one, {}).get("dependencies", [])]
    return found
