"""Asks the launchers of this host to checkpoint and exit, and ends what does not."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runs import going_on, launcher_pid, read_status

DOCUMENTATION = """
module: winfleet_stop
short_description: Stops the run that is going on on a Linux host
description: All hosts stop after the same optimizer step with a checkpoint. After the grace period the ranks are ended.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  grace_seconds: {description: How long the ranks have to reach the end of a step., type: int, default: 60}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_stop: {home: ~/.winfleet}
"""
RETURN = """
stopped: {description: "What was stopped: run, state and step.", type: list, elements: dict, returned: always}
"""

AFTER_SECONDS = 15.0  # for the launcher itself, once its ranks have ended


def stop(folder: Path, grace: int) -> dict[str, object]:
    """Asks, waits, and ends the launcher where it does not end itself; its ranks end with it."""
    temporary = folder / "stop.tmp"
    temporary.write_text(json.dumps({"grace_seconds": grace}), encoding="utf-8")
    os.replace(temporary, folder / "stop")
    for patience, sign in ((grace + AFTER_SECONDS, signal.SIGTERM), (AFTER_SECONDS, signal.SIGKILL), (5.0, None)):
        deadline = time.monotonic() + patience
        while (pid := launcher_pid(folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if pid is None or sign is None:
            break
        os.kill(pid, sign)
    status = read_status(folder)
    ranks = status.get("ranks")
    steps = [rank.get("step", 0) for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []
    state, step = str(status.get("state")), max(steps, default=0)
    return {"run": folder.name, "state": state, "step": step, "text": f"run {folder.name} {state} after step {step}"}


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={"home": {"type": "path", "required": True}, "grace_seconds": {"type": "int", "default": 60}},
        supports_check_mode=True,
    )
    found = going_on(Path(module.params["home"]))
    if module.check_mode:
        module.exit_json(
            changed=bool(found),
            stopped=[{"run": folder.name, "text": f"run {folder.name} would be stopped"} for folder in found],
        )
    stopped = [stop(folder, module.params["grace_seconds"]) for folder in found]
    module.exit_json(changed=bool(stopped), stopped=stopped)


if __name__ == "__main__":
    main()
