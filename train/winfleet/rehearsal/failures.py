"""Why a trial ended: its exception in its own words, and whether every rank of the run would meet it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from winfleet.core.files import read_object
from winfleet.core.reading import plain

MAX_TEXT: Final = 500
IMPORTS: Final = ("ModuleNotFoundError", "ImportError")
NO_FILE: Final = re.compile(r"FileNotFoundError: .*?(?P<quote>['\"])(?P<path>.+)(?P=quote)$")


def trial_exception(error_file: Path) -> str:
    """`ModuleNotFoundError: No module named 'einops'`, as torch's @record wrote it; "" where it wrote none."""
    message = read_object(error_file).get("message")
    text = message.get("message") if isinstance(message, dict) else message
    return plain(text, MAX_TEXT).strip() if isinstance(text, str) else ""


def lacks_something(exception: str, work: Path) -> bool:
    """Whether it names a package that is not installed, or a path that neither code nor data has; `work` has both."""
    if exception.startswith(IMPORTS):
        return True
    found = NO_FILE.match(exception)
    if found is None:
        return False
    path = work / found["path"].replace("\\\\", "\\")  # an absolute path stays itself
    return path.is_relative_to(work) and not path.exists()
