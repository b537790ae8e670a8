"""Turns the project's uv.lock into what hosts install: requirements with hashes, and a digest that names the environment."""

from __future__ import annotations

from typing import Any

from uv import find_uv_bin
from winfleet.controller.actions import Action
from winfleet.environments.lock import LockError, read_lock


class ActionModule(Action):
    """winfleet_lock: project, fallback, python, torch_backend; returns what winfleet.environments.lock.read_lock() does, and "uv"."""

    refused = (LockError,)

    def act(self) -> dict[str, Any]:
        """Reads the lock of the project, or ours."""
        uv, python, backend = find_uv_bin(), str(self.given["python"]), str(self.given["torch_backend"])
        return {**read_lock(self.path("project"), self.path("fallback"), uv, python, backend), "uv": uv}
