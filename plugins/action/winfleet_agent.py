"""Brings a Windows host what it needs before Python can do anything there: uv, a Python with a few packages, and winfleet."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import io
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from winfleet.controller.actions import Action
from winfleet.environments.package import keep
from winfleet.environments.wheels import fetch
from winfleet.transfer.folders import list_files

PACKAGES = ("psutil", "nvidia-ml-py", "libtorrent")  # of the agent's Python; the versions are the control node's
RUNTIME = (
    "msvc-runtime==14.44.35112"  # Microsoft's C and C++ libraries, which torch and libtorrent need and do not bring
)


class ActionModule(Action):
    """winfleet_agent: home, found {"bundle", "package"} of the preflight, interpreter, python_version, cache, refuse, offline.

    `environment` and `secrets` are variables of uv.
    """

    def act(self) -> dict[str, Any]:
        """Sends what the preflight did not find."""
        given, found, version = self.given, self.given["found"], str(self.given["python_version"])
        with contextlib.ExitStack() as stack:
            package = keep(self.path("cache") / "agents")
            wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("uv", *PACKAGES)] + [RUNTIME]
            bundle = f"agent-win_amd64-{version}-{'-'.join(name.partition('==')[2] for name in wanted)}.zip"
            if found["bundle"] == bundle and found["package"] == package.name:
                return {}
            if given["refuse"]:
                raise AnsibleActionFail(
                    "winfleet's agent is not there or another one, and nothing is sent with fleet_skip_deploy\n"
                    "  hint: run deploy_and_train.yml without it once"
                )
            if self.check_mode:
                return {"changed": True}
            arguments = {
                "package": base64.b64encode(pack(package)).decode(), "digest": package.name, "bundle": "", "named": bundle,
                "interpreter": str(given["interpreter"]), "python_version": version,
                "packages": list(PACKAGES), "environment": dict(given["environment"]), "offline": bool(given["offline"]),
            }  # fmt: skip
            if found["bundle"] != bundle:
                local = make_bundle(self.path("cache") / bundle, wanted, version)
                arguments["bundle"] = stack.enter_context(self.sent(local))
            return self.ask("agent", arguments, {"uv": dict(given["secrets"])})


def pack(folder: Path) -> bytes:
    """The folder as a zip."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in list_files(folder, honour_git=False):
            packed.write(folder / name, str(name))
    return archive.getvalue()


def make_bundle(bundle: Path, wanted: list[str], python_version: str) -> Path:
    """A zip with uv.exe, the agent's wheels for Windows and runtime/*.dll, made once by pip; its name has their versions."""
    if bundle.is_file():
        return bundle
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="winfleet-", dir=bundle.parent) as folder:
        if said := fetch(Path(folder), python_version, ["win_amd64"], *wanted):
            raise AnsibleActionFail(
                f"controller: pip cannot get {', '.join(wanted)} for Windows: {said[-500:]}\n"
                "  hint: the controller needs a package index once, to bring uv to Windows workers"
            )
        fresh = Path(folder, "bundle.zip")
        with zipfile.ZipFile(fresh, "w") as packed:
            for wheel in sorted(Path(folder).glob("*.whl")):
                if wheel.name.startswith("uv-"):
                    with zipfile.ZipFile(wheel) as inside:
                        program = next(name for name in inside.namelist() if name.endswith("/uv.exe"))
                        packed.writestr("uv.exe", inside.read(program), zipfile.ZIP_DEFLATED)
                elif wheel.name.startswith("msvc_runtime-"):
                    with zipfile.ZipFile(wheel) as inside:
                        for name in inside.namelist():
                            if name.endswith(".dll") and "/Scripts/" in name:
                                packed.writestr(f"runtime/{Path(name).name}", inside.read(name), zipfile.ZIP_DEFLATED)
                else:
                    packed.write(wheel, wheel.name)
        shutil.move(fresh, bundle)
    return bundle
