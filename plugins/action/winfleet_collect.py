"""Brings what a run left on a host to the run's folder on the controller."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import bring
from winfleet.controller.unpacking import fetch, unpack
from winfleet.core.files import write_atomic
from winfleet.core.status import count


class ActionModule(Action):
    """winfleet_collect: home, run, code, data, all_outputs, limit_mb, address (of the host), logs (the controller's folder), keep.

    With `keep` outputs alone are brought, and none replaces a local file that differs; a negative limit_mb is none at all.
    """

    def act(self) -> dict[str, Any]:
        """Has the host pack it, and unpacks it here."""
        given = {key: value for key, value in self.given.items() if key not in ("home", "logs", "keep")}
        keep, folder = self.given.get("keep"), self.path("logs") / str(given["run"])
        outputs = folder if given.get("all_outputs") else folder / self.name
        with tempfile.TemporaryDirectory(prefix="winfleet-", dir=folder if keep else None) as temporary:
            archive = Path(temporary, "run.tar.gz")
            packed = bring(self, "collect", given, archive)
            if failed(packed):
                return packed
            if keep:
                brought, kept = fetch(archive, outputs, folder)
                if brought or kept or given.get("all_outputs"):
                    self.say(f"  {self.name}: {count(brought, 'file')} brought to {outputs}")
                for path in kept:
                    self.say(f"  kept, as it differs from that of {self.name}: {path}")
                return {"changed": brought > 0, "kept": kept}
            unpack(archive, folder / self.name, outputs, folder)
        left = {key: packed[key] for key in ("work", "left", "left_mb", "older")}
        write_atomic(folder / self.name / "left.json", json.dumps(left))
        return {"changed": True, **left, "outputs_mb": packed["outputs_mb"]}
