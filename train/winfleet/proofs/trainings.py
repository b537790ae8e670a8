"""Proofs by whole trainings: one that is stopped and continued, one whose rank is killed, one whose launcher is.

They know a cluster by `Cluster` alone: the controller's playbooks are one, the launcher of a PC by itself another.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from winfleet.core.errors import HostError
from winfleet.core.status import Status, count
from winfleet.proofs.on_host import GONE_SECONDS, RUNS
from winfleet.proofs.outcome import Outcome, failed, holds, not_applicable

LOOK_SECONDS: Final = 0.5
BEGIN_SECONDS: Final = 600.0  # until the first steps are done, deployment and rehearsal before them
END_SECONDS: Final = 120.0  # for all hosts to end after a rank or a launcher was killed, and to tell it
WHOLE_SECONDS: Final = 900.0  # for a training to go on, or to stop, to its end
MANY: Final = 100_000  # steps of a training that is not to end by itself
RATE_SECONDS: Final = 10.0  # over which a rank tells its rate
MEASURED_SECONDS: Final = 30.0  # that a training goes on whose speed is measured
STEPS: Final = 5  # after which a run has begun
WITHIN: Final = 10.0  # percent, between predicted and measured
SCRIPT: Final = "증명 학습.py"  # a name with a blank and no ASCII
OUTPUT: Final = "증명 결과"
# Too large for most GPUs.
LARGE: Final = {"batch_size": 4096, "context": 1024, "steps": 20, "eval_every": 0, "checkpoint_every": 0}
TRAININGS: Final = ("trains", "korean-names", "stop-and-continue", "prediction", "rank-killed", "launcher-killed")


def lay_out(trainer: Path, project: Path) -> None:
    """Makes the proofs' own project of the folder of the default trainer. Raises OSError."""
    project.mkdir(parents=True, exist_ok=True)
    for name, new in (("train.py", SCRIPT), ("train_config.py", "train_config.py")):
        shutil.copy(trainer / name, project / new)


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    text: str

    @property
    def last_error(self) -> str:
        """The line that says what went wrong, else the last one."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return next((line for line in lines if line.startswith("error: ")), (lines or ["it said nothing"])[-1])


@dataclass(frozen=True, kw_only=True)
class Home:
    """What came home of a run."""

    state: str = ""
    losses: tuple[float, float] | None = None  # the first and the last
    backend: str = ""
    predicted: float | None = None  # speed,
    measured: float | None = None
    unit: str = ""  # of both
    files: Sequence[str] = ()  # outputs
    begun: Sequence[int] = ()  # after which step each rank went on


class Cluster(Protocol):
    """Where trainings are proved, one at a time, of the proofs' own script."""

    hosts: Sequence[str]

    def begin(self, run: str, steps: int) -> None:
        """Starts a run of so many steps, or continues it; it goes on beside."""

    def ended(self) -> bool:
        """Whether what begin() started has come to its end."""

    def finish(self) -> Said:
        """Waits for that end."""

    def stop(self, run: str) -> Said:
        """Stops a run by a checkpoint."""

    def look(self, run: str) -> Sequence[Status]:
        """The status of each of its hosts that answers."""

    def end(self, host: str, run: str, what: str) -> Sequence[int]:
        """Kills a host's launcher, or its last rank; its ranks that live on. Raises OSError, HostError."""

    def home(self, run: str) -> Home:
        """What came home."""


class ProofError(Exception):
    """A training went another way than it was to; the text says what was seen."""


@dataclass
class Trainings:
    """All of them, one after the other; `found` has what is known so far."""

    cluster: Cluster
    stamp: str  # a name of ours for this proof: its runs are proof-STAMP-a, …
    say: Callable[[str], None]
    wanted: Sequence[str] = TRAININGS
    found: dict[str, Outcome] = field(default_factory=dict)

    def prove(self) -> dict[str, Outcome]:
        """What came of each."""
        for names, proof in (
            (TRAININGS[:4], self.whole),
            (("rank-killed",), lambda: self.killed("rank")),
            (("launcher-killed",), lambda: self.killed("launcher")),
        ):
            if not set(names) & set(self.wanted):
                continue
            try:
                proof()
            except (ProofError, HostError, OSError) as broken:
                for name in names:
                    self.found.setdefault(name, failed(str(broken)))
        return {name: one for name, one in self.found.items() if name in self.wanted}

    def whole(self) -> None:
        """A training that is stopped in its middle, continued, and comes home."""
        run = f"{RUNS}{self.stamp}-whole"
        self.say("A training begins, stops by a checkpoint, and goes on to its end")
        self.begin(run, MANY)
        rest = STEPS
        if "prediction" in self.wanted:  # a speed takes its time
            time.sleep(RATE_SECONDS)
            ranks = [rank for status in self.cluster.look(run) for rank in status.ranks]
            rest = max(
                rest, round(MEASURED_SECONDS * min((rank.steps_per_second or 1.0 for rank in ranks), default=1.0))
            )
        said = self.cluster.stop(run)
        self.finish(run, WHOLE_SECONDS)
        stopped = re.search(r"stopped after step (\d+)", said.text)
        if not stopped:
            raise ProofError(f"stopping it said: {said.last_error}")
        step = int(stopped[1])
        self.cluster.begin(run, step + rest)
        said = self.finish(run, WHOLE_SECONDS)
        if said.code:
            raise ProofError(said.last_error)
        home = self.cluster.home(run)
        begun = sorted(set(home.begun))
        self.found["stop-and-continue"] = holds(
            begun == [step], f"stopped after step {step}, went on after step {', '.join(map(str, begun)) or 'unknown'}"
        )
        fell = home.losses is not None and home.losses[1] < home.losses[0]
        losses = "no loss came home" if home.losses is None else f"loss {home.losses[0]:.3f} to {home.losses[1]:.3f}"
        self.found["trains"] = holds(
            fell and home.state == "finished",
            f"{home.state}, {count(len(home.begun), 'rank')}, {home.backend}, {losses}",
        )
        korean = [name for name in home.files if re.search("[가-힣]", name)]
        self.found["korean-names"] = holds(
            bool(korean), f"{len(korean)} of {len(home.files)} files that came home: {korean[:1]}"
        )
        self.found["prediction"] = compare(home)

    def begin(self, run: str, steps: int) -> None:
        """Starts a run and waits until all its ranks have done some steps. Raises ProofError."""
        self.cluster.begin(run, steps)
        deadline = time.monotonic() + BEGIN_SECONDS
        while time.monotonic() < deadline:
            statuses = self.cluster.look(run)
            ranks = [rank for status in statuses for rank in status.ranks]
            if len(statuses) == len(self.cluster.hosts) and ranks and all(rank.step >= STEPS for rank in ranks):
                return
            if self.cluster.ended():
                raise ProofError(self.cluster.finish().last_error)
            time.sleep(LOOK_SECONDS)
        self.cluster.stop(run)
        raise ProofError(f"its ranks did not do {STEPS} steps within {BEGIN_SECONDS:.0f} s")

    def finish(self, run: str, seconds: float) -> Said:
        """Waits for the run's end. Raises ProofError where it does not come, and stops the run then."""
        deadline = time.monotonic() + seconds
        while not self.cluster.ended():
            if time.monotonic() > deadline:
                self.cluster.stop(run)
                raise ProofError(f"it went on for {seconds:.0f} s and had to be stopped")
            time.sleep(LOOK_SECONDS)
        return self.cluster.finish()

    def killed(self, what: str) -> None:
        """A training whose last host loses a rank or its launcher: all end, and it is named."""
        run, host = f"{RUNS}{self.stamp}-{what}", self.cluster.hosts[-1]
        self.say(f"A training loses a {what}")
        self.begin(run, MANY)
        began = time.monotonic()
        left = self.cluster.end(host, run, what)
        said = self.finish(run, END_SECONDS)
        seconds = time.monotonic() - began
        if left:
            raise ProofError(f"{count(len(left), 'rank')} lived on {GONE_SECONDS:.0f} s after the {what} was killed")
        named = bool(said.code) and host in said.text
        self.found[f"{what}-killed"] = holds(named, f"{said.last_error} (after {seconds:.0f} s)")


def compare(home: Home) -> Outcome:
    """Predicted against measured speed."""
    if home.predicted is None or home.measured is None:
        return not_applicable("no speed was predicted, or none measured")
    difference = 100 * (home.measured / home.predicted - 1)
    return holds(
        abs(difference) <= WITHIN,
        f"{home.predicted:.1f} {home.unit} predicted, {home.measured:.1f} measured ({difference:+.0f} %)",
    )


def judge_large(said: Said) -> Outcome:
    """Whether a batch of LARGE, which does not fit, was halved until it did."""
    text = next((line.strip() for line in said.text.splitlines() if "OOM on rank" in line), "")
    if said.code == 0 and not text:
        return not_applicable(f"a batch of {LARGE['batch_size']} fits")
    return holds(said.code == 0, text if said.code == 0 else said.last_error)
