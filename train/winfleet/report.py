"""Makes the report of a run: `python -m winfleet.report logs/<run>` writes report.html into that folder.

The folder came home from other machines, so nothing in it is trusted: any file may be missing, cut off or hold wrong
types. What cannot be used is left out, text is cut and cleaned, lines of a plot are thinned; plan.json alone must be
there. The page is one file without scripts or network; its plots are SVG that take their colours from the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from winfleet.status import ECHOES, duration, write_atomic

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

MAX_TEXT: Final = 2_000  # characters of a text field
MAX_DOCUMENT: Final = 20_000  # characters of the configuration
MAX_LIST: Final = 1_024  # entries of a list in plan.json or status.json
MAX_EVENTS: Final = 200  # events on the page, the newest
MAX_NAMES: Final = 40  # different values that a script logs
MAX_POINTS: Final = 4_000  # points of a plotted line
MAX_PLOT_POINTS: Final = 16_000  # points of a whole plot
MAX_JSON_BYTES: Final = 8 * 2**20  # a larger plan.json or status.json is not read
MAX_LINE_BYTES: Final = 64 * 2**10  # a longer line of a .jsonl file is left out
MAX_LINES_BYTES: Final = 64 * 2**20  # of a larger .jsonl file so much is read, in blocks spread evenly over it
MAX_NUMBER: Final = 1e15  # anything beyond counts as not a number
GIB: Final = 1_024  # MiB
GAP_SECONDS: Final = 15.0  # usage comes once a second; a longer silence breaks the line
SAME_SECONDS: Final = 5.0  # the same event on two hosts, whose clocks differ a little
FEW_RANKS: Final = 8  # up to here every rank has its own colour

STATES: Final = ("failed", "lost", "stopped", "running", "starting", "finished")  # the first that a host is in counts
STATE_WORDS: Final = {
    "failed": "Failed", "lost": "Host lost", "stopped": "Stopped", "running": "Still running", "starting": "Starting",
    "finished": "Finished", "unknown": "State unknown",
}  # fmt: skip
VALIDATION_NAMES: Final = ("validation_loss", "val_loss", "valid_loss", "eval_loss", "dev_loss")
TRAINING_NAMES: Final = ("train_loss", "training_loss", "loss")
TIME_UNITS: Final = (("hours", 3600), ("minutes", 60), ("seconds", 1))
COLORS: Final = (
    "ink",
    "soft",
    "axis",
    "grid",
    "muted",
    "total",
    "valid",
    "card",
    *(f"c{index}" for index in range(FEW_RANKS)),
)
SVG_METADATA: Final = ("Creator", "Date", "Format", "Type")  # left out, they hold addresses

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# Controls but tab and newline, marks that turn the direction of text, halves of surrogate pairs, byte order marks.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)

Record = Mapping[str, Any]  # a JSON object whose values are not checked yet


class ReportError(ValueError):
    """A folder of which no report can be made; the text ends in a hint."""


class Sample(NamedTuple):
    """One point in the course of a rank; its line breaks where the segment (launch, generation) changes."""

    segment: tuple[int, int]
    x: float  # step, or unix seconds for usage
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """The course of one rank, at most MAX_POINTS samples; mean and peak are those of all samples read, by column."""

    host: str
    rank: int
    samples: tuple[Sample, ...]
    mean: tuple[float | None, ...]
    peak: tuple[float | None, ...]
    bad: int = 0  # how many times the first column was NaN or infinite


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One machine: from the plan, and what its status.json said last."""

    name: str
    address: str
    adapter: str
    machine_rank: int
    processes: int
    first_rank: int
    system: str
    gpus: tuple[str, ...]
    state: str  # "" where no status came home
    generation: int
    started: float | None  # unix seconds by this host's clock
    ended: float | None
    versions: Mapping[str, str]
    log: str | None  # the launcher's, relative to the run's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """Where one process stood last. memory in MiB, use in percent."""

    rank: int
    host: str
    state: str
    step: int | None
    steps: int | None
    loss: float | None
    samples_per_second: float | None
    cpu_percent: float | None
    memory_mib: float | None
    gpu_percent: float | None
    gpu_memory_mib: float | None
    exit_code: int | None
    log: str | None  # relative to the run's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a process failed, as its host saw it."""

    host: str
    rank: int | None
    exit_code: int | None
    exception: str
    lines: tuple[str, ...]  # the last ones of its log
    time: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that a launcher noted; time in unix seconds."""

    time: float | None
    hosts: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """All that the page shows. Columns: metrics loss, samples/s; usage CPU %, MiB, GPU %, GPU MiB; logged one value."""

    run: str
    state: str  # one of STATES, or "unknown"
    command: tuple[str, ...]
    digests: Mapping[str, str]  # code, data, environment
    backend: str
    config: str
    hosts: tuple[Host, ...]
    ranks: tuple[Rank, ...]
    causes: tuple[Cause, ...]  # the first one is the root
    events: tuple[Event, ...]
    metrics: tuple[Track, ...]
    usage: tuple[Track, ...]
    logged: Mapping[str, Track]
    seconds: float | None  # from the launcher's start to its last word
    started: float | None
    model: str | None  # relative to the run's folder, like checkpoint
    checkpoint: str | None
    notes: tuple[str, ...]

    @property
    def processes(self) -> int:
        """Number of ranks that the plan gave the run."""
        return sum(host.processes for host in self.hosts)

    @property
    def step(self) -> int | None:
        """The furthest step of any rank."""
        reached = [rank.step for rank in self.ranks if rank.step is not None]
        reached += [int(track.samples[-1].x) for track in self.metrics if not reached]
        return max(reached, default=None)

    @property
    def steps(self) -> int | None:
        """Number of steps that the script set out to do, where it said so."""
        return max((rank.steps for rank in self.ranks if rank.steps), default=None)


# -- values that are not trusted


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text without terminal escapes and control characters, tabs and newlines apart, cut at `limit` characters."""
    plain = _CONTROLS.sub("", _ESCAPES.sub("", text[: limit * 8]).replace("\r\n", "\n").replace("\r", "\n"))
    return plain if len(plain) <= limit and len(text) <= limit * 8 else plain[:limit] + "…"


def _text(record: Record, key: str) -> str:
    """One line of text; "" where the value is missing or of another type."""
    value = record.get(key)
    return " ".join(clean(value).split()) if isinstance(value, str) else ""


def _real(record: Record, key: str) -> float | None:
    """A finite number of reasonable size, or None."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -MAX_NUMBER < value < MAX_NUMBER else None


def _whole(record: Record, key: str, lowest: int = 0) -> int | None:
    """An integer from `lowest` on, or None."""
    value = _real(record, key)
    return int(value) if value is not None and value.is_integer() and value >= lowest else None


def _strings(record: Record, key: str) -> tuple[str, ...]:
    """A list's texts, one line each, MAX_LIST at most."""
    value = record.get(key)
    items = value[:MAX_LIST] if isinstance(value, list) else []
    return tuple(_text({"": item}, "") for item in items if isinstance(item, str))


def _records(record: Record, key: str, newest: int = MAX_LIST) -> list[Record]:
    """A list's objects, the last `newest` at most."""
    value = record.get(key)
    return [item for item in value[-newest:] if isinstance(item, dict)] if isinstance(value, list) else []


def _record(record: Record, key: str) -> Record:
    """An object; empty where the value is missing or of another type."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


# -- files


def _is_plain(path: Path) -> bool:
    # A link could lead out of the folder.
    return path.is_file() and not path.is_symlink()


def _parse(data: bytes) -> Record | None:
    """A JSON object, or None: cut off, nested too deep, or something else."""
    try:
        value = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_record(path: Path) -> Record | None:
    """The object in a JSON file; None where there is no such file or no object in it."""
    try:
        if not _is_plain(path) or path.stat().st_size > MAX_JSON_BYTES:
            return None
        return _parse(path.read_bytes())
    except OSError:
        return None


def _blocks(size: int) -> list[tuple[int, int]]:
    """Byte ranges to read of a file: the whole of it, or 64 blocks spread evenly, the first and the last among them."""
    if size <= MAX_LINES_BYTES:
        return [(0, size)]
    block = MAX_LINES_BYTES // 64
    return [(start, start + block) for start in (round(index * (size - block) / 63) for index in range(64))]


def _lines(path: Path) -> Iterator[Record]:
    """The objects of a .jsonl file; lines that are cut off, too long or no objects are left out."""
    if not _is_plain(path):
        return
    try:
        with path.open("rb") as file:
            for start, end in _blocks(path.stat().st_size):
                file.seek(max(start - 1, 0))
                if start:  # the rest of a line that belongs to the block before
                    file.readline(MAX_LINE_BYTES)
                while file.tell() < end and (line := file.readline(MAX_LINE_BYTES)):
                    if (record := _parse(line)) is not None:
                        yield record
    except OSError:
        return


# -- the course of a rank


def _thin(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """At most `limit` samples: the first of every bucket of x, and the last. Buckets double until it is enough."""
    kept = list(samples)
    if len(kept) <= limit:
        return kept
    if len({sample.segment for sample in kept}) * 2 > limit:  # no course, a heap of pieces
        return kept[:: len(kept) // limit + 1]
    places = [sample.x for sample in kept]
    width = (max(places) - min(places)) / limit / 4 or 1.0
    while len(kept) > limit and width < MAX_NUMBER:
        last, firsts = kept[-1], {(sample.segment, sample.x // width): sample for sample in reversed(kept)}
        kept = list(reversed(firsts.values()))
        kept += [last] if kept[-1] is not last else []
        width *= 2
    return kept[:limit]


@dataclass(kw_only=True, slots=True)
class _Collector:
    """Takes a rank's samples one by one, in bounded memory. x that falls, or leaps more than `gap`, is a new launch."""

    columns: int
    gap: float = math.inf
    samples: list[Sample] = dataclasses.field(default_factory=list)
    sums: list[float] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)
    peaks: list[float | None] = dataclasses.field(default_factory=list)
    bad: int = 0

    def __post_init__(self) -> None:
        self.sums, self.counts, self.peaks = [0.0] * self.columns, [0] * self.columns, [None] * self.columns

    def add(self, generation: int, x: float, values: Sequence[float | None]) -> None:
        launch = 0
        if self.samples:
            (launch, before), last, _ = self.samples[-1]
            again = generation < before or (generation == before and (x < last or x - last > self.gap))
            launch += again
        self.samples.append(Sample((launch, generation), x, tuple(values)))
        self._count(values)
        if len(self.samples) > 2 * MAX_POINTS:
            self.samples = _thin(self.samples, MAX_POINTS)

    def _count(self, values: Sequence[float | None]) -> None:
        for column, value in enumerate(values):
            if value is not None:
                self.sums[column] += value
                self.counts[column] += 1
                peak = self.peaks[column]
                self.peaks[column] = value if peak is None else max(peak, value)

    def track(self, host: str, rank: int) -> Track:
        means = [total / count if count else None for total, count in zip(self.sums, self.counts, strict=True)]
        samples = tuple(_thin(self.samples, MAX_POINTS))
        return Track(host=host, rank=rank, samples=samples, mean=tuple(means), peak=tuple(self.peaks), bad=self.bad)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A host of the plan beside what it left in the run's folder."""

    plan: Record  # its entry in plan.json
    name: str
    folder: Path | None
    status: Record

    def numbered(self, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
        """The files whose name matches, by the number in it."""
        found = [(pattern.fullmatch(path.name), path) for path in self.folder.iterdir()] if self.folder else []
        return sorted((int(match[1]), path) for match, path in found if match)[:MAX_LIST]

    def link(self, name: str) -> str | None:
        """The path of one of its files relative to the run's folder, None where there is no such file."""
        return f"{self.folder.name}/{name}" if self.folder and _is_plain(self.folder / name) else None


def _places(plan: Record, folder: Path) -> list[_Place]:
    """The plan's hosts. A name out of the plan only ever selects one of the folders that are there."""
    folders = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}
    places = []
    for entry in _records(plan, "hosts"):
        home = folders.get(str(entry.get("name")))
        status = _read_record(home / "status.json") if home else None
        places.append(_Place(plan=entry, name=_text(entry, "name") or "?", folder=home, status=status or {}))
    return places


def _metrics(place: _Place) -> Iterator[tuple[Track, dict[str, Track]]]:
    """Of every metrics-rank<r>.jsonl of a host: the rank's course, and that of each value it logged."""
    for rank, path in place.numbered(re.compile(r"metrics-rank(\d{1,5})\.jsonl")):
        course, logged, step = _Collector(columns=2), dict[str, _Collector](), 0
        for line in _lines(path):
            generation, step = _whole(line, "generation") or 0, step if (now := _whole(line, "step")) is None else now
            if "logged" in line:
                _add_logged(logged, generation, step, _record(line, "logged"))
            else:
                course.bad += _is_bad(line.get("loss"))
                course.add(generation, step, (_real(line, "loss"), _real(line, "samples_per_second")))
        yield course.track(place.name, rank), {name: one.track(place.name, rank) for name, one in logged.items()}


def _is_bad(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _add_logged(logged: dict[str, _Collector], generation: int, step: int, values: Record) -> None:
    for key in list(values)[:MAX_NAMES]:
        name = " ".join(clean(key, 80).split())
        value = _real(values, key)
        if value is not None and (name in logged or len(logged) < MAX_NAMES):
            logged.setdefault(name, _Collector(columns=1)).add(generation, step, (value,))


def _usage(place: _Place) -> list[Track]:
    """The courses in a host's usage.jsonl, by rank."""
    courses: dict[int, _Collector] = {}
    for line in _lines(place.folder / "usage.jsonl") if place.folder else ():
        time = _real(line, "time")
        for entry in _records(line, "ranks"):
            rank = _whole(entry, "rank")
            if time is None or rank is None or (rank not in courses and len(courses) >= MAX_LIST):
                continue
            values = [_real(entry, key) for key in ("cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib")]
            courses.setdefault(rank, _Collector(columns=4, gap=GAP_SECONDS)).add(0, time, values)
    return [courses[rank].track(place.name, rank) for rank in sorted(courses)]


# -- what the hosts said last


def _host(place: _Place) -> Host:
    versions = _record(place.status, "versions")
    return Host(
        name=place.name,
        address=_text(place.plan, "address"),
        adapter=_text(place.plan, "adapter"),
        machine_rank=_whole(place.plan, "machine_rank") or 0,
        processes=_whole(place.plan, "processes") or 0,
        first_rank=_whole(place.plan, "first_rank") or 0,
        system=_text(place.plan, "os"),
        gpus=_strings(place.plan, "gpus"),
        state=_text(place.status, "state"),
        generation=_whole(place.status, "generation") or 0,
        started=_real(place.status, "started"),
        ended=_real(place.status, "time"),
        versions={name: _text(versions, name) for name in ("python", "torch", "accelerate", "platform")},
        log=place.link("launcher.log"),
    )


def _ranks(place: _Place) -> list[Rank]:
    """The ranks that the host reported, otherwise those that the plan gave it."""
    first, processes = _whole(place.plan, "first_rank") or 0, _whole(place.plan, "processes") or 0
    planned: list[Record] = [{"rank": first + index} for index in range(min(processes, MAX_LIST))]
    reported = [entry for entry in _records(place.status, "ranks") if _whole(entry, "rank") is not None]
    return [_rank(place, entry) for entry in reported or planned]


def _rank(place: _Place, entry: Record) -> Rank:
    rank = _whole(entry, "rank") or 0
    return Rank(
        rank=rank,
        host=place.name,
        state=_text(entry, "state"),
        step=_whole(entry, "step"),
        steps=_whole(entry, "steps"),
        loss=_real(entry, "loss"),
        samples_per_second=_real(entry, "samples_per_second"),
        cpu_percent=_real(entry, "cpu_percent"),
        memory_mib=_real(entry, "memory_mib"),
        gpu_percent=_real(entry, "gpu_percent"),
        gpu_memory_mib=_real(entry, "gpu_memory_mib"),
        exit_code=_whole(entry, "exit_code", lowest=-(2**32)),
        log=place.link(f"rank{rank}.log"),
    )


def _causes(places: Sequence[_Place]) -> list[Cause]:
    """The causes of failure. First comes what is no echo of another failure, then what is earliest."""
    records = [(place, _record(place.status, "cause")) for place in places]
    causes = [
        Cause(
            host=_text(record, "host") or place.name,
            rank=_whole(record, "rank"),
            exit_code=_whole(record, "exit_code", lowest=-(2**32)),
            exception=_text(record, "text") or _text(record, "exception"),
            lines=_last_lines(record),
            time=_real(record, "time"),
        )
        for place, record in records
        if record
    ]
    distinct = {(cause.host, cause.rank, cause.exception): cause for cause in reversed(causes)}
    return sorted(distinct.values(), key=_cause_order)


def _cause_order(cause: Cause) -> tuple[bool, float]:
    echo = cause.rank is None or any(echo in cause.exception for echo in ECHOES)
    return echo, math.inf if cause.time is None else cause.time


def _last_lines(record: Record) -> tuple[str, ...]:
    """The last lines of a log, 60 at most, with their indents."""
    value = record.get("lines")
    lines = [line for line in value[-60:] if isinstance(line, str)] if isinstance(value, list) else []
    return tuple(clean(line).rstrip() for line in lines)


def _events(places: Sequence[_Place]) -> list[Event]:
    """What the launchers noted, in the order of time, the newest MAX_EVENTS; hosts that say the same share a line."""
    said = [
        (_real(entry, "time") or 0.0, place.name, text)
        for place in places
        for entry in _records(place.status, "events", newest=MAX_EVENTS)
        if (text := _text(entry, "text"))
    ]
    events: list[Event] = []
    latest: dict[str, int] = {}
    for time, host, text in sorted(said):
        before = events[latest[text]] if text in latest else None
        if before and time - (before.time or 0.0) <= SAME_SECONDS and host not in before.hosts:
            events[latest[text]] = dataclasses.replace(before, hosts=(*before.hosts, host))
        else:
            latest[text] = len(events)
            events.append(Event(time=time or None, hosts=(host,), text=text))
    return events[-MAX_EVENTS:]


def _state(hosts: Sequence[Host]) -> str:
    """The run's state. The first host keeps the store and cannot be lost: what it finished is finished."""
    states = {host.state for host in hosts}
    if hosts and hosts[0].state == "finished":
        return "finished"
    return next((state for state in STATES if state in states), "unknown")


def _seconds(hosts: Sequence[Host]) -> float | None:
    """How long the run took: each host counts by its own clock, the longest counts."""
    spans = [host.ended - host.started for host in hosts if host.started is not None and host.ended is not None]
    return max((span for span in spans if span >= 0), default=None)


def _newest_checkpoint(folder: Path) -> Path | None:
    """The folder step_<n> with the highest n, or None."""
    paths = [path for path in folder.iterdir() if re.fullmatch(r"step_\d{1,15}", path.name)] if folder.is_dir() else []
    return max(paths, key=lambda path: int(path.name.removeprefix("step_")), default=None)


def _outputs(folder: Path, places: Sequence[_Place]) -> list[str | None]:
    """Model and newest checkpoint relative to the run's folder, each None where it did not come home."""
    homes = [folder, *(place.folder for place in places if place.folder)]
    models = [model for home in homes if (model := home / "output" / "model").exists()]
    checkpoints = [newest for home in homes if (newest := _newest_checkpoint(home / "output" / "checkpoints"))]
    return [paths[0].relative_to(folder).as_posix() if paths else None for paths in (models, checkpoints)]


def _notes(places: Sequence[_Place], hosts: Sequence[Host], state: str, metrics: Sequence[Track]) -> list[str]:
    """What a reader should know before trusting the page."""
    notes = []
    for place, host in zip(places, hosts, strict=True):
        if place.folder is None:
            notes.append(f"Nothing came home from {host.name}.")
        elif not place.status:
            notes.append(f"The status of {host.name} is missing or unreadable.")
        elif host.state != state:
            notes.append(f"{host.name} was last seen {host.state or 'in no known state'}.")
    notes += [
        f"Rank {track.rank} on {track.host} reported a loss of NaN or infinity {_count(track.bad, 'time')}."
        for track in metrics
        if track.bad
    ]
    return notes[:MAX_NAMES]


def load(folder: Path) -> RunData:
    """Reads a run's folder. Raises ReportError where it is absent, unreadable or has no usable plan.json."""
    try:
        return _load(folder, _load_plan(folder))
    except OSError as error:
        what = error.filename or folder
        raise ReportError(f"`{what}` cannot be read: {error.strerror}\nhint: make it readable for you") from None


def _load(folder: Path, plan: Record) -> RunData:
    places = _places(plan, folder)
    courses = [course for place in places for course in _metrics(place)]
    usage = [track for place in places for track in _usage(place)]
    model, checkpoint = _outputs(folder, places)
    hosts = tuple(_host(place) for place in places)
    state, metrics = _state(hosts), sorted((track for track, _ in courses), key=lambda track: track.rank)
    logged: dict[str, Track] = {}
    for _, names in sorted(courses, key=lambda course: course[0].rank):
        logged = {**names, **logged}  # the lowest rank's word counts
    config = plan.get("config")
    return RunData(
        run=_text(plan, "run") or clean(folder.resolve().name),
        state=state,
        command=_strings(plan, "command"),
        digests={name: _text(plan, name) for name in ("code", "data", "environment")},
        backend=_text(plan, "backend"),
        config=clean(config, MAX_DOCUMENT) if isinstance(config, str) else "",
        hosts=hosts,
        ranks=tuple(sorted((rank for place in places for rank in _ranks(place)), key=lambda rank: rank.rank)),
        causes=tuple(_causes(places)),
        events=tuple(_events(places)),
        metrics=tuple(metrics),
        usage=tuple(sorted(usage, key=lambda track: track.rank)),
        logged=logged,
        seconds=_seconds(hosts),
        started=min((host.started for host in hosts if host.started is not None), default=None),
        model=model,
        checkpoint=checkpoint,
        notes=tuple(_notes(places, hosts, state, metrics)),
    )


def _load_plan(folder: Path) -> Record:
    if not folder.is_dir():
        raise ReportError(f"no folder `{folder}`\nhint: give the folder of a run, for example logs/20261124-0745")
    path = folder / "plan.json"
    if not path.exists():
        raise ReportError(f"`{folder}` has no plan.json\nhint: give the folder of one run, not the folder of all runs")
    plan = _read_record(path)
    if plan is None:
        raise ReportError(
            f"`{path}` is not a readable plan\nhint: copy plan.json from any of the run's hosts, it is the same on all"
        )
    return plan


# -- words


def _count(number: int, noun: str) -> str:
    """`1 host`, `2 hosts`, `2 processes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _number(value: float | None) -> str:
    """A loss or another value of the script: three decimals, or three digits where these would say nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1e6 else f"{value:.3g}"


def _rate(value: float | None) -> str:
    """Samples/s or percent: a decimal below 100, none above."""
    if value is None:
        return "–"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _memory(mib: float | None) -> str:
    """MiB below 1 GiB, GiB from there on."""
    if mib is None:
        return "–"
    return f"{mib:.0f} MiB" if mib < GIB else f"{mib / GIB:.1f} GiB"


def _duration(seconds: float | None) -> str:
    """`0:58`, `12:05`, `3:07:00`."""
    return "–" if seconds is None else duration(seconds)


def _alike(names: Sequence[str]) -> str:
    """`4 × RTX 4090, RTX 3060` for names of which some are the same; "none" for none."""
    counts = Counter(names)
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items()) or "none"


def _moment(time: float | None) -> str:
    """Unix seconds as date and time where the report is made."""
    try:
        return "–" if time is None else datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return "–"


def _find_loss(run: RunData, names: Sequence[str]) -> tuple[str, Track] | None:
    """The first of `names` that the script logged, whatever it puts between the words: val/loss, eval-loss."""
    spelled = {re.sub(r"[^a-z]+", "_", name.lower()).strip("_"): (name, track) for name, track in run.logged.items()}
    return next((spelled[name] for name in names if name in spelled), None)


def _ends(tracks: Sequence[Track], column: int) -> tuple[float, float] | None:
    """First and last value, each the mean over the ranks that took part then; None where there is no value."""
    valid = [[(one.segment, one.values[column]) for one in track.samples] for track in tracks]
    courses = [[(segment, value) for segment, value in course if value is not None] for course in valid]
    firsts, lasts = [course[0] for course in courses if course], [course[-1] for course in courses if course]
    if not firsts:
        return None
    first = [value for segment, value in firsts if segment == min(firsts)[0]]
    last = [value for segment, value in lasts if segment == max(lasts)[0]]
    return sum(first) / len(first), sum(last) / len(last)


def _result(run: RunData) -> tuple[str, float, float] | None:
    """What the run is measured by, with its first and last value: validation loss, otherwise training loss."""
    validation, training = _find_loss(run, VALIDATION_NAMES), _find_loss(run, TRAINING_NAMES)
    candidates: list[tuple[str, Sequence[Track]]] = [("training loss", run.metrics)]
    if validation:
        candidates.insert(0, ("validation loss", (validation[1],)))
    if training:
        candidates.append(("training loss", (training[1],)))
    ends = ((name, _ends(tracks, 0)) for name, tracks in candidates)
    return next(((name, *values) for name, values in ends if values), None)


def _change(run: RunData) -> str:
    """`validation loss fell from 5.612 to 2.431`, or that there is none."""
    if (result := _result(run)) is None:
        return "the script reported no loss"
    name, first, last = result
    if _number(first) == _number(last):
        return f"{name} stayed at {_number(last)}"
    return f"{name} {'fell' if last < first else 'rose'} from {_number(first)} to {_number(last)}"


def _size(run: RunData) -> str:
    return f"{_count(run.processes, 'process')} on {_count(len(run.hosts), 'host')}"


def closing_line(run: RunData, report: Path) -> str:
    """The one line that ends `python -m winfleet.report`. A run that did not finish says so first."""
    parts = [] if run.state == "finished" else [STATE_WORDS[run.state].lower()]
    parts += [_change(run), _size(run)]
    parts += [] if run.seconds is None else [_duration(run.seconds)]
    return " · ".join([*parts, f"report: {report.as_posix()}"])


def _progress(run: RunData) -> str:
    """`at step 173 of 300 after 0:31`, as far as it is known; what failed counts to its failure."""
    of_all = f" of {run.steps:,}" if run.steps else ""
    after = _since(run.causes[0].time, run) if run.state == "failed" and run.causes else ""
    after = after or ("" if run.seconds is None else _duration(run.seconds))
    parts = [] if run.step is None else [f"at step {run.step:,}{of_all}"]
    return " ".join([*parts, f"after {after}"] if after else parts)


def headline(run: RunData) -> str:
    """The result in one sentence."""
    change = _change(run)
    if run.state == "finished":
        steps = "" if run.step is None else f" in {_count(run.step, 'step')}"
        took = "" if run.seconds is None else f", in {_duration(run.seconds)}"
        return f"{change[0].upper()}{change[1:]}{steps}, with {_size(run)}{took}."
    subject = STATE_WORDS[run.state]
    if run.state == "failed" and run.causes and run.causes[0].rank is not None:
        subject = f"Rank {run.causes[0].rank} on {run.causes[0].host} failed"
    so_far = "until then" if run.state in ("failed", "lost", "stopped") else "so far"
    return f"{subject} {_progress(run)}; {so_far} {change}.".replace(" ;", ";")


def _since(time: float | None, run: RunData) -> str:
    """From the run's start to `time`; "" where one of the two is not known. Clocks of hosts differ a little."""
    return "" if time is None or run.started is None else _duration(max(time - run.started, 0.0))


def _cause_line(run: RunData) -> str:
    """`Rank 1 on worker2 ended with exit code 1 after 0:30.`, as far as it is known; "" without a cause."""
    if not run.causes:
        return ""
    cause = run.causes[0]
    who = cause.host if cause.rank is None else f"Rank {cause.rank} on {cause.host}"
    how = "failed" if cause.exit_code is None else f"ended with exit code {cause.exit_code}"
    since = _since(cause.time, run)
    return f"{who} {how}{f' after {since}' if since else ''}."


# -- plots


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One line of a plot. NaN in y breaks it. color is the name of a colour of the page's style sheet."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    color: str
    width: float = 1.0  # points
    dots: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """One plot, or the sentence that stands in its place."""

    key: str
    title: str
    x_label: str
    lines: Sequence[_Line]
    caption: str
    missing: str
    from_zero: bool = True

    @property
    def legend(self) -> tuple[_Line, ...]:
        """One line for each label."""
        return tuple({line.label: line for line in reversed(self.lines)}.values())[::-1]


def _line(track: Track, column: int, points: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """X and y of one column, `points` at most, with a NaN wherever the line breaks."""
    x: list[float] = []
    y: list[float] = []
    previous = None
    for segment, at, values in _thin(track.samples, points):
        value = values[column]
        if previous not in (None, segment):
            x.append(at)
            y.append(math.nan)
        x.append(at)
        y.append(math.nan if value is None else value)
        previous = segment
    return x, y


def _has(track: Track, column: int) -> bool:
    return track.peak[column] is not None


def _rank_lines(tracks: Sequence[Track], column: int) -> list[_Line]:
    """A line a rank. Many ranks share one colour and one entry in the legend."""
    used = [track for track in tracks if _has(track, column)]
    points = max(MAX_PLOT_POINTS // max(len(used), 4), 100)
    lines: list[_Line] = []
    for track in used[: 2 * MAX_NAMES]:
        x, y = _line(track, column, points)
        few = len(tracks) <= FEW_RANKS
        label = f"rank {track.rank} · {track.host}" if few else f"each of {len(used)} ranks"
        lines.append(_Line(x=x, y=y, label=label, color=f"c{track.rank % FEW_RANKS}" if few else "muted"))
    return lines


def _courses(tracks: Sequence[Track], column: int) -> dict[tuple[int, int], list[list[tuple[float, float]]]]:
    """For each segment the courses, as (x, value), of all ranks that have values in it."""
    segments: dict[tuple[int, int], list[list[tuple[float, float]]]] = {}
    for track in tracks:
        parts: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for segment, at, values in track.samples:
            if (value := values[column]) is not None:
                parts.setdefault(segment, []).append((at, value))
        for segment, part in parts.items():
            segments.setdefault(segment, []).append(part)
    return segments


def _together(tracks: Sequence[Track], column: int, *, mean: bool) -> tuple[list[float], list[float]]:
    """Sum or mean over the ranks, segment by segment, where all of its ranks have values.

    Ranks note their steps at their own times, so each is interpolated to the steps of the first.
    """
    import numpy as np

    x: list[float] = []
    y: list[float] = []
    for _, courses in sorted(_courses(tracks, column).items()):
        begin, end = max(course[0][0] for course in courses), min(course[-1][0] for course in courses)
        steps = [at for at, _ in courses[0] if begin <= at <= end]
        if steps:
            aligned = np.array([np.interp(steps, *np.array(course).T) for course in courses])
            x += [*steps, steps[-1]]
            y += [*(aligned.mean(axis=0) if mean else aligned.sum(axis=0)).tolist(), math.nan]
    return x, y


def _with_total(tracks: Sequence[Track], column: int, *, mean: bool) -> list[_Line]:
    """The ranks' lines, and a bold one for all of them together."""
    lines = _rank_lines(tracks, column)
    if len(lines) > 1:
        x, y = _together(tracks, column, mean=mean)
        name = "mean of all ranks" if mean else "sum of all ranks"
        lines.append(_Line(x=x, y=y, label=name, color="total", width=2.0))
    return lines


def _loss_panel(run: RunData) -> _Panel:
    lines = _with_total(run.metrics, 0, mean=True)
    training, validation = _find_loss(run, TRAINING_NAMES), _find_loss(run, VALIDATION_NAMES)
    if not lines and training:
        x, y = _line(training[1], 0)
        lines.append(_Line(x=x, y=y, label=training[0], color="total", width=2.0))
    if validation:
        x, y = _line(validation[1], 0)
        lines.append(_Line(x=x, y=y, label=validation[0], color="valid", dots=True))
    return _Panel(
        key="loss",
        title="Loss",
        x_label="step",
        lines=lines,
        caption=_loss_caption(run),
        missing="The script reported no loss.",
        from_zero=False,
    )


def _loss_caption(run: RunData) -> str:
    change = _change(run)
    segments = {sample.segment for track in run.metrics for sample in track.samples}
    again = (
        f" The run started {len(segments)} times; its lines break where it started again."
        if 1 < len(segments) <= MAX_NAMES
        else ""
    )
    return f"{change[0].upper()}{change[1:]}.{again}"


def _rate_panel(run: RunData) -> _Panel:
    means = [track.mean[1] for track in run.metrics if track.mean[1] is not None]
    return _Panel(
        key="rate",
        title="Samples per second",
        x_label="step",
        lines=_with_total(run.metrics, 1, mean=False),
        caption=f"{_rate(sum(means))} samples/s in the mean, all ranks together.",
        missing="No samples were counted.",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


class _Measure(NamedTuple):
    """A column of the usage and how it is shown."""

    key: str
    title: str
    column: int
    say: Callable[[float | None], str]


MEASURES: Final = (
    _Measure("gpu", "GPU use", 2, _percent),
    _Measure("gpu-memory", "GPU memory", 3, _memory),
    _Measure("cpu", "CPU use", 0, _percent),
    _Measure("memory", "Memory", 1, _memory),
)


def _usage_panel(run: RunData, measure: _Measure) -> _Panel:
    times = [sample.x for track in run.usage for sample in track.samples] or [0.0]
    begin, span = min(times), max(times) - min(times)
    time_unit, seconds = next((one for one in TIME_UNITS if span >= one[1] * 3), TIME_UNITS[-1])
    unit = measure.say(_peak(run, measure)).rpartition(" ")[2]
    tracks = [_in_units(track, begin, seconds, GIB if unit == "GiB" else 1) for track in run.usage]
    few = len(tracks) <= FEW_RANKS
    return _Panel(
        key=measure.key,
        title=f"{measure.title}, {unit}",
        x_label=time_unit,
        lines=_rank_lines(tracks, measure.column) if few else _with_total(tracks, measure.column, mean=True),
        caption=_usage_caption(run, measure),
        missing=f"No {measure.title} was measured.",
    )


def _in_units(track: Track, begin: float, seconds: int, divisor: int) -> Track:
    """The same course with x counted from `begin` in units of so many seconds, and values divided."""
    samples = (
        Sample(segment, (at - begin) / seconds, tuple(None if value is None else value / divisor for value in values))
        for segment, at, values in track.samples
    )
    return dataclasses.replace(track, samples=tuple(samples))


def _peak(run: RunData, measure: _Measure) -> float:
    return max((peak for track in run.usage if (peak := track.peak[measure.column]) is not None), default=0.0)


def _usage_caption(run: RunData, measure: _Measure) -> str:
    means = [value for track in run.usage if (value := track.mean[measure.column]) is not None]
    peak = _peak(run, measure)
    mean = measure.say(sum(means) / max(len(means), 1))
    core = " 100 % is one core." if measure.key == "cpu" else ""
    return f"{mean} in the mean of all ranks, {measure.say(peak)} at most.{core}"


def _panels(run: RunData) -> list[_Panel]:
    """The plots, GPU ones only where a GPU was measured."""
    measures = MEASURES if _has_gpu(run) else MEASURES[2:]
    return [_loss_panel(run), _rate_panel(run), *(_usage_panel(run, measure) for measure in measures)]


def _has_gpu(run: RunData) -> bool:
    return any(_has(track, 2) or _has(track, 3) for track in run.usage)


def _draw(panel: _Panel) -> Markup:
    """The plot as an <svg> element."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": panel.key, "svg.fonttype": "none", "font.size": 10.5}):
        figure = Figure(figsize=(6.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for line in panel.lines:
            (drawn,) = axes.plot(line.x, line.y, color=_token(line.color), linewidth=line.width)
            if line.dots or len(line.x) < 3:  # a lone point has no line
                drawn.set(marker="o", markersize=8.0, markeredgecolor=_token("card"), linewidth=0.0, zorder=3.0)
        _dress(axes, panel)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    return _embed(file.getvalue(), panel)


def _dress(axes: Axes, panel: _Panel) -> None:
    """Few ticks, a faint grid, no frame."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(panel.x_label, color=_token("soft"))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_token("axis"))
    axes.tick_params(length=0, labelcolor=_token("soft"), pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 5, 10], integer=panel.x_label == "step"))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", color=_token("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    if panel.from_zero:
        axes.set_ylim(0, max((value for line in panel.lines for value in line.y if value > 0), default=1.0) * 1.1)


def _token(name: str) -> str:
    """The colour that stands for `name` in what matplotlib writes."""
    return f"#fe0d{COLORS.index(name):02x}"


def _embed(svg: str, panel: _Panel) -> Markup:
    """The element alone, its ids made the panel's own, its colours the style sheet's, its numbers shortened."""
    from markupsafe import Markup, escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{panel.key}-", svg)
    svg = re.sub(r"#fe0d([0-9a-f]{2})", lambda match: f"var(--{COLORS[int(match[1], 16)]})", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    label = escape(f"{panel.title} by {panel.x_label}. {panel.caption}")
    # Safe as it is: matplotlib wrote it, out of numbers and our own words.
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # noqa: S704


# -- the page


def _rank_rows(run: RunData) -> list[dict[str, Any]]:
    """Each rank with its mean speed and use and its peaks; where these are missing, with what it said last."""
    speed = {(track.host, track.rank): track.mean[1] for track in run.metrics}
    usage = {(track.host, track.rank): track for track in run.usage}
    rows = []
    for rank in run.ranks:
        used = usage.get((rank.host, rank.rank))
        mean, peak = (used.mean, used.peak) if used else ((None,) * 4, (None,) * 4)
        last = (rank.cpu_percent, rank.memory_mib, rank.gpu_percent, rank.gpu_memory_mib)
        cpu, memory, gpu, gpu_memory = (
            last[column] if (value := (mean, peak)[column % 2][column]) is None else value for column in range(4)
        )
        rate = speed.get((rank.host, rank.rank)) or rank.samples_per_second
        rows.append({"rank": rank, "rate": rate, "cpu": cpu, "memory": memory, "gpu": gpu, "gpu_memory": gpu_memory})
    return rows


def render(run: RunData) -> str:
    """The page as one HTML document. Raises ModuleNotFoundError where jinja2 or matplotlib is not installed."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number, "rate": _rate, "percent": _percent, "memory": _memory, "count": _count,
        "duration": _duration, "since": _since, "alike": _alike, "moment": _moment, "link": quote,
    }  # fmt: skip
    plots = [(panel, _draw(panel) if panel.lines else None) for panel in _panels(run)]
    page = environment.get_template("report.html.j2").render(
        run=run,
        state=STATE_WORDS[run.state],
        headline=headline(run),
        cause_line=_cause_line(run),
        result=_result(run),
        plots=plots,
        rows=_rank_rows(run),
        has_gpu=_has_gpu(run),
        rate=sum(track.mean[1] or 0.0 for track in run.metrics) or None,
        ends={name: _ends((track,), 0) for name, track in run.logged.items()},
    )
    return page + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and prints its line. Returns 0, or 2 where no report could be made."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.report", description="Makes report.html of a run.")
    parser.add_argument("folder", type=Path, help="the run's folder, for example logs/20261124-0745")
    folder: Path = parser.parse_args(arguments).folder
    try:
        run = load(folder)
        write_atomic(folder / "report.html", render(run))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        what = f"`{folder / 'report.html'}` cannot be written: {error.strerror}"
        print(f"error: {what}\nhint: make the folder writable for you", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error}\nhint: make the report on the control node, with winfleet[control]", file=sys.stderr)
        return 2
    print(closing_line(run, folder / "report.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
