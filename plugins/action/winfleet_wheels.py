"""Downloads all wheels of an environment for the workers' platform, to be sent to workers without internet."""

from __future__ import annotations

import shutil
from typing import Any

from winfleet.controller.actions import Action
from winfleet.environments.lock import LockError
from winfleet.environments.wheels import Environment, check_build, download


class ActionModule(Action):
    """winfleet_wheels: requirements (text), torch, python_version, platform, torch_backend, own, built, cache; returns {"path"}, made once.

    Refuses a torch without CUDA where the preflight found GPUs.
    """

    refused = (LockError,)

    def act(self) -> dict[str, Any]:
        """Downloads what is not in the cache."""
        given = {key: str(value) for key, value in self.given.items() if key not in ("cache", "own", "built")}
        wanted = Environment(**given, own=self.optional_path("own"), built=self.optional_path("built"))
        gpus = {name: [str(gpu["name"]) for gpu in self.found_on(name).get("gpus", [])] for name in self.present}
        folder = wanted.folder(self.path("cache"))
        try:
            if wanted.own is not None and not wanted.own.is_dir():
                raise LockError(f"no folder {wanted.own}\nhint: correct uv_env_own_wheels")
            changed = not folder.is_dir()
            if changed:
                download(folder, wanted)
            check_build(folder, wanted, gpus)
        except LockError:
            shutil.rmtree(folder, ignore_errors=True)  # not taken again once refused: the index may be another then
            raise
        return {"changed": changed, "path": str(folder)}
