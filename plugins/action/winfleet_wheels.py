"""Downloads all wheels of an environment for the workers' platform, to be sent to workers without internet."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from uv import find_uv_bin


class ActionModule(ActionBase):
    """winfleet_wheels: requirements (text), torch, python_version, platform, cache; returns {"path"}, made once."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: str(value) for key, value in self._task.args.items()}
        named = "\n".join(given[key] for key in ("requirements", "torch", "python_version", "platform"))
        cache = Path(given["cache"]).expanduser() / "wheels"
        folder = cache / hashlib.sha256(named.encode()).hexdigest()[:12]
        if folder.is_dir():
            return {**result, "changed": False, "path": str(folder)}
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="winfleet-", dir=cache) as temporary:
            fresh = Path(temporary, "wheels")
            wanted = Path(temporary, "wanted.txt")
            wanted.write_text(f"{given['requirements']}\ntorch=={given['torch']}\n", "utf-8")
            target = "windows" if given["platform"].startswith("win") else "linux"
            # uv resolves for the workers' system; pip, which downloads, would judge the markers by this one
            resolved = run([find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-platform", target,
                            "--python-version", given["python_version"], str(wanted)])  # fmt: skip
            wanted.write_text(resolved, "utf-8")
            run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform",
                 given["platform"], "--python-version", given["python_version"], "--dest", str(fresh), "-r", str(wanted)])  # fmt: skip
            shutil.move(fresh, folder)
        return {**result, "changed": True, "path": str(folder)}


def run(command: list[str]) -> str:
    """Runs it; its output. Raises AnsibleActionFail with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AnsibleActionFail(
            f"controller: the wheels for the workers cannot be had: {done.stderr.strip()[-800:]}\n"
            "  hint: the controller needs a package index, or set uv_env_wheels to a folder of wheels on the workers"
        )
    return done.stdout
