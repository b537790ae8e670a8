"""A host's part in going on after a rank ran out of GPU memory: all hosts' launchers agree on one smaller batch.

The agents' store holds the newest change under one key; who finds a note of its own rank makes the next one, and the first
stands. Each host then starts its ranks with the command changed in the same way. See winfleet.rank.oom.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from winfleet.core.files import write_atomic
from winfleet.core.plan import Host
from winfleet.core.status import count
from winfleet.launcher.board import Board
from winfleet.launcher.proposals import proposal, proposal_name, write_proposal
from winfleet.launcher.rendezvous import PlanRendezvous
from winfleet.rank.batch_settings import change, files_of, find_both
from winfleet.rank.oom import Change, KeptError, Note, decide, read_change, read_note

KEY: Final = "oom"  # in the agents' store
LAST_WORDS_SECONDS: Final = 3.0  # for a rank to end by itself, once it has left its note


class Halving:
    """See the module. `command` is the runner's as the user gave it, with this host's paths."""

    def __init__(self, command: Sequence[str], host: Host, folder: Path, board: Board) -> None:
        self.command, self.host, self.folder, self.board = list(command), host, folder, board
        self.change: Change | None = None  # that of this generation
        self.note: Note | None = None  # of a rank of ours in this generation
        self.kept = ""  # why the batch was not made smaller
        self._text = ""  # the change as the store had it when this generation began
        self._noted_at = 0.0
        self._asked: int | None = None  # step at which memory ran out, until it is known where the ranks went on
        self._repeated = 0

    def publish(self, rendezvous: PlanRendezvous) -> None:
        """On the first host, before its ranks: what an earlier launch of this run changed stays so, unless its user did."""
        path = self.folder / "oom.json"
        earlier = read_change(path.read_bytes()) if path.exists() else None
        if earlier is None:
            return
        settings = earlier.batch, earlier.accumulation
        if find_both(self.command, {setting.name: setting.value for setting in settings}) == settings:
            rendezvous.store.set(KEY, dataclasses.replace(earlier, generation=0).to_json())

    def begin(self, rendezvous: PlanRendezvous) -> list[str]:
        """The command for the ranks of the generation that begins. Raises OSError and SettingsError where it cannot be had."""
        self.note, before, self._text = None, self._text, agreed(rendezvous)
        self.change = read_change(self._text)
        if self.change is None:
            (self.folder / "oom.json").unlink(missing_ok=True)  # of an earlier launch with other settings
            return self.command
        if self._text != before:
            self._tell(self.change)
        os.environ["WINFLEET_BATCH"] = json.dumps({setting.name: value for setting, value in self.change.values})
        return change(self.command, self.change.values, self.folder / "oom")

    def _tell(self, made: Change) -> None:
        self._asked = made.step if made.generation else None
        self.board.say(made.event, event=True, kind="oom" if made.generation else "")
        write_atomic(self.folder / "oom.json", made.to_json())
        if self.board.console:  # there is no controller to bring the values to the user's settings
            settings = files_of(self.command).get(made.batch.word) if made.batch.keys else None
            folders = [settings.parent, self.folder] if settings else [self.folder]
            named = settings.name if settings else "the command"
            path = write_proposal(proposal(made, self.board.plan.run, named), proposal_name(settings), folders)
            self.board.say(f"Proposed values: {path or 'could not be written'}", event=True)

    def found(self, generation: int) -> bool:
        """Whether a rank of ours has run out of memory in this generation."""
        if self.note is None:
            ranks = range(self.host.first_rank, self.host.first_rank + self.host.processes)
            notes = [note for rank in ranks if (note := read_note(self.folder, rank, generation)) is not None]
            self.note, self._noted_at = next(iter(notes), None), time.monotonic()
        return self.note is not None

    def overdue(self) -> bool:
        """Whether that rank had time enough to end by itself."""
        return time.monotonic() - self._noted_at > LAST_WORDS_SECONDS

    def settle(self, rendezvous: PlanRendezvous) -> bool:
        """Agrees with the other hosts on a smaller batch; False where there is none, and `kept` says why."""
        assert self.note is not None
        if self.elsewhere(rendezvous):
            return True
        if rendezvous.store.check(["stop"]):
            self.kept = "the run was asked to stop"
            return False
        try:
            made = decide(self.command, self.note, self.host.name, self.change)
        except KeptError as error:
            self.kept = str(error)
            return False
        rendezvous.store.compare_set(KEY, self._text, made.to_json())
        return True

    def elsewhere(self, rendezvous: PlanRendezvous) -> bool:
        """Whether the hosts have agreed on a change since this generation began."""
        return agreed(rendezvous) != self._text

    def look(self) -> None:
        """Called at each look of the agent: says where the ranks went on, once they tell."""
        begun = [rank.begun for rank in self.board.status.ranks if rank.begun is not None]
        if self._asked is None or not begun:
            return
        repeated, self._asked = max(0, self._asked - min(begun)), None
        self._repeated += repeated
        total = f", {self._repeated} in all" if self._repeated != repeated else ""
        self.board.say(f"Goes on after step {min(begun)}: {count(repeated, 'step')} repeated{total}", event=True)


def agreed(rendezvous: PlanRendezvous) -> str:
    """The newest change of all hosts as text, "" where there is none."""
    return str(rendezvous.store.get(KEY), "utf-8") if rendezvous.store.check([KEY]) else ""
