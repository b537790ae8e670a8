"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import functools
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.fetching import fetch_during
from winfleet.folders import filter_as_data, is_plain


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
        slow = task_vars["ansible_connection"] in ("winrm", "psrp")
        with tempfile.TemporaryDirectory(prefix="winfleet-") as temporary:
            archive = Path(temporary, "run.tar.gz")
            task = functools.partial(self._collect, archive, task_vars)
            packed = fetch_during(task, given, archive) if slow else task(given)
            if packed.get("failed") or packed.get("unreachable"):
                return {**result, **packed}
            unpack(archive, host, folder if self._task.args.get("all_outputs") else host)
        return {**result, "changed": True, "left": packed["left"], "outputs_mb": packed["outputs_mb"]}

    def _collect(self, archive: Path, task_vars: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        call = {"operation": "collect", "home": self._task.args["home"], "arguments": dict(given)}
        packed: dict[str, Any] = self._execute_module(
            module_name="winfleet_host", module_args=call, task_vars=task_vars
        )
        if "archive" in packed and "token" not in given:
            self._connection.fetch_file(packed["archive"], str(archive))
            self._remove_tmp_path(packed["folder"])
        return packed


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
