"""Which steps of several optimizers are steps of the script: taking turns they make one, one after the other they add up."""

from __future__ import annotations

import weakref
from typing import Final

import torch

MOST_TURNS: Final = (
    8  # steps of an optimizer without the leading one, after which it leads; more where they took more turns
)


class Turns:
    """The steps of one optimizer, the leading one, are the script's, until another one goes on without it.

    An optimizer made after the leading one's last step cannot have taken turns with it, so it leads at once: the next
    stage, the next fold. One made before leads from its second step on, where the leading one had a run of its own; what it
    did until then is added. Once the leading one comes back, they take turns.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._leader: weakref.ref[torch.optim.Optimizer] | None = None
        self._former: weakref.ref[torch.optim.Optimizer] | None = None  # that led before
        self._partners: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # that took turns with it
        self._since: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._before: set[int] = set()  # ids of those that stepped between its last two steps
        self._events = self._led_at = 0  # steps of all optimizers so far, and so many at the leading one's last
        self._run = 0  # steps of the leading one since it leads
        self._most = 1  # turns that a partner took between two steps of the leading one

    def made(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer was made."""
        self._made[optimizer] = self._events

    def stepped(self, optimizer: torch.optim.Optimizer) -> int:
        """An optimizer has stepped; by how many the script's steps grow."""
        self._events += 1
        leader = self._leader() if self._leader is not None else None
        if optimizer is leader:
            self._before = set(map(id, self._since))
            self._partners.update(self._since)
            self._most = max([self._most, *self._since.values()])
            self._run += 1
            return self._lead(optimizer)
        steps = self._since[optimizer] = self._since.get(optimizer, 0) + 1
        if leader is not None and self._returns(optimizer):
            self._partners.add(leader)
            self._most, self._run = max(self._most, self._run), self._run + 1
            return self._lead(optimizer)
        if leader is None or self._made.get(optimizer, 0) >= self._led_at > 0 or self._goes_on(optimizer, steps):
            self._former = self._leader
            self._partners.clear()
            self._before, self._run = set(), steps
            self._lead(optimizer)
            return steps
        return 0

    def _lead(self, optimizer: torch.optim.Optimizer) -> int:
        self._leader, self._led_at = weakref.ref(optimizer), self._events
        self._since.clear()
        return 1

    def _goes_on(self, optimizer: torch.optim.Optimizer, steps: int) -> bool:
        """Whether it makes so many steps without the leading one that it is another stage."""
        if optimizer not in self._partners and self._run > 1:
            return steps > 1
        return steps > max(MOST_TURNS, 2 * self._most)

    def _returns(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it led before, and comes back so soon that the one that leads now only took its turns."""
        return self._former is not None and self._former() is optimizer and self._run <= MOST_TURNS

    @property
    def complete(self) -> bool:
        """Whether all that took their turn the last time have taken it again, so that an iteration begins."""
        return self._before <= set(map(id, self._since))

    @property
    def active(self) -> list[torch.optim.Optimizer]:
        """The leading one and those that take turns with it."""
        leader = self._leader() if self._leader is not None else None
        return [*([leader] if leader is not None else []), *self._partners]
