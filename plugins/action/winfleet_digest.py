"""Digests folders of the controller once for all hosts, winfleet's own package among them."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import winfleet
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.folders import FolderError, digest, list_files


class ActionModule(ActionBase):
    """winfleet_digest: {"folders": {kind: path or ""}} becomes {"digests": {kind: 64 hex}, "sources": {kind: path}}."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        cache = Path(self._task.args["cache"]).expanduser()
        given = {kind: Path(path).expanduser() for kind, path in self._task.args["folders"].items() if path}
        try:
            sources = {"agent": stage_package(cache / "agent"), **given}
            digests = {
                kind: digest(path, list_files(path, honour_git=kind == "code")) for kind, path in sources.items()
            }
        except (FolderError, OSError) as error:
            raise AnsibleActionFail(f"controller: {error}\n  hint: give a folder that can be read") from None
        return {
            **result,
            "changed": False,
            "digests": digests,
            "sources": {kind: str(p) for kind, p in sources.items()},
        }


def stage_package(folder: Path) -> Path:
    """Lays out the package winfleet as a host gets it: its files, and the entry point by which torchrun finds it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path(winfleet.__file__).parent, folder / "winfleet", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / f"winfleet-{winfleet.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: winfleet\nVersion: {winfleet.__version__}\n", "utf-8"
    )
    points = [
        point
        for point in importlib.metadata.distribution("winfleet").entry_points
        if point.group == "torchrun.handlers"
    ]
    lines = [f"{point.name} = {point.value}\n" for point in points]
    (metadata / "entry_points.txt").write_text("[torchrun.handlers]\n" + "".join(lines), "utf-8")
    return folder
