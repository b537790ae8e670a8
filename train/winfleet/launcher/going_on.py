"""What is done before a generation's first rank so that the script goes on where it was, and what is said where it does not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from torch.distributed import PrefixStore

from winfleet.checkpoints.exchange import Exchange
from winfleet.core.plan import Host, Plan
from winfleet.core.status import RESUME, Cause, Rank, name_ranks
from winfleet.launcher.board import Board
from winfleet.launcher.rendezvous import PlanRendezvous, RunEndedError

ONE_DAY: Final = 86_400.0
PAUSE_SECONDS: Final = 0.02
LOOK_SECONDS: Final = 2.0  # how often the hosts compare where their ranks began
ANSWER_SECONDS: Final = 1.5  # for rank 0's host to say whether it has a file
MISSING: Final = re.compile(r"(?:No such file or directory|cannot find the (?:file|path) specified|찾을 수 없습니다)[^'\"\n]*['\"]([^'\"\n]+)['\"]")  # fmt: skip
LACKS, HAS = "lacks", "has"  # keys in the agents' store
LOG, OPTIMIZER = "log", "optimizer"  # what told where a rank began
EXCUSED = "excused"  # it wants to begin anew, or has read a checkpoint and may take what it likes of it


class GoingOn:
    """See the module. `look` is called again and again before the ranks and may raise, as where the run is asked to stop.

    `reached` is the step at which an earlier launch of this run ended.
    """

    def __init__(
        self, plan: Plan, host: Host, board: Board, exchange: Exchange | None, look: Callable[[PlanRendezvous], None]
    ) -> None:
        self.plan, self.host, self.board, self.exchange, self.look_early = plan, host, board, exchange, look
        self.reached = 0 if exchange is None else exchange.reached
        self.resume = ""
        self.elsewhere: tuple[str, str] | None = None  # what our rank lacks: as its exception has it, and below work/
        self._top = 0  # the highest step of the ranks of this generation
        self._told = ""  # where ours began, as it was told last
        self._said = False
        self._looked_at = 0.0
        self._answered: set[str] = set()

    def before(self, rendezvous: PlanRendezvous) -> None:
        """Makes the newest checkpoint whole on every host, and tells the ranks which one it is."""
        os.environ.pop(RESUME, None)
        self.reached, self._top = max(self.reached, self._top), 0
        self._told, self._said = "", False
        if self.exchange is None:
            return

        def wait(ready: Callable[[], bool]) -> None:
            def is_over() -> bool:
                self.look_early(rendezvous)
                return ready()

            rendezvous.wait_for_end(ONE_DAY, is_over, PAUSE_SECONDS)

        store = PrefixStore(f"checkpoints{rendezvous.generation}", rendezvous.store)
        self.resume = self.exchange.prepare(store, rendezvous.hosts, wait).resume
        if self.resume:
            os.environ[RESUME] = self.resume

    def look(self, rendezvous: PlanRendezvous) -> None:
        """Called at each look of the agent: where the ranks of all hosts began, and whether this host has what another lacks."""
        ranks, now = self.board.status.ranks, time.monotonic()
        self._top = max([self._top, *(rank.reached for rank in ranks)])
        if rendezvous.machine_rank == 0 and rendezvous.store.check([LACKS]):
            self._answer(rendezvous)
        if self.exchange is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        store = PrefixStore(f"begun{rendezvous.generation}", rendezvous.store)
        told = json.dumps({str(rank.rank): begun for rank in ranks if (begun := begun_by(rank))})
        if told != self._told:
            self._told = told
            store.set(str(rendezvous.machine_rank), told)
        if rendezvous.machine_rank == 0 and not self._said:
            texts = [store.get(str(rank)) for rank in rendezvous.hosts if store.check([str(rank)])]
            where: dict[int, dict[str, int]] = {
                int(rank): steps for text in texts for rank, steps in json.loads(text).items()
            }
            if text := self.judge(where):
                self._said = True
                self.board.say(text, event=True)

    def judge(self, begun: Mapping[int, Mapping[str, int]]) -> str:
        """What is wrong with where ranks began (rank -> what tells it -> step), and what to do; "" where nothing is, or nobody knows."""
        for source in (LOG, OPTIMIZER):
            steps = {rank: found[source] for rank, found in begun.items() if source in found}
            if len(set(steps.values())) > 1:
                places = [name_ranks([rank for rank, at in steps.items() if at == step]) + f" at step {step}" for step in sorted(set(steps.values()))]  # fmt: skip
                return (
                    f"Ranks begin at unequal steps: {', '.join(places)}; let every rank load the same checkpoint"
                    f"{f', {self.resume}' if self.resume else ''}: one that each PC has, as with LOCAL_RANK == 0 or "
                    "ProjectConfiguration(save_on_each_node=True), and that every rank loads, not rank 0 alone"
                )
            if len(steps) == self.plan.world_size or (source == LOG and steps):
                anew = not any(step for found in begun.values() for step in found.values())  # EXCUSED is one of them
                if anew and self.reached and self.plan.resume:
                    return self._say_anew(source)
                return ""
        return ""

    def _say_anew(self, source: str) -> str:
        how = "as it logs" if source == LOG else "as the state of its optimizer tells"
        what = (
            f"let it load {self.resume}, which the variable {RESUME} names"
            if self.resume
            else "it has left no checkpoint that could be found: let it save one every some steps, and load the newest"
        )
        return (
            f"The script begins at step 0, {how}, although this run had reached {self.reached}: {what} "
            "(fleet_resume: false says that it is meant so)"
        )

    # -- a file that rank 0's host alone has

    def ask(self, rendezvous: PlanRendezvous, text: str) -> None:
        """A rank of ours failed with this exception: where a file below work/ is missing, asks rank 0's host whether it has it."""
        name = missing_below(text, self.board.folder / "work")
        if self.exchange is None or rendezvous.machine_rank == 0 or not name:
            return
        path, below = name
        with contextlib.suppress(
            RunEndedError, RuntimeError
        ):  # which is found again, and our rank's own words come first
            rendezvous.store.set(LACKS, below)
            rendezvous.wait_for_end(ANSWER_SECONDS, lambda: rendezvous.store.check([HAS + below]))
            if rendezvous.store.check([HAS + below]) and rendezvous.store.get(HAS + below) == b"1":
                self.elsewhere = path, below

    def _answer(self, rendezvous: PlanRendezvous) -> None:
        name = str(rendezvous.store.get(LACKS), "utf-8")
        if name not in self._answered:
            self._answered.add(name)
            path = self.board.folder / "work" / name
            there = ".." not in path.parts and path.exists()
            rendezvous.store.set(HAS + name, str(int(there)))

    def explain(self, cause: Cause) -> Cause:
        """The cause, with the host that has the file that our rank lacks."""
        if self.elsewhere is None or self.elsewhere[0] not in cause.text:
            return cause
        first = self.plan.hosts[0].name
        return dataclasses.replace(
            cause, text=f"{cause.text}\n{first}, which has rank 0, has this file; {self.host.name} has not"
        )


def begun_by(rank: Rank) -> dict[str, int]:
    """Where a rank began, as its log and its optimizer tell, and whether that may be where it wants to begin."""
    found = {LOG: rank.begun, OPTIMIZER: rank.optimizer_begun, EXCUSED: 1 if rank.anew or rank.loaded else None}
    return {source: step for source, step in found.items() if step is not None}


def missing_below(text: str, work: Path) -> tuple[str, str] | None:
    """The file that an exception misses, as it has it and from work/ on (posix); None where it is none below work/."""
    found = MISSING.search(text)
    if found is None:
        return None
    path = os.path.normpath(work / found[1])
    if not path.startswith(f"{work}{os.sep}"):
        return None
    return found[1], Path(path).relative_to(work).as_posix()
