"""Where the lab of the tests is: beside any other one, under names of its own. tests/run.py knows it too, which is no test."""

import os
import shutil
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent / "molecule" / "lab" / "lab"
CACHE = Path(os.environ.get("WINFLEET_CACHE") or "/var/cache/winfleet")
FOLDER = CACHE / "tests"
PREFIX, NET = "test", "10.77.253"
SETTINGS = {
    **{name: value for name, value in os.environ.items() if not name.startswith("LAB_")},
    "LAB_PYTHON": sys.executable, "LAB_PREFIX": PREFIX, "LAB_NET": NET, "LAB_BRIDGE": "winlabtst", "LAB_DIR": str(FOLDER),
}  # fmt: skip


def why_no_lab() -> str:
    """Why there can be no lab here, in one sentence; nothing where there can."""
    if os.environ.get("WINFLEET_LAB_TESTS") == "0":
        return "WINFLEET_LAB_TESTS=0 leaves the tests in the Windows lab out"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "the Windows lab needs root and apt (Debian)"
    return ""
