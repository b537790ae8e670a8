"""python -m winfleet.machine.windowless WORDS: a Python with these words whose console has no window; ends as it does.

For a task of who is signed in, where Windows would show a console, and who closes it ends all that it holds. Run by pythonw.exe,
which has no console: without this one between, every rank would be given one of its own, with a window. Windows alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from winfleet.machine.windows import end_children_with_me

CREATE_NO_WINDOW: Final = 0x08000000  # winbase.h


def main(words: Sequence[str]) -> int:
    """Its exit status, as a signed number, which is how Python takes one."""
    end_children_with_me()  # whoever ends the task ends this process
    python = Path(sys.executable).with_name("python.exe")
    code = subprocess.call([str(python), *words], creationflags=CREATE_NO_WINDOW)
    return code - (code >> 31 << 32)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
