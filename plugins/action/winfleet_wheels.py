"""Downloads all wheels of an environment for the workers' platform, to be sent to workers without internet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.environments.lock import LockError
from winfleet.environments.wheels import Environment, check_build, download


class ActionModule(ActionBase):
    """winfleet_wheels: requirements (text), torch, python_version, platform, torch_backend, own, built, cache; returns {"path"}, made once.

    Refuses a torch without CUDA where the preflight found GPUs.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = {key: str(value) for key, value in self._task.args.items()}
        cache = Path(given.pop("cache")).expanduser()
        own, built = (Path(path).expanduser() if (path := given.pop(key)) else None for key in ("own", "built"))
        wanted = Environment(**given, own=own, built=built)
        gpus = {name: names_of_gpus(task_vars["hostvars"][name]) for name in task_vars["ansible_play_hosts"]}
        folder, changed = wanted.folder(cache), False
        try:
            if wanted.own is not None and not wanted.own.is_dir():
                raise LockError(f"no folder {wanted.own}\nhint: correct uv_env_own_wheels")
            if not folder.is_dir():
                changed = True
                download(folder, wanted)
            check_build(folder, wanted, gpus)
        except LockError as error:
            shutil.rmtree(
                folder, ignore_errors=True
            )  # what is refused is not taken again, the index may be another then
            raise AnsibleActionFail(f"controller: {error}".replace("\nhint:", "\n  hint:")) from None
        return {**result, "changed": changed, "path": str(folder)}


def names_of_gpus(values: Any) -> list[str]:
    """What the preflight found on a host; none where there was no preflight."""
    return [str(gpu["name"]) for gpu in (values.get("fleet_host") or {}).get("host", {}).get("gpus", [])]
