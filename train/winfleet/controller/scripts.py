"""PowerShell scripts of the roles. One that Ansible sends has no module beside it, so what they share is put into each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

REQUIRES: Final = re.compile(
    r"^#AnsibleRequires -PowerShell (Ansible\.ModuleUtils\.\w+)\b", re.MULTILINE
)  # Ansible's word in modules


def whole(script: Path, modules: Path) -> str:
    """The script's text, with those of the modules (.psm1) that it requires. Raises OSError."""
    return REQUIRES.sub(lambda found: read(modules / f"{found[1]}.psm1"), read(script))


def read(path: Path) -> str:
    """The text, with its line ends."""
    return path.read_bytes().decode("utf-8-sig")
