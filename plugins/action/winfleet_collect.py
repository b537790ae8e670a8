"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.controller.fetching import bring
from winfleet.core.files import write_atomic
from winfleet.transfer.folders import filter_as_data, is_plain

BLOCK_BYTES = 2**20
display = Display()


class ActionModule(ActionBase):
    """winfleet_collect: home, run, code, data, all_outputs, limit_mb, address (of the host), logs (the controller's folder), keep.

    With `keep` outputs alone are brought, and none replaces a local file that differs; a negative limit_mb is none at all.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: value for key, value in self._task.args.items() if key not in ("home", "logs", "keep")}
        folder, name = (
            Path(self._task.args["logs"]).expanduser() / str(given["run"]),
            str(task_vars["inventory_hostname"]),
        )
        outputs = folder if given.get("all_outputs") else folder / name
        with tempfile.TemporaryDirectory(
            prefix="winfleet-", dir=folder if self._task.args.get("keep") else None
        ) as temporary:
            archive = Path(temporary, "run.tar.gz")
            packed = bring(self, "collect", given, archive, task_vars)
            if packed.get("failed") or packed.get("unreachable"):
                return {**result, **packed}
            if self._task.args.get("keep"):
                brought, kept = fetch(archive, outputs, folder)
                if brought or kept or given.get("all_outputs"):
                    say_fetched(name, outputs, brought, kept)
                return {**result, "changed": brought > 0, "kept": kept}
            unpack(archive, folder / name, outputs, folder)
        left = {key: packed[key] for key in ("work", "left", "left_mb", "older")}
        write_atomic(folder / name / "left.json", json.dumps(left))
        return {**result, "changed": True, **left, "outputs_mb": packed["outputs_mb"]}


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


def say_fetched(host: str, folder: Path, brought: int, kept: list[str]) -> None:
    """A line for the host, and one for each local file that stays as it is."""
    display.display(f"  {host}: {brought} {'file' if brought == 1 else 'files'} brought to {folder}")
    for path in kept:
        display.display(f"  kept, as it differs from that of {host}: {path}")
