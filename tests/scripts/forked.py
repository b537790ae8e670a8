"""Forks processes that need not import the modules it is given anew. A line of standard input asks, in JSON, and is answered with one.

{"folder", "environment", "output", "words"} starts `python words…` there and is answered with its id; from then on it is a process like
any other, with what it prints in OUTPUT.out and OUTPUT.err. {"wait": id} is answered with its exit status, null while it runs.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(folder: str, environment: dict[str, str], output: str, words: list[str]) -> None:
    """Runs the script or `-m module` in this process, which ends when its parent does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    opened = [os.open(os.devnull, os.O_RDONLY)]
    opened += [os.open(f"{output}.{end}", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for end in ("out", "err")]
    for number, file in enumerate(opened):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


for module in sys.argv[1:]:
    importlib.import_module(module)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        ended, status = os.waitpid(asked["wait"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if ended else "null", flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        become(**asked)
        break
