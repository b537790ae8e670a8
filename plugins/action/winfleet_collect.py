"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.controller.fetching import bring
from winfleet.transfer.folders import filter_as_data, is_plain


class ActionModule(ActionBase):
    """winfleet_collect: home, run, code, data, all_outputs, limit_mb, address (of the host), logs (the controller's folder)."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: value for key, value in self._task.args.items() if key not in ("home", "logs")}
        folder = Path(self._task.args["logs"]).expanduser() / str(self._task.args["run"])
        host = folder / str(task_vars["inventory_hostname"])
        with tempfile.TemporaryDirectory(prefix="winfleet-") as temporary:
            archive = Path(temporary, "run.tar.gz")
            packed = bring(self, "collect", given, archive, task_vars)
            if packed.get("failed") or packed.get("unreachable"):
                return {**result, **packed}
            unpack(archive, host, folder if self._task.args.get("all_outputs") else host)
        return {**result, "changed": True, "left": packed["left"], "outputs_mb": packed["outputs_mb"]}


def unpack(archive: Path, host: Path, outputs: Path) -> None:
    """Logs go to `host`, what lay below work/ to `outputs`. Members come from another machine: plain files only."""
    with tarfile.open(archive) as tar:
        filter_as_data(tar)
        for member in tar:
            if not is_plain(member):
                continue
            name = PurePosixPath(member.name)
            target = outputs if name.parts[0] == "work" else host
            member.name = str(PurePosixPath(*name.parts[1:])) if name.parts[0] == "work" else member.name
            tar.extract(member, target)
