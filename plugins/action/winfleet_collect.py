"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase
from winfleet.folders import filter_as_data, is_plain
from winfleet.plan import SWARM_PORT


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
            collect = self._collect_by_http if slow else self._collect
            packed = collect(given, archive, task_vars)
            if packed.get("failed") or packed.get("unreachable"):
                return {**result, **packed}
            unpack(archive, host, folder if self._task.args.get("all_outputs") else host)
        return {**result, "changed": True, "left": packed["left"], "outputs_mb": packed["outputs_mb"]}

    def _collect(self, given: dict[str, Any], archive: Path, task_vars: Any) -> dict[str, Any]:
        call = {"operation": "collect", "home": self._task.args["home"], "arguments": given}
        packed: dict[str, Any] = self._execute_module(
            module_name="winfleet_host", module_args=call, task_vars=task_vars
        )
        if "archive" in packed and "token" not in given:
            self._connection.fetch_file(packed["archive"], str(archive))
            self._remove_tmp_path(packed["folder"])
        return packed

    def _collect_by_http(self, given: dict[str, Any], archive: Path, task_vars: Any) -> dict[str, Any]:
        token, over = secrets.token_hex(16), threading.Event()
        fetcher = threading.Thread(target=fetch, args=(given["address"], token, archive, over), daemon=True)
        fetcher.start()
        try:
            return self._collect({**given, "token": token, "port": SWARM_PORT}, archive, task_vars)
        finally:
            over.set()
            fetcher.join()


def fetch(address: str, token: str, archive: Path, over: threading.Event) -> None:
    """Asks for the archive until the host hands it over whole, or until its task is over."""
    while not over.wait(0.2):
        connection = http.client.HTTPConnection(address, SWARM_PORT, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", f"/{token}")
            answer = connection.getresponse()
            with archive.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if answer.status == 200 and archive.stat().st_size == int(answer.headers["Content-Length"]):
                return


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
