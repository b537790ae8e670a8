"""Follows a run by its launchers' status ports and shows its progress as whole lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.plan import Host, Plan
from winfleet.core.status import ENDED, Status, StatusError, count, fetch, first_failure, overall_state, progress_line
from winfleet.view.verdict import Blame

LOOK_SECONDS = 0.5


class ActionModule(Action):
    """winfleet_follow: returns {"state", "text"} of the whole run; a failed run is no failed task, its report comes first."""

    _supports_check_mode = False

    def act(self) -> dict[str, Any]:
        """Follows it to its end."""
        plan = Plan.load(self.path("plan"))
        self.say(explain(plan, str(self.given["inventory"])))
        follower = Follower(plan, float(self.given["silent_seconds"]), self.say)
        statuses = follower.follow(float(self.given["interval_seconds"]))
        cause = first_failure(statuses)
        state = overall_state(statuses) if len(statuses) == len(plan.hosts) else "lost"
        return {"state": state, "host": cause.host if cause else ""}


def explain(plan: Plan, inventory: str) -> str:
    """What Ctrl-C does, and the other commands."""
    return (
        f"Run {plan.run}: {count(plan.world_size, 'process')} on {', '.join(host.name for host in plan.hosts)}\n"
        f"  Ctrl-C leaves it going. Follow again: ansible-playbook deploy_and_train.yml -i {inventory} -e fleet_run={plan.run}\n"
        f"  Look: ansible-playbook status.yml -i {inventory}   Stop: ansible-playbook stop.yml -i {inventory}"
    )


class Follower:
    """What is known of a run's hosts so far; `say` shows the user a line."""

    def __init__(self, plan: Plan, silent: float, say: Callable[[str], None]) -> None:
        self.plan, self.silent, self.say = plan, silent, say
        self.known: dict[str, Status] = {}
        self._heard = {host.name: time.monotonic() for host in plan.hosts}
        self._troubles: dict[str, str] = {}
        self._said: set[str] = set()

    def look(self) -> None:
        """Asks every launcher that has not ended, and shows new events."""
        for host in self.waiting():
            try:
                status = fetch(host.address)
                if status.run != self.plan.run:
                    self._troubles[host.name] = f"{host.address} serves run {status.run}"
                    continue
                self.known[host.name], self._heard[host.name] = status, time.monotonic()
            except (OSError, StatusError) as error:
                self._troubles[host.name] = str(error)
        for text in (event.text for status in self.known.values() for event in status.events):
            if text not in self._said and not text.startswith("Run "):
                self._said.add(text)
                self.say(f"  {text}")

    def waiting(self) -> list[Host]:
        """Hosts whose launcher has not said its last word."""
        known = self.known
        return [host for host in self.plan.hosts if host.name not in known or known[host.name].state not in ENDED]

    def lost(self) -> list[str]:
        """Why hosts are given up."""
        now = time.monotonic()
        return [
            f"{host.name}: no word from its launcher for {self.silent:.0f} s ({self._troubles.get(host.name, '')})"
            for host in self.waiting()
            if now - self._heard[host.name] > self.silent
        ]

    def follow(self, interval: float) -> Sequence[Status]:
        """Shows a line every `interval` seconds until every launcher has ended, or was not heard of for `silent` seconds.

        Below it stands whom the others wait for, where that is somebody else than before.
        """
        blame, shown = Blame(), 0.0
        while True:
            self.look()
            lost = self.lost()
            statuses = list(self.known.values())
            if len(lost) == len(self.waiting()):
                for text in lost:
                    self.say(f"  {text}")
                return statuses
            if statuses and time.monotonic() - shown >= interval:
                shown = time.monotonic()
                self.say(f"  {progress_line(statuses)}")
                if named := blame.name(statuses):
                    self.say(f"  {named}")
            time.sleep(LOOK_SECONDS)
