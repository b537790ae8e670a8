"""Sends to a host those folders that it lacks, each as one archive that the host verifies; big ones are left to the swarm."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.transfer.folders import list_sent, pack


class ActionModule(ActionBase):
    """winfleet_sync: home, sources {kind: path}, digests {kind: 64 hex}, torrents {kind: file}, include, keep, refuse.

    Returns "sent" and "swarm", the kinds that are left: WinRM is slow for files, so a Windows host takes big ones otherwise.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        common = {"wanted": given["digests"], "keep": int(given.get("keep", 3))}
        looked = self._folders(common, task_vars)
        if looked.get("missing") and given.get("refuse"):
            raise AnsibleActionFail(
                f"{', '.join(looked['missing'])} of this controller is not there, and nothing is sent with fleet_skip_deploy\n"
                "  hint: run deploy_and_train.yml without it once"
            )
        if looked.get("failed") or looked.get("unreachable") or not looked["missing"] or self._task.check_mode:
            return {**result, **looked, "changed": bool(looked.get("missing"))}
        slow = task_vars["ansible_connection"] in ("winrm", "psrp")
        swarm = [kind for kind in looked["missing"] if slow and kind in given["torrents"]]
        sent = [kind for kind in looked["missing"] if kind not in swarm]
        for kind in sent:
            self._send(kind, Path(given["sources"][kind]), common, looked, task_vars)
        return {**result, "home": looked["home"], "sent": sent, "swarm": swarm, "changed": bool(sent)}

    def _send(self, kind: str, source: Path, common: dict[str, Any], looked: dict[str, Any], task_vars: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="winfleet-") as folder:
            archive = Path(folder, f"{kind}.tar")
            pack(source, list_sent(source, kind, self._task.args["include"]), archive)
            size = archive.stat().st_size
            if 2 * size > looked["free_bytes"]:
                raise AnsibleActionFail(
                    f"{kind} of {size / 1e6:.0f} MB needs twice that below {looked['home']}, which has "
                    f"{looked['free_bytes'] / 1e6:.0f} MB free\n  hint: make room there, or set fleet_home to another disk"
                )
            self._make_tmp_path()
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, os.path.basename(archive))
            self._transfer_file(str(archive), remote)
            try:
                done = self._folders({**common, "kind": kind, "archive": remote}, task_vars)
            finally:
                self._remove_tmp_path(self._connection._shell.tmpdir)
                self._connection._shell.tmpdir = None
        if done.get("failed") or done.get("unreachable"):
            raise AnsibleActionFail(str(done.get("msg", f"{kind} did not arrive")))

    def _folders(self, arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        call = {"operation": "folders", "home": self._task.args["home"], "arguments": arguments}
        result: dict[str, Any] = self._execute_module(
            module_name="winfleet_host", module_args=call, task_vars=task_vars
        )
        return result
