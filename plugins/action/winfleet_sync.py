"""Sends to a host those folders that it lacks, each as one archive that the host verifies; big ones are left to the swarm."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from winfleet.controller.actions import Action, failed
from winfleet.controller.fetching import LOCAL
from winfleet.transfer.folders import list_sent, pack


class ActionModule(Action):
    """winfleet_sync: home, sources {kind: path}, digests {kind: 64 hex}, torrents {kind: file}, include, keep, refuse.

    Returns "sent" and "swarm", the kinds that are left: whoever is not on this machine takes those with torrents otherwise.
    """

    def act(self) -> dict[str, Any]:
        """Asks what the host lacks, and sends it."""
        given = self.given
        common = {"wanted": given["digests"], "keep": int(given.get("keep", 3))}
        looked = self.ask("folders", common)
        if looked.get("missing") and given.get("refuse"):
            raise AnsibleActionFail(
                f"{', '.join(looked['missing'])} of this controller is not there, and nothing is sent with fleet_skip_deploy\n"
                "  hint: run deploy_and_train.yml without it once"
            )
        if failed(looked) or not looked["missing"] or self.check_mode:
            return {**looked, "changed": bool(looked.get("missing"))}
        here = self.variables["ansible_connection"] == LOCAL
        swarm = [kind for kind in looked["missing"] if not here and kind in given["torrents"]]
        sent = [kind for kind in looked["missing"] if kind not in swarm]
        for kind in sent:
            self._send(kind, Path(given["sources"][kind]), common, looked)
        return {"home": looked["home"], "sent": sent, "swarm": swarm, "changed": bool(sent)}

    def _send(self, kind: str, source: Path, common: dict[str, Any], looked: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(prefix="winfleet-") as folder:
            archive = Path(folder, f"{kind}.tar")
            pack(source, list_sent(source, kind, self._task.args["include"]), archive)
            size = archive.stat().st_size
            if 2 * size > looked["free_bytes"]:
                raise AnsibleActionFail(
                    f"{kind} of {size / 1e6:.0f} MB needs twice that below {looked['home']}, which has "
                    f"{looked['free_bytes'] / 1e6:.0f} MB free\n  hint: make room there, or set fleet_home to another disk"
                )
            with self.sent(archive) as remote:
                done = self.ask("folders", {**common, "kind": kind, "archive": remote})
        if failed(done):
            raise AnsibleActionFail(str(done.get("msg", f"{kind} did not arrive")))
