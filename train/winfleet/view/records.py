"""Reads a run's folder, as it came home, for the report.

Its files come from other machines: any may be missing, cut off or hold wrong types. What cannot be used is left out, and
what is kept is bounded in size; plan.json alone must be there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from winfleet.core.plan import Host, Plan
from winfleet.core.status import (
    MAX_BYTES,
    READER,
    Cause,
    Rank,
    Status,
    first_failure,
    overall_state,
    read_file,
    trained_apart,
)
from winfleet.rehearsal.allreduce import PredictionError
from winfleet.rehearsal.prediction import Prediction
from winfleet.view.brought import Left, find_left, results_of

MAX_RANKS: Final = 4_096
MAX_EVENTS: Final = 200  # the newest
MAX_NAMES: Final = 40  # different values that a script logs
MAX_POINTS: Final = 2_000  # samples of a rank that are kept
MAX_FILE: Final = 16 * 2**20  # bytes; of a .jsonl file n times as large every n-th line is read
MAX_LINE: Final = 64 * 2**10  # bytes
MAX_NUMBER: Final = 1e15  # larger ones are left out
GAP_SECONDS: Final = 15.0  # usage comes once a second; a longer silence breaks the line
SAME_SECONDS: Final = 5.0  # one event on two hosts, whose clocks differ a little
MIB_PER_GIB: Final = 1_024


class ReportError(ValueError):
    """A folder of which no report can be made; the text ends in a hint."""


class Said(NamedTuple):
    """What launchers noted."""

    time: float  # unix seconds
    hosts: list[str]
    text: str
    kind: str  # restart, oom, stuck, or "" for what no plot marks


class Sample(NamedTuple):
    """One point in the course of a rank; the line breaks where the segment (launch, generation) changes."""

    segment: tuple[int, int]
    x: float  # step, or unix seconds for usage
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """The course of one rank, thinned; mean and peak are those of all samples read, by column."""

    host: str
    rank: int
    samples: Sequence[Sample]  # never empty
    mean: tuple[float | None, ...]
    peak: tuple[float | None, ...]


class Courses(NamedTuple):
    """The courses of all ranks, and of the values that the script logged."""

    metrics: tuple[Track, ...]
    logged: Mapping[str, Track]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A host of the plan, and what came home from it."""

    plan: Host
    status: Status  # "lost", with the plan's ranks, where none came home that can be read
    known: bool  # whether one did
    log: str | None  # the launcher's; paths are relative to the run's folder
    rank_logs: Mapping[int, str]
    rank_stacks: Mapping[int, str]  # of ranks that did not move, or were asked while another one did not


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """All that the page shows.

    Columns: metrics loss, samples/s, seconds of a step in compute, communication and data loading, unix seconds, steps/s; usage
    CPU %, GiB, GPU %, GPU GiB, GPU °C; logged one value.
    """

    plan: Plan
    state: str
    machines: tuple[Machine, ...]
    causes: tuple[Cause, ...]  # the first one is the root
    events: tuple[Said, ...]
    metrics: tuple[Track, ...]
    usage: tuple[Track, ...]
    logged: Mapping[str, Track]
    attempt: Courses  # what the summary tells: all of it, or what the attempt that failed has done
    model: str | None
    checkpoint: str | None
    left: tuple[Left, ...]
    prediction: Prediction | None
    notes: tuple[str, ...]  # what to know before trusting the page

    @property
    def ranks(self) -> list[tuple[Machine, Rank]]:
        """Every rank with its host."""
        return [(machine, rank) for machine in self.machines for rank in machine.status.ranks]

    @property
    def step(self) -> int:
        """The furthest step of any rank, 0 where none is known."""
        return max((rank.step for _, rank in self.ranks), default=0)

    @property
    def steps(self) -> int | None:
        """Number of steps that the script set out to do, where it said so."""
        return max((rank.steps for _, rank in self.ranks if rank.steps), default=None)

    @property
    def apart(self) -> str:
        """How its ranks trained apart from one another, "" where they trained together."""
        return trained_apart([rank for _, rank in self.ranks])

    @property
    def started(self) -> float | None:
        """Unix seconds of the first launcher's start."""
        return min((machine.status.started for machine in self.machines if machine.status.started), default=None)

    @property
    def seconds(self) -> float | None:
        """From a launcher's start to its last word by its own clock, of all launchers the longest."""
        statuses = [machine.status for machine in self.machines]
        spans = [status.time - status.started for status in statuses if status.time >= status.started > 0]
        return max(spans, default=None)

    @property
    def validation(self) -> str | None:
        """The name under which the script logged a validation loss."""
        names = [name for name in self.logged if "loss" in name.lower()]
        return next((name for name in names if any(word in name.lower() for word in ("val", "dev", "test"))), None)


def load(folder: Path) -> RunData:
    """Reads a run's folder. Raises ReportError where it is absent, unreadable or has no usable plan.json."""
    try:
        return _load(folder, _load_plan(folder))
    except OSError as error:
        what = error.filename or folder
        raise ReportError(f"`{what}` cannot be read: {error.strerror}\nhint: make it readable for you") from None


def _load_plan(folder: Path) -> Plan:
    if not folder.is_dir():
        raise ReportError(f"no folder `{folder}`\nhint: give the folder of a run, for example logs/20261124-0745")
    path = folder / "plan.json"
    if not path.exists():
        raise ReportError(f"`{folder}` has no plan.json\nhint: give the folder of one run, not the folder of all runs")
    try:
        if path.stat().st_size <= MAX_BYTES:
            plan = Plan.load(path)
            if isinstance(plan.world_size, int) and plan.world_size <= MAX_RANKS:
                return plan
    except (ValueError, TypeError, RecursionError):
        pass  # as below
    raise ReportError(
        f"`{path}` is not a readable plan\nhint: copy plan.json from any of the run's hosts, it is the same on all"
    )


def _load(folder: Path, plan: Plan) -> RunData:
    machines = tuple(_machine(folder, plan, host) for host in plan.hosts)
    notes = [f"No readable status came home from {machine.plan.name}." for machine in machines if not machine.known]
    whole, bad = _courses(folder, plan, {})
    notes += bad
    state = overall_state([machine.status for machine in machines])
    attempt = whole
    if state in ("failed", "lost"):
        attempt, _ = _courses(folder, plan, {machine.plan.name: machine.status.started for machine in machines})
    prediction, why_not = _prediction(folder / "prediction.json")
    notes += [why_not] if why_not else []
    results = results_of(folder, plan)
    statuses = [machine.status for machine in machines]
    root = first_failure(statuses)
    others = [status.cause for status in statuses if status.cause and status.cause is not root]
    return RunData(
        plan=plan,
        state=state,
        machines=machines,
        causes=(root, *others) if root else (),
        events=tuple(_events(machines)),
        metrics=whole.metrics,
        usage=tuple(track for host in plan.hosts for track in _usage(folder, host)),
        logged=whole.logged,
        attempt=attempt,
        model=results.model or None,
        checkpoint=results.checkpoint or None,
        left=find_left([(host.name, _own(folder, host.name, "left.json")) for host in plan.hosts]),
        prediction=prediction,
        notes=tuple(notes[:MAX_NAMES]),
    )


def _courses(folder: Path, plan: Plan, since: Mapping[str, float]) -> tuple[Courses, list[str]]:
    """What the ranks told, of each host from unix seconds `since` on; and notes on losses that are no numbers."""
    metrics: list[Track] = []
    logged: dict[str, Track] = {}
    notes: list[str] = []
    planned = [(host, host.first_rank + index) for host in plan.hosts for index in range(host.processes)]
    for host, rank in planned:
        path = _own(folder, host.name, f"metrics-rank{rank}.jsonl")
        course, names, bad = _metrics(path, since.get(host.name, 0.0))
        metrics += _track(host.name, rank, course)
        for name, points in names.items():
            if name not in logged and len(logged) < MAX_NAMES:  # what all ranks log is the lowest one's
                logged.update((name, track) for track in _track(host.name, rank, points))
        notes += [f"Losses of rank {rank} on {host.name} that were NaN or infinite: {bad}."] if bad else []
    return Courses(tuple(metrics), logged), notes


def _own(folder: Path, host: str, name: str) -> Path | None:
    """A host's file; None where there is no such file, or a link leads out of the folder."""
    path = folder / host / name
    return path if path.is_file() and path.resolve() == folder.resolve() / host / name else None


def _machine(folder: Path, plan: Plan, host: Host) -> Machine:
    path = _own(folder, host.name, "status.json")
    status = read_file(path) if path else None
    ranks = range(host.first_rank, host.first_rank + host.processes)
    lost = Status(
        run=plan.run, host=host.name, machine_rank=host.machine_rank, state="lost", world_size=plan.world_size,
        ranks=tuple(Rank(rank=rank) for rank in ranks),
    )  # fmt: skip

    def found(name: str) -> dict[int, str]:
        names = {rank: name.format(rank) for rank in ranks}
        return {rank: f"{host.name}/{one}" for rank, one in names.items() if _own(folder, host.name, one)}

    return Machine(
        plan=host,
        status=status or lost,
        known=status is not None,
        log=f"{host.name}/launcher.log" if _own(folder, host.name, "launcher.log") else None,
        rank_logs=found("rank{}.log"),
        rank_stacks=found("rank{}.stack.txt"),
    )


def _prediction(path: Path) -> tuple[Prediction | None, str]:
    """What was predicted before the run, and why it is not known where there is a file."""
    try:
        if not path.is_file() or path.is_symlink():
            return None, ""
        if path.stat().st_size <= MAX_BYTES:
            return Prediction.from_json(path.read_bytes()), ""
    except PredictionError:
        pass  # as below
    return None, "prediction.json cannot be read, so what was predicted is left out."


def _events(machines: Sequence[Machine]) -> list[Said]:
    """What the launchers noted, in the order of time, the newest; hosts that say the same share a line."""
    said = sorted(
        (event.time, machine.plan.name, event.text, event.kind)
        for machine in machines
        for event in machine.status.events
    )
    events: list[Said] = []
    for time, host, text, kind in said:
        for before, hosts, same, _ in events[-MAX_EVENTS:]:
            if text == same and time - before <= SAME_SECONDS and host not in hosts:
                hosts.append(host)
                break
        else:
            events.append(Said(time, [host], text, kind))
    return events[-MAX_EVENTS:]


# -- the course of a rank

Points = list[tuple[int, float, tuple[float | None, ...]]]  # generation, x, values


@dataclass(frozen=True, kw_only=True, slots=True)
class _Metric:
    """What a line of metrics-rank<r>.jsonl may hold."""

    step: int
    time: float | None = None
    generation: int = 0
    loss: float | None = None
    samples_per_second: float | None = None
    compute_seconds: float | None = None
    communication_seconds: float | None = None
    data_seconds: float | None = None
    steps_per_second: float | None = None
    # what the script logged, in place of all but step
    logged: Annotated[Mapping[Annotated[str, 80], float], MAX_NAMES] | None = None


def _lines(path: Path | None) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; lines that are cut off, too long or no objects are left out."""
    if path is None:
        return
    every = path.stat().st_size // MAX_FILE + 1
    with path.open("rb") as file:
        for line in itertools.islice(iter(lambda: file.readline(MAX_LINE), b""), 0, None, every):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def _metrics(path: Path | None, since: float) -> tuple[Points, dict[str, Points], int]:
    """A rank's course, that of each value it logged, and how many of its losses were no numbers."""
    course: Points = []
    logged: dict[str, Points] = {}
    bad, when = 0, math.inf
    for line in _lines(path):
        at = READER.read_or_none(_Metric, line)
        if at is None:
            continue
        when = when if at.time is None else at.time
        if when < since:
            continue
        if at.logged is not None:
            for name, value in at.logged.items():
                if name in logged or len(logged) < MAX_NAMES:
                    logged.setdefault(name, []).append((at.generation, at.step, (value,)))
        elif "logged" not in line:
            bad += isinstance(line.get("loss"), float) and at.loss is None
            parts = (at.compute_seconds, at.communication_seconds, at.data_seconds)
            course.append(
                (at.generation, at.step, (at.loss, at.samples_per_second, *parts, at.time, at.steps_per_second))
            )
    return course, logged, bad


def _usage(folder: Path, host: Host) -> list[Track]:
    courses: dict[int, Points] = {}
    for line in _lines(_own(folder, host.name, "usage.jsonl")):
        time, entries = line.get("time"), line.get("ranks")
        if not isinstance(entries, list) or not isinstance(time, int | float):
            continue
        for entry in entries:
            use = READER.read_or_none(Rank, entry)
            if use is not None and 0 <= use.rank - host.first_rank < host.processes:
                memory = [value and value / MIB_PER_GIB for value in (use.memory_mib, use.gpu_memory_mib)]
                values = (use.cpu_percent, memory[0], use.gpu_percent, memory[1], use.gpu_celsius)
                courses.setdefault(use.rank, []).append((0, time, values))
    return [track for rank in sorted(courses) for track in _track(host.name, rank, courses[rank], GAP_SECONDS)]


def _track(host: str, rank: int, points: Points, gap: float = math.inf) -> list[Track]:
    """The course through the points, none where there are none. x that falls, or leaps over `gap`, is a new launch."""
    samples: list[Sample] = []
    launch = 0
    for generation, x, values in points:
        if not abs(x) < MAX_NUMBER:
            continue
        if samples:
            (launch, before), last, _ = samples[-1]
            launch += generation < before or (generation == before and not 0 <= x - last <= gap)
        kept = tuple(value if value is not None and abs(value) < MAX_NUMBER else None for value in values)
        samples.append(Sample((launch, generation), x, kept))
    columns = [
        [value for value in column if value is not None] for column in zip(*(s.values for s in samples), strict=True)
    ]
    mean = tuple(sum(column) / len(column) if column else None for column in columns)
    peak = tuple(max(column, default=None) for column in columns)
    return [Track(host=host, rank=rank, samples=thin(samples, MAX_POINTS), mean=mean, peak=peak)] if samples else []


def thin(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    """About `limit` samples, evenly spread, the first and the last among them."""
    return [*samples[: -1 : len(samples) // limit + 1], *samples[-1:]]
