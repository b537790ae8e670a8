"""Starts the launcher of a run on this host, detached, unless it lives already or the run has finished."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runs import GOING_ON, state_of

DOCUMENTATION = """
module: winfleet_launch
short_description: Starts the launcher of a run on a Linux host
description: The launcher outlives the connection. Nothing happens where the run is going on or has finished.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  run: {description: Name of the run., type: str, required: true}
  machine_rank: {description: This host's place in the plan., type: int, required: true}
  python: {description: The interpreter that has the environment., type: path, required: true}
  agent: {description: Digest of the folder that holds the package winfleet., type: str, required: true}
  secrets: {description: Environment variables for the ranks that are not written down., type: dict, default: {}}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_launch: {home: ~/.winfleet, run: r1, machine_rank: 0, python: /usr/bin/python3, agent: 0123456789ab}
"""
RETURN = """
state: {description: State of the run on this host before., type: str, returned: always}
"""


def write_secrets(path: Path, secrets: dict[str, str]) -> None:
    """A file that its owner alone can read; the launcher deletes it once read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(secrets, file)


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "run": {"type": "str", "required": True},
            "machine_rank": {"type": "int", "required": True},
            "python": {"type": "path", "required": True},
            "agent": {"type": "str", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    folder = Path(given["home"]) / "runs" / given["run"]
    state = state_of(folder)
    settled = state in (*GOING_ON, "finished")
    if settled or module.check_mode:
        module.exit_json(changed=not settled, state=state)
    if given["secrets"]:
        write_secrets(folder / "secrets.json", given["secrets"])
    command = [given["python"], "-m", "winfleet.launch", "--detach", "--plan", str(folder / "plan.json"),
               "--machine-rank", str(given["machine_rank"])]  # fmt: skip
    package = Path(given["home"]) / "agent" / given["agent"][:12]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if started.returncode:
        (folder / "secrets.json").unlink(missing_ok=True)
        said = (started.stderr or started.stdout).strip()
        module.fail_json(msg=said or f"the launcher ended with {started.returncode}", rc=started.returncode)
    module.exit_json(changed=True, state=state)


if __name__ == "__main__":
    main()
