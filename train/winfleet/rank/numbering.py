"""How the script numbers its steps: as it says when it logs, if that goes on as its optimizer does."""

from __future__ import annotations

from typing import NamedTuple


class At(NamedTuple):
    """A number that the script said, and how many optimizer steps of this process were done then."""

    steps: int
    step: int


class Numbering:
    """Optimizer steps of this process as the script's own.

    The first number is taken where it is not below the steps that were done: a script that goes on from a checkpoint says
    more, one that logs epochs less. From the second on a number counts only if it has gone on since the one before as the
    steps have, or by the same whole multiple of them twice: so numbers of micro-batches count, and epochs do not.
    """

    def __init__(self) -> None:
        self.base, self.stride = At(0, 0), 1
        self.told = False  # whether the base is the script's
        self._sure = False  # whether a second number agreed with it
        self._last: At | None = None
        self._multiple = 0  # of the steps by which the last two numbers differed

    def tell(self, count: int, step: int) -> None:
        """The script logged that step, with so many optimizer steps done."""
        now, last = At(count, step), self._last
        if last is not None and count <= last.steps:
            return  # within a step, or something else of the same one
        self._last = now
        if last is not None:
            self._compare(now, last)
        elif step >= count:
            self._take(now, 1)

    def _compare(self, now: At, last: At) -> None:
        multiple, rest = divmod(now.step - last.step, now.steps - last.steps)
        before, self._multiple = self._multiple, multiple if not rest else 0
        if not rest and multiple >= 1 and multiple in (1, before) and now.step >= self.shown(now.steps):
            self._take(now, multiple)
            self._sure = True
        elif self.told and not self._sure and (rest or multiple < 1):
            self.base, self.told = At(0, 0), False  # the first one was something else

    def _take(self, now: At, stride: int) -> None:
        self.base, self.stride, self.told = now, stride, True

    def goes_on(self, count: int, step: int) -> None:
        """A library says its step: the script's, without doubt."""
        self._take(At(count, step), 1)
        self._sure = True

    def shown(self, count: int) -> int:
        """The script's number of the step with which so many are done."""
        return self.base.step + self.stride * (count - self.base.steps)
