"""Packs what a run left on this host: logs, metrics and status always, outputs where they are small enough."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runs import read_status, state_of

DOCUMENTATION = """
module: winfleet_collect
short_description: Packs what a run left on a host
description: Used by the action winfleet_collect, which brings the archive home. Of checkpoints the newest one is taken.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  run: {description: Name of the run., type: str, required: true}
  code: {description: Digest of the code; its files are no outputs., type: str, default: ""}
  all_outputs: {description: "Whether models and checkpoints are wanted from this host, or W&B files alone.", type: bool}
  limit_mb: {description: Outputs above this size stay here., type: int, default: 200}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_collect: {home: ~/.winfleet, run: r1}
"""
RETURN = """
archive: {description: The archive's path., type: str, returned: always}
outputs_mb: {description: Size of the outputs., type: float, returned: always}
left: {description: "Folder of the outputs where they were too large, else empty.", type: str, returned: always}
"""


def files_below(folder: Path) -> Iterator[Path]:
    """Plain files, not through links."""
    for parent, folders, names in os.walk(folder):  # nothing where the folder is missing
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def outputs(work: Path, code: Path) -> list[Path]:
    """What the command wrote into its working folder: files that the code does not have, the newest checkpoint alone."""
    found = [path for path in files_below(work) if not (code / path.relative_to(work)).exists()]
    saved = {path for path in work.rglob("checkpoints/*") if path.is_dir()}
    newest = max(saved, key=lambda path: path.stat().st_mtime, default=None)
    return [path for path in found if not any(old in path.parents for old in saved if old != newest)]


def add_status(tar: tarfile.TarFile, folder: Path) -> None:
    """Adds status.json, which says "lost" where it still says "running" and its launcher is gone."""
    if status := read_status(folder):
        text = json.dumps({**status, "state": state_of(folder)}).encode()
        member = tarfile.TarInfo("status.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "run": {"type": "str", "required": True},
            "code": {"type": "str", "default": ""},
            "all_outputs": {"type": "bool", "default": False},
            "limit_mb": {"type": "int", "default": 200},
        },
        supports_check_mode=True,
    )
    home = Path(module.params["home"])
    folder = home / "runs" / module.params["run"]
    work = folder / "work"
    kept = outputs(work, home / "code" / (module.params["code"] or "none")[:12])
    if not module.params["all_outputs"]:
        kept = [path for path in kept if "wandb" in path.relative_to(work).parts]
    size = sum(path.stat().st_size for path in kept) / 1e6
    logs = [*folder.glob("*.log"), *folder.glob("*.jsonl")]
    handle, archive = tempfile.mkstemp(prefix="winfleet-", suffix=".tar.gz")
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for path in logs:
            tar.add(path, arcname=path.name)
        add_status(tar, folder)
        for path in kept if size <= module.params["limit_mb"] else []:
            tar.add(path, arcname=str(Path("work") / path.relative_to(work)))
    left = str(work) if size > module.params["limit_mb"] else ""
    module.exit_json(changed=False, archive=archive, outputs_mb=round(size, 1), left=left)


if __name__ == "__main__":
    main()
