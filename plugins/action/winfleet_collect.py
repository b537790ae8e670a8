"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import bring
from winfleet.transfer.folders import filter_as_data, is_plain


class ActionModule(Action):
    """winfleet_collect: home, run, code, data, all_outputs, limit_mb, address (of the host), logs (the controller's folder)."""

    def act(self) -> dict[str, Any]:
        """Has the host pack it, and unpacks it here."""
        given = {key: value for key, value in self.given.items() if key not in ("home", "logs")}
        folder = self.path("logs") / str(given["run"])
        host = folder / self.name
        with tempfile.TemporaryDirectory(prefix="winfleet-") as temporary:
            archive = Path(temporary, "run.tar.gz")
            packed = bring(self, "collect", given, archive, self.variables)
            if failed(packed):
                return packed
            unpack(archive, host, folder if given.get("all_outputs") else host)
        return {"changed": True, "left": packed["left"], "outputs_mb": packed["outputs_mb"]}


def unpack(archive: Path, host: Path, outputs: Path) -> None:
    """Logs go to `host`, what lay below work/ to `outputs`. Members come from another machine: plain files only."""
    with tarfile.open(archive) as tar:
        filter_as_data(tar)
        for member in tar:
            if not is_plain(member):
                continue
            target, name = host, PurePosixPath(member.name)
            if name.parts[0] == "work":
                target, member.name = outputs, str(PurePosixPath(*name.parts[1:]))
            tar.extract(member, target)
