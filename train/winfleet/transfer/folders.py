"""Folders named by their content: list, digest, pack, unpack and verify. Standard library alone.

Ansible's modules use this file on hosts that have no winfleet yet, so what it imports of the package does so too.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..core.files import nearest_folder, replace
from .including import chosen, in_vain

SHORT = 12  # hex digits of a digest in folder names; 64 would make torch's paths too long for Windows
NEVER_SENT = frozenset({".git", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
PROPOSAL = ".oom.yaml"  # written by us beside a user's settings: no reason to send the code anew
INCLUDE_HINT = (
    "\nhint: a pattern is a path below fleet_project, as data/*.bin or data/; keys and .env files need their very name"
)


class FolderError(ValueError):
    """A folder that cannot be sent or does not hold what it should."""


def list_files(folder: Path, *, honour_git: bool, include: Sequence[str] = ()) -> list[PurePosixPath]:
    """Files below the folder, sorted; with honour_git without those that git ignores and no pattern of `include` asks for.

    Empty folders do not count. Raises FolderError where the folder is missing, empty, or holds a link that leads out of it, and
    where a pattern matches nothing.
    """
    if not folder.is_dir():
        raise FolderError(f"no folder {folder}")
    names = _git_files(folder) if honour_git else None
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if _counts(path)]
    paths = [PurePosixPath(name) for name in names if not name.endswith(PROPOSAL)]
    paths += chosen(ignored_files(folder), include) if honour_git and include else []
    kept = sorted({path for path in paths if not NEVER_SENT.intersection(path.parts)})
    if vain := in_vain(kept, include):
        raise FolderError(f"fleet_include: {', '.join(vain)} matches no file of {folder}{INCLUDE_HINT}")
    if not kept:
        raise FolderError(f"folder {folder} has no files to send")
    root = folder.resolve()
    inside = {parent: (folder / parent).resolve().is_relative_to(root) for parent in {name.parent for name in kept}}
    for name in kept:  # of many thousand files only links are resolved
        link = (folder / name).is_symlink()
        if not inside[name.parent] or (link and not (folder / name).resolve().is_relative_to(root)):
            raise FolderError(f"{folder / name} is a link that leads out of {folder}")
        if link and (folder / name).is_dir():
            raise FolderError(f"{folder / name} is a link to a folder; only links to files are sent")
    return kept


def list_sent(folder: Path, kind: str, include: Sequence[str]) -> list[PurePosixPath]:
    """The files of a folder of this kind that hosts get: code without what git ignores, but with what `include` asks for."""
    return (
        list_files(folder, honour_git=True, include=include) if kind == "code" else list_files(folder, honour_git=False)
    )


def _counts(path: Path) -> bool:
    # a link to a folder is no file and nothing follows it: it must not be left out without a word
    return path.is_file() or (path.is_symlink() and path.is_dir())


def _git_files(folder: Path) -> list[str] | None:
    if shutil.which("git") is None:
        return None
    return _ask_git(folder, "--cached", "--others")


def _ask_git(folder: Path, *kinds: str) -> list[str] | None:
    git = ["git", "-C", str(folder), "ls-files", "-z", *kinds, "--exclude-standard", "--", "."]
    found = subprocess.run(git, capture_output=True, check=False)
    if found.returncode:
        return None  # no checkout
    names = found.stdout.decode("utf-8", "surrogateescape").split("\0")
    return [name for name in names if name and _counts(folder / name)]


def ignored_files(folder: Path) -> list[PurePosixPath]:
    """Files that git ignores; none where the folder is no checkout. What is never sent is left out."""
    names = _ask_git(folder, "--others", "--ignored") if shutil.which("git") else None
    paths = [PurePosixPath(name) for name in names or []]
    return [path for path in paths if not NEVER_SENT.intersection(path.parts) and not path.name.endswith(PROPOSAL)]


def content_of(path: Path) -> tuple[str, int]:
    """SHA-256 (64 hex digits) and size of a file. Raises OSError."""
    content = hashlib.sha256()  # hashlib.file_digest is newer than some hosts' Python
    with path.open("rb") as file:
        while block := file.read(2**20):
            content.update(block)
        return content.hexdigest(), file.tell()


def digest(folder: Path, names: Iterable[PurePosixPath], look: Callable[[Path], tuple[str, int]] = content_of) -> str:
    """SHA-256 (64 hex digits) over each file's path, size and content, in the order of the paths.

    Modification times, owners and empty folders do not matter. `look` may know a file's content without reading it.
    """
    total = hashlib.sha256()
    for name in sorted(names):
        content, size = look(folder / name)
        total.update(f"{content} {size} {name}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def pack(folder: Path, names: Iterable[PurePosixPath], archive: Path) -> None:
    """Writes the files into a tar archive."""
    with tarfile.open(archive, "w", dereference=True) as tar:
        for name in names:
            tar.add(folder / name, arcname=str(name), recursive=False)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member of this content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def unpack(archive: Path, target: Path, expected: str) -> None:
    """Unpacks beside the target, verifies the digest, and renames: the target is there whole or not at all.

    Raises FolderError where the content is not what was sent, or where a member would leave the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive) as tar:
            filter_as_data(tar)
            for member in tar:
                if not is_plain(member):
                    raise FolderError(f"the archive has a member {member.name!r} that is no plain file of the folder")
                tar.extract(member, fresh)
        verify(fresh, expected)
        os.chmod(fresh, 0o755)  # noqa: S103 (mkdtemp's 0700 would hide it from a task of another user)
        if not target.exists():
            replace(fresh, target)
    except tarfile.TarError:
        raise FolderError("the archive is no whole tar file") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def filter_as_data(tar: tarfile.TarFile) -> None:
    """Python's own guard against hostile members, where it has one: Debian 12's 3.11.2 does not."""
    if hasattr(tarfile, "data_filter"):
        tar.extraction_filter = tarfile.data_filter


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is an ordinary file inside the folder; what came from another machine need not be."""
    name = PurePosixPath(member.name)
    return member.isfile() and bool(name.parts) and not name.is_absolute() and ".." not in name.parts


def verify(folder: Path, expected: str) -> None:
    """Raises FolderError where the folder's content has another digest than expected (64 or 12 hex digits)."""
    names = [PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()]
    found = digest(folder, names)
    if not found.startswith(expected):
        raise FolderError(f"{folder} has the digest {found[:SHORT]}, expected {expected[:SHORT]}")


def prune(parent: Path, keep: int, current: str) -> None:
    """Removes all but the newest `keep` folders that are named by a digest, never the current one."""
    named = [path for path in parent.iterdir() if path.is_dir() and len(path.name) == SHORT]
    old = [path for path in sorted(named, key=lambda path: path.stat().st_mtime) if path.name != current]
    for path in old[: max(0, len(old) - (keep - 1))]:
        shutil.rmtree(path)


def free_bytes(home: Path) -> int:
    """Free space on the disk of the nearest folder that exists."""
    return shutil.disk_usage(nearest_folder(home)).free


def missing(home: Path, wanted: Mapping[str, str], *, check: bool) -> list[str]:
    """Kinds whose folder `kind/<12 hex>` is not there; others count as new from now on, but for `check`, so that they stay."""
    targets = {kind: home / kind / digest[:SHORT] for kind, digest in wanted.items()}
    there = {kind: path for kind, path in targets.items() if path.is_dir()}
    for path in there.values() if not check else ():
        os.utime(path)
    return [kind for kind in targets if kind not in there]
