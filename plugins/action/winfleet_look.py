"""Looks at a host for the preflight, within a time limit, and compares its clock with this machine's."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.causes import UNREAD, describe_interpreter
from winfleet.preflight.found import read
from winfleet.preflight.judge import say_late

# Which interpreters of a host run at all, and are new enough for Ansible.
OTHERS = (
    "for python in /usr/bin/python3 /usr/bin/python3.* /usr/local/bin/python3*; do "
    '"$python" -c \'import sys; sys.exit(sys.version_info < (3, 8))\' 2>/dev/null && echo "$python"; done'
)


class LateError(BaseException):
    """The time is over. No connection plugin takes it for an error of its own."""


class ActionModule(Action):
    """winfleet_look: home, address, run, interpreter, seconds; {"host": what it told}, or {"silent": why it told nothing}.

    `host` gets "skew_seconds", its clock less this machine's in the middle between question and answer, and
    "skew_error_seconds", half the time between them.
    """

    def act(self) -> dict[str, Any]:
        """Looks."""
        arguments = {name: str(self.given[name]) for name in ("address", "run", "interpreter")}
        seconds, asked = float(self.given["seconds"]), time.time()
        try:
            with at_most(seconds):
                told = self.ask("look", arguments)
        except LateError:
            return {"silent": say_late(seconds)}
        answered = time.time()
        host = told.get("host")
        if not isinstance(host, dict):
            return {"silent": self._why(told)}
        half = (answered - asked) / 2
        clock = read(host).clock
        host["skew_seconds"] = None if clock is None else clock - (asked + half)
        host["skew_error_seconds"] = half
        return {"host": host}

    def _why(self, told: Any) -> str:
        """Why the module told nothing: on Linux it may be the Python, and another one of the host may do."""
        text, python = str(told.get("msg", "it told nothing")), (self._used_interpreter or "").lstrip("#!")
        if self._connection._shell.SHELL_FAMILY == "powershell" or not UNREAD.search(text):
            return text
        runs = self._low_level_execute_command(OTHERS, sudoable=False)["stdout"].split()
        return describe_interpreter(self.name, told, python, runs)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises LateError in the block after so many seconds. Ansible runs each task in a process of its own."""

    def ring(_sign: int, _frame: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
