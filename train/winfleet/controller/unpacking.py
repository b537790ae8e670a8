"""Unpacks what hosts hand over into a run's folder: plain files alone, as they come from another machine."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from winfleet.transfer.folders import filter_as_data, is_plain

BLOCK_BYTES: Final = 2**20


def unpack(archive: Path, host: Path, outputs: Path, shared: Path) -> None:
    """Logs go to `host`, what lay below work/ to `outputs`, parts of a checkpoint to `shared`, where that lacks them.

    Members come from another machine: plain files only.
    """
    places = {"work": outputs, "shared": shared}
    with tarfile.open(archive) as tar:
        filter_as_data(tar)
        for member in tar:
            if not is_plain(member):
                continue
            top, *below = PurePosixPath(member.name).parts
            member.name = str(PurePosixPath(*below)) if below and top in places else member.name
            if top != "shared" or not (shared / member.name).exists():
                extract(tar, member, places.get(top, host))


def fetch(archive: Path, outputs: Path, shared: Path) -> tuple[int, list[str]]:
    """Outputs alone, where there is no local file of that name: how many came, and which local files are different."""
    brought, kept = 0, []
    with tarfile.open(archive) as tar:
        filter_as_data(tar)
        for member in tar:
            top, *below = PurePosixPath(member.name).parts
            if top not in ("work", "shared") or not below or not is_plain(member):
                continue
            place, member.name = outputs if top == "work" else shared, str(PurePosixPath(*below))
            target, content = place / member.name, tar.extractfile(member)
            if not target.exists() and not target.is_symlink():
                extract(tar, member, place)
                brought += 1
            elif content is None or not target.is_file() or not is_same(target, content):
                kept.append(str(target))
    return brought, kept


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    """A plain member below the place, in which another host's files may arrive at the same time.

    tarfile of Python 3.11 looks for a folder and then makes it, and fails where somebody else has made it in between.
    """
    (place / member.name).parent.mkdir(parents=True, exist_ok=True)
    tar.extract(member, place)


def is_same(path: Path, content: IO[bytes]) -> bool:
    """Whether the local file has this content."""
    with path.open("rb") as own:
        while True:
            block = content.read(BLOCK_BYTES)
            if own.read(BLOCK_BYTES) != block:
                return False
            if not block:
                return True
