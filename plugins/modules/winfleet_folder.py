"""Looks for folders named by their content, unpacks one that came as an archive, and removes old ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.folders import SHORT, FolderError, unpack

DOCUMENTATION = """
module: winfleet_folder
short_description: Keeps folders that are named by their content
description: Used by the action winfleet_sync, which sends what is missing.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  wanted: {description: Kind of folder (code, data or agent) to its digest., type: dict, required: true}
  kind: {description: The kind of folder in the archive., type: str}
  archive: {description: A tar file on this host to unpack; without it nothing is changed., type: path}
  keep: {description: How many folders of each kind stay when one was added., type: int, default: 3}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_folder: {home: ~/.winfleet, wanted: {code: 0123456789ab}}
"""
RETURN = """
missing: {description: Kinds that are not there., type: list, elements: str, returned: always}
free_bytes: {description: Free space below home., type: int, returned: always}
"""


def prune(parent: Path, keep: int, current: str) -> None:
    """Removes all but the newest `keep` folders, never the current one."""
    folders = sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    old = [path for path in folders if path.name != current]
    for path in old[: max(0, len(old) - (keep - 1))]:
        shutil.rmtree(path)


def free_bytes(home: Path) -> int:
    """Free space on the disk of the nearest folder that exists."""
    while not home.is_dir():
        home = home.parent
    return shutil.disk_usage(home).free


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "wanted": {"type": "dict", "required": True},
            "kind": {"type": "str"},
            "archive": {"type": "path"},
            "keep": {"type": "int", "default": 3},
        },
        required_together=[("kind", "archive")],
        supports_check_mode=True,
    )
    home = Path(module.params["home"])
    targets = {kind: home / kind / digest[:SHORT] for kind, digest in module.params["wanted"].items()}
    changed = False
    if module.params["archive"] and not module.check_mode:
        kind = module.params["kind"]
        try:
            unpack(Path(module.params["archive"]), targets[kind], module.params["wanted"][kind])
        except (FolderError, OSError) as error:
            module.fail_json(msg=f"{kind} did not arrive: {error}\nhint: run again; what arrived whole stays")
        changed = True
        prune(targets[kind].parent, module.params["keep"], targets[kind].name)
    for path in targets.values():
        if path.is_dir() and not module.check_mode:
            os.utime(path)  # the newest in use stay when old ones are removed
    missing = [kind for kind, path in targets.items() if not path.is_dir()]
    module.exit_json(changed=changed, home=str(home), missing=missing, free_bytes=free_bytes(home))


if __name__ == "__main__":
    main()
