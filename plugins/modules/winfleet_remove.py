"""Takes everything of winfleet away from this host."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runs import going_on

DOCUMENTATION = """
module: winfleet_remove
short_description: Takes everything of winfleet away from a host
description: Removes winfleet's own folders below home, then home itself if nothing else is in it.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_remove: {home: ~/.winfleet}
"""
RETURN = """
removed: {description: Folders that were removed., type: list, elements: str, returned: always}
"""

OURS = ("agent", "code", "data", "env", "runs")


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(argument_spec={"home": {"type": "path", "required": True}}, supports_check_mode=True)
    home = Path(module.params["home"])
    if runs := going_on(home):
        module.fail_json(msg=f"run {runs[0].name} is going on\nhint: stop it first: ansible-playbook stop.yml")
    found = [home / name for name in OURS if (home / name).is_dir()]
    if not module.check_mode:
        for folder in found:
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # something of the user's is in it, or it is not there
            home.rmdir()
    module.exit_json(changed=bool(found), removed=[str(folder) for folder in found])


if __name__ == "__main__":
    main()
