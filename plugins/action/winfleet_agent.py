"""Brings a Windows host what it needs before Python can do anything there: uv, a Python with a few packages, and winfleet."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.environments.package import stage
from winfleet.transfer.folders import SHORT, digest, list_files

PACKAGES = ("psutil", "nvidia-ml-py", "libtorrent")  # of the agent's Python; the versions are the control node's


class ActionModule(ActionBase):
    """winfleet_agent: home, found {"bundle", "package"} of the preflight, interpreter, python_version, cache, refuse."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, found = self._task.args, self._task.args["found"]
        with tempfile.TemporaryDirectory(prefix="winfleet-") as folder:
            package = stage(Path(folder, "package"))
            named = digest(package, list_files(package, honour_git=False))[:SHORT]
            wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("uv", *PACKAGES)]
            bundle = (
                f"agent-win_amd64-{given['python_version']}-{'-'.join(name.partition('==')[2] for name in wanted)}.zip"
            )
            if found["bundle"] == bundle and found["package"] == named:
                return {**result, "changed": False}
            if given["refuse"]:
                raise AnsibleActionFail(
                    "winfleet's agent is not there or another one, and nothing is sent with fleet_skip_deploy\n"
                    "  hint: run deploy_and_train.yml without it once"
                )
            if self._task.check_mode:
                return {**result, "changed": True}
            arguments = {
                "package": base64.b64encode(pack(package)).decode(), "digest": named, "bundle": "", "named": bundle,
                "interpreter": str(given["interpreter"]), "python_version": str(given["python_version"]),
                "packages": list(PACKAGES),
            }  # fmt: skip
            if found["bundle"] != bundle:
                local = make_bundle(Path(given["cache"]).expanduser() / bundle, wanted, str(given["python_version"]))
                self._make_tmp_path()
                arguments["bundle"] = self._connection._shell.join_path(self._connection._shell.tmpdir, bundle)
                self._transfer_file(str(local), arguments["bundle"])
        call = {"operation": "agent", "home": given["home"], "arguments": arguments}
        done = self._execute_module(module_name="winfleet_host", module_args=call, task_vars=task_vars)
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return {**result, **done}


def pack(folder: Path) -> bytes:
    """The folder as a zip."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in list_files(folder, honour_git=False):
            packed.write(folder / name, str(name))
    return archive.getvalue()


def make_bundle(bundle: Path, wanted: list[str], python_version: str) -> Path:
    """A zip with uv.exe and the agent's wheels for Windows, made once by pip; its name has their versions."""
    if bundle.is_file():
        return bundle
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="winfleet-", dir=bundle.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform",
                   "win_amd64", "--python-version", python_version, "--dest", folder, *wanted]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AnsibleActionFail(
                f"controller: pip cannot get {', '.join(wanted)} for Windows: {done.stderr.strip()[-500:]}\n"
                "  hint: the controller needs a package index once, to bring uv to Windows workers"
            )
        fresh = Path(folder, "bundle.zip")
        with zipfile.ZipFile(fresh, "w") as packed:
            for wheel in sorted(Path(folder).glob("*.whl")):
                if wheel.name.startswith("uv-"):
                    with zipfile.ZipFile(wheel) as inside:
                        program = next(name for name in inside.namelist() if name.endswith("/uv.exe"))
                        packed.writestr("uv.exe", inside.read(program), zipfile.ZIP_DEFLATED)
                else:
                    packed.write(wheel, wheel.name)
        shutil.move(fresh, bundle)
    return bundle
