"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import bring
from winfleet.core.files import write_atomic
from winfleet.core.status import count
from winfleet.transfer.folders import filter_as_data, is_plain

BLOCK_BYTES = 2**20


class ActionModule(Action):
    """winfleet_collect: home, run, code, data, all_outputs, limit_mb, address (of the host), logs (the controller's folder), keep.

    With `keep` outputs alone are brought, and none replaces a local file that differs; a negative limit_mb is none at all.
    """

    def act(self) -> dict[str, Any]:
        """Has the host pack it, and unpacks it here."""
        given = {key: value for key, value in self.given.items() if key not in ("home", "logs", "keep")}
        keep, folder = self.given.get("keep"), self.path("logs") / str(given["run"])
        outputs = folder if given.get("all_outputs") else folder / self.name
        with tempfile.TemporaryDirectory(prefix="winfleet-", dir=folder if keep else None) as temporary:
            archive = Path(temporary, "run.tar.gz")
            packed = bring(self, "collect", given, archive)
            if failed(packed):
                return packed
            if keep:
                brought, kept = fetch(archive, outputs, folder)
                if brought or kept or given.get("all_outputs"):
                    self.say(f"  {self.name}: {count(brought, 'file')} brought to {outputs}")
                for path in kept:
                    self.say(f"  kept, as it differs from that of {self.name}: {path}")
                return {"changed": brought > 0, "kept": kept}
            unpack(archive, folder / self.name, outputs, folder)
        left = {key: packed[key] for key in ("work", "left", "left_mb", "older")}
        write_atomic(folder / self.name / "left.json", json.dumps(left))
        return {"changed": True, **left, "outputs_mb": packed["outputs_mb"]}


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
                tar.extract(member, places.get(top, host))


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
                tar.extract(member, place)
                brought += 1
            elif content is None or not target.is_file() or not is_same(target, content):
                kept.append(str(target))
    return brought, kept


def is_same(path: Path, content: IO[bytes]) -> bool:
    """Whether the local file has this content."""
    with path.open("rb") as own:
        while True:
            block = content.read(BLOCK_BYTES)
            if own.read(BLOCK_BYTES) != block:
                return False
            if not block:
                return True
