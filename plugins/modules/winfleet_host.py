"""What a task asks of a Linux host. plugins/windows/winfleet_host.ps1 is the same for Windows."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host.facts import look
from ansible.module_utils.host.remote import OPERATIONS, HostError, perform

DOCUMENTATION = """
module: winfleet_host
short_description: Looks at a host, or does one step of a run there
description: Operations and their arguments are those of train/winfleet/host/remote.py; `look` finds what the host has and changes nothing.
options:
  operation: {description: What to do., type: str, default: look}
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  arguments: {description: What the operation needs., type: dict, default: {}}
  secrets: {description: Environment variables for the ranks that are not written down., type: dict, default: {}}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_host: {home: ~/.winfleet, arguments: {address: 192.168.0.21, run: ""}}
- winfleet_host: {operation: stop, home: ~/.winfleet, arguments: {grace_seconds: 60}}
"""
RETURN = """
host: {description: What was found., type: dict, returned: where the operation is look}
"""


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "operation": {"type": "str", "default": "look", "choices": ["look", *OPERATIONS]},
            "home": {"type": "path", "required": True},
            "arguments": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    operation, given = module.params["operation"], module.params["arguments"]
    home = os.path.abspath(module.params["home"])
    if operation == "look":
        module.exit_json(changed=False, host=look(home, given["address"], given["run"], given.get("interpreter", "")))
    if module.params["secrets"]:
        given = {**given, "secrets": module.params["secrets"]}
    try:
        module.exit_json(**perform(operation, Path(home), given, check=module.check_mode))
    except HostError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
