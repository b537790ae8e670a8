"""What a run's work folder is made of, written down once: path, size and digest of each file. Standard library alone.

What the run wrote is what differs from it. A file too large to be copied is a link to the folder that was sent; its size
and time of change stand in for its digest, as that folder is named by its content.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.files import write_atomic
from ..transfer.folders import SHORT, content_of

RECORD = "work.json"
BEFORE = (
    "plan.before.json"  # the plan of a run that began before there were records, once a newer one has taken its place
)


class Record:
    """Entries by the path (posix) below work/; `code` and `data` are the digests of what they came from.

    An entry has size and digest (64 hex digits); that of a link size, mtime_ns and source (posix, below fleet_home).
    """

    def __init__(
        self, files: Mapping[str, Mapping[str, Any]], code: str | None = None, data: str | None = None
    ) -> None:
        self.files, self.code, self.data = dict(files), code, data

    def write(self, folder: Path) -> None:
        """Writes it into the run's folder. Raises OSError."""
        values = {"code": self.code, "data": self.data, "files": self.files}
        write_atomic(folder / RECORD, json.dumps(values, ensure_ascii=False, indent=0) + "\n")

    def is_untouched(self, work: Path, name: str) -> bool:
        """Whether the file is still as it was put there; False where it is gone, or was never put there."""
        entry, path = self.files.get(name), work / name
        return entry is not None and path.is_file() and is_same(path, entry)

    def links(self) -> dict[str, Path]:
        """Names of the files that are links, and what each of them is a link to, below fleet_home."""
        return {name: Path(entry["source"]) for name, entry in self.files.items() if "source" in entry}


def is_same(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the file has the entry's content. Raises OSError."""
    found = path.stat()
    if found.st_size != entry.get("size"):
        return False
    return found.st_mtime_ns == entry["mtime_ns"] if "source" in entry else content_of(path)[0] == entry.get("digest")


def read_record(folder: Path) -> Record | None:
    """The record in the run's folder, None where there is none that can be read."""
    try:
        values = json.loads((folder / RECORD).read_text("utf-8"))
        return Record(values["files"], values["code"], values["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_of_sent(home: Path, code: str | None, data: str | None) -> Record:
    """For a run that began before there were records: all that its work folder was made of, as it was sent."""
    files = {}
    for kind, digest in (("code", code), ("data", data)):
        folder = home / kind / (digest or "none")[:SHORT]
        prefix = "" if kind == "code" else "data/"
        for path in files_below(folder):
            found = path.stat()
            name = prefix + path.relative_to(folder).as_posix()
            source = path.relative_to(home).as_posix()
            linked = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "source": source}
            content = content_of(path)[0] if kind == "code" else ""
            files[name] = linked if kind == "data" else {"size": found.st_size, "digest": content}
    return Record(files, code, data)


def digests_before(folder: Path, code: str | None, data: str | None) -> tuple[str | None, str | None]:
    """Code and data of the plan with which a run without a record was last started; those given where it is the newest plan."""
    try:
        values = json.loads((folder / BEFORE).read_text("utf-8"))
        return values.get("code"), values.get("data")
    except (OSError, ValueError, AttributeError):
        return code, data


def keep_plan(folder: Path) -> None:
    """Before a newer plan.json takes its place: a run without a record will ask what its work folder was made of."""
    if (folder / "work").is_dir() and not (folder / RECORD).exists() and not (folder / BEFORE).exists():
        write_atomic(folder / BEFORE, (folder / "plan.json").read_text("utf-8"))


def files_below(folder: Path) -> Iterator[Path]:
    """Plain files, not through links, nothing where the folder is missing."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def outputs(home: Path, folder: Path, code: str | None, data: str | None) -> list[Path]:
    """Files below the run's work/ that are new, or differ from what it was made of. Raises OSError."""
    work = folder / "work"
    record = read_record(folder) or record_of_sent(home, *digests_before(folder, code, data))
    return [path for path in files_below(work) if not record.is_untouched(work, path.relative_to(work).as_posix())]
