"""The status of a run: what launchers and ranks write, and how it is read, summed up and shown.

A status file comes from another machine: it is read as data, with types checked, texts cut and control characters removed.
`python -m winfleet.status` shows a run while it goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from winfleet.core.causes import ECHO, LAUNCHER, advise, advise_on_rank, name_exit_code
from winfleet.core.plan import STATUS_PORT
from winfleet.core.reading import Paragraph, Reader, plain
from winfleet.core.serving import ask

STATES: Final = ("starting", "running", "finished", "failed", "stopped", "lost")
ENDED: Final = ("finished", "failed", "stopped", "lost")
SILENT_SECONDS: Final = 15.0  # a launcher writes every second; after this without a word it is lost
MAX_BYTES: Final = 1_000_000
READER: Final = Reader()
MAX_LINES: Final = 40

# Files in a run's folder by which its ranks learn of a request to stop: that there is one, and the step that ends the run.
STOPPING, STOP_AT = "stopping", "stop_at"
# Variables by which they learn that the run is a continued one: its newest whole checkpoint, from the work folder on, and
# whether its user does not want that one to be loaded ("1").
RESUME, NO_RESUME = "WINFLEET_RESUME", "WINFLEET_NO_RESUME"
# How ranks train apart, although they belong to one run.
APART_ALONE: Final = "without a process group"
APART_SILENT: Final = "without an exchange of gradients"
APART_FIXES: Final = {
    APART_ALONE: (
        "call torch.distributed.init_process_group() in plain torch, or train with Accelerator(); give Lightning devices and "
        "num_nodes, and let no option choose one device alone"
    ),
    APART_SILENT: (
        "wrap the model: torch.nn.parallel.DistributedDataParallel(model), or accelerator.prepare(model), and train what it "
        "returns"
    ),
}


def stop_step(path: Path) -> int | None:
    """The optimizer step after which a rank is to stop, None where nobody asked (or asked with what is no number)."""
    if not path.exists():
        return None
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text("utf-8"))
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One rank as its launcher sees it. Rates are this rank's own; percent of one core (CPU) or of the GPU; MiB."""

    rank: int
    local_rank: int = 0
    pid: int | None = None
    state: str = "starting"  # starting, waiting (for ranks that have not come), joining, joined, training, stuck, ended
    count: int = 0  # optimizer steps of this process
    step: int = 0  # as the script counts
    begun: int | None = None  # step after which this process went on, once the script has told its steps
    optimizer_begun: int | None = None  # steps that its optimizer had done before, as its state tells
    steps: int | None = None
    stride: int = 1  # by which `step` grows with an optimizer step, as where the script counts micro-batches
    loss: float | None = None
    loss_told: bool = False  # whether the loss is what the script logged, and not measured from beside
    samples_per_second: float | None = None
    steps_per_second: float | None = None
    data_seconds: float | None = None  # of one optimizer step, in the mean: loading data,
    communication_seconds: float | None = None  # waiting for other ranks,
    compute_seconds: float | None = None  # and the rest
    gradient_bytes: int = 0
    rounds: int = 0  # in which hosts have averaged their weights,
    round_bytes: int = 0  # what this host has sent in them,
    round_seconds: float = (
        0.0  # how long this rank was in them, most of it waiting for slower hosts where there are any,
    )
    spread: float | None = None  # and how far its weights were from the mean in the last one, as a share of their norm
    meets: bool = False  # it has come to an exchange of weights, and waits for ranks that have not
    batch_size: int | None = None  # samples of a micro-batch
    micro_batches: int | None = None  # backward passes of an optimizer step
    moves: int = 0  # batches, backward passes, collectives and steps so far
    place: str | None = None  # where it stands while it does not move: train.py:88 in main, in all_reduce
    waits: bool = False  # whether that is a place where ranks wait for one another
    apart: str = ""  # how it trains apart from the others, one of APART_*
    anew: bool = False  # the script said that it does not go on from a checkpoint
    loaded: bool = False  # it has read one, whatever it took of it
    stopped: bool = False
    cpu_percent: float | None = None
    memory_mib: float | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_memory_total_mib: float | None = None
    gpu_celsius: float | None = None
    gpu_mhz: float | None = None  # clock of its multiprocessors now,
    gpu_max_mhz: float | None = None  # and at most
    beat: float | None = None  # unix seconds
    exit_code: int | None = None

    @property
    def reached(self) -> int:
        """Its step, counted from the run's first one also where the optimizer's state alone tells what was done before."""
        return self.step if self.begun is not None else self.step + (self.optimizer_begun or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a rank, or a whole host, failed."""

    host: str
    text: Paragraph  # the exception, or a sentence
    rank: int | None = None
    exit_code: int | None = None
    lines: Annotated[tuple[Annotated[str, 500], ...], -MAX_LINES] = ()  # the last ones of the rank's log
    time: float = 0.0  # unix seconds, by the host's own clock

    @property
    def is_echo(self) -> bool:
        """Whether it only says that the connection to another rank has ended."""
        return bool(ECHO.search(self.text))

    @property
    def weight(self) -> tuple[int, float]:
        """What a rank itself said comes first, then what its launcher found, then echoes; of equals the earliest."""
        return (2 if self.is_echo else 1 if self.rank is None else 0, self.time)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something worth a line in the report."""

    time: float
    text: str
    kind: str = ""  # restart, oom, stuck: marked in the report's plots


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """status.json of one host."""

    run: str
    host: str
    machine_rank: int
    state: str
    world_size: int
    gpus: bool = False
    generation: int = 1
    time: float = 0.0
    started: float = 0.0
    launcher_pid: int | None = None
    versions: Mapping[Annotated[str, 40], Annotated[str, 100]] = field(default_factory=dict)
    ports: tuple[Annotated[int, (1, 65536)], ...] = ()  # of 29500-29504, those that this host listens on
    connections: Mapping[Annotated[str, 60], Annotated[int, (0, 2**31)]] = field(
        default_factory=dict
    )  # address: connections with it over port 29500
    ranks: tuple[Rank, ...] = ()
    cause: Cause | None = None
    events: tuple[Event, ...] = ()

    def to_json(self) -> str:
        """The status as it is written to status.json."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


class StatusError(ValueError):
    """A status that cannot be read."""


def parse(text: str | bytes) -> Status:
    """Reads status.json. Raises StatusError where it is too big, no JSON, or lacks what every status has."""
    if len(text) > MAX_BYTES:
        raise StatusError(f"a status of {len(text)} bytes")
    try:
        status = READER.read(Status, json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise StatusError(f"a status that cannot be read: {plain(error, 200)}") from None
    if status.state not in STATES:
        raise StatusError(f"a status with the unknown state {status.state!r}")
    return status


def read_file(path: Path) -> Status | None:
    """A status.json that came from elsewhere; None where it is missing, too big or none. Raises OSError where it may not be read."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    try:
        return parse(path.read_bytes())
    except StatusError:
        return None


def fetch(address: str, port: int = STATUS_PORT, timeout: float = 2.0) -> Status:
    """Asks a launcher (seconds). Raises OSError where none answers, StatusError where what answers is no status."""
    try:
        code, body = ask(address, port, "/status.json", timeout, MAX_BYTES)
    except http.client.HTTPException as error:
        if isinstance(error, OSError):  # it went away
            raise
        raise StatusError(f"{address}:{port}: {plain(error, 200)}") from None
    if code != 200:
        raise StatusError(f"{address}:{port} answered {code}: no winfleet launcher")
    return parse(body)


def overall_state(statuses: Sequence[Status]) -> str:
    """failed, lost or stopped if one host is; running while one still runs; starting until all run; else finished."""
    states = {status.state for status in statuses}
    for state in ("failed", "lost", "stopped"):
        if state in states and states <= set(ENDED):
            return state
    if "failed" in states:
        return "failed"
    return next((state for state in ("starting", "running") if state in states), "finished")


def first_failure(statuses: Sequence[Status]) -> Cause | None:
    """The failure that the others followed from: not an echo if there is one that is not, then the earliest."""
    causes = [status.cause for status in statuses if status.cause is not None]
    return min(causes, key=lambda cause: cause.weight, default=None)


def name_failure(cause: Cause) -> str:
    """The failure in one sentence: host, rank, exit code, exception."""
    who = cause.host if cause.rank is None else f"rank {cause.rank} on {cause.host}"
    code = "" if cause.exit_code is None else f" (exit code {name_exit_code(cause.exit_code)})"
    return f"{who} failed{code}: {cause.text}"


def describe_failure(cause: Cause) -> str:
    """The failure with the last lines of its log and, where the table of causes knows it, why and what to do."""
    tail = "".join(f"\n  | {line}" for line in cause.lines)
    return f"{name_failure(cause)}{tail}{advise_on(cause)}"


def advise_on(cause: Cause) -> str:
    """Why and what to do, two lines that begin with a line break; "" where it has a hint already, or the table of causes does not know it."""
    if "\nhint: " in cause.text:
        return ""
    if cause.rank is None:
        return advise(cause.text, cause.host, LAUNCHER)
    return advise_on_rank(cause.text, cause.host, cause.exit_code, cause.lines)


def duration(seconds: float) -> str:
    """0:42, 12:05 or 3:07:10."""
    minutes, seconds = divmod(round(min(max(0.0, seconds), 1e9)), 60)  # a status may say anything
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def count(number: int, noun: str, form: str = "") -> str:
    """1 process, 2 processes, 8 GPUs."""
    return f"{number:{form}} {noun}" if number == 1 else f"{number:{form}} {noun}{'es' if noun.endswith('s') else 's'}"


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0 and 2`, `ranks 0-3 and 7`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    texts = [
        text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(rank) for rank in run])
    ]
    listed = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def progress_line(statuses: Sequence[Status]) -> str:
    """One line: step of steps, loss (mean of the ranks), samples/s (sum), time left, ranks up."""
    ranks = [rank for status in statuses for rank in status.ranks]
    world_size = max((status.world_size for status in statuses), default=0)
    up = sum(rank.state in ("joined", "training", "stuck") for rank in ranks)
    training = [rank for rank in ranks if rank.state in ("training", "stuck", "ended") and rank.step]
    ready = f"{up}/{world_size} ranks up"
    if stuck := [rank.rank for rank in ranks if rank.state == "stuck"]:
        ready += f" · {name_ranks(stuck)} stuck"
    if not training:
        return f"{overall_state(statuses)} · {ready}"
    step, steps = min(rank.step for rank in training), training[0].steps
    loss = _mean(
        [rank.loss for rank in [rank for rank in training if rank.loss_told] or training if rank.loss is not None]
    )
    parts = [f"step {step}/{steps}" if steps else f"step {step}"]
    parts += [f"loss {loss:.3f}"] if loss is not None else []
    parts += filter(None, [pace(training)])
    left = time_left(statuses)
    parts += [f"{duration(left)} left"] if left is not None else []
    parts += [f"not distributed: each rank trains {apart}"] if (apart := trained_apart(ranks)) else []
    return " · ".join([*parts, ready])


def pace(ranks: Sequence[Rank]) -> str:
    """`30.0 samples/s`, the sum of all ranks, or that of each where they train apart; without samples `5.0 steps/s`; or ""."""
    rates = [rank.samples_per_second for rank in ranks if rank.samples_per_second]
    if rates and trained_apart(ranks):
        return f"{sum(rates) / len(rates):.1f} samples/s each"
    if rates:
        return f"{sum(rates):.1f} samples/s"
    steps = min((rank.steps_per_second for rank in ranks if rank.steps_per_second), default=None)
    return "" if steps is None else f"{steps:.1f} steps/s" if steps >= 1 else f"{steps:.3g} steps/s"


def trained_apart(ranks: Sequence[Rank]) -> str:
    """How the ranks train apart, "" where they train together or one is alone."""
    found = next((rank.apart for rank in ranks if rank.apart), "")
    return found if found in APART_FIXES else ""


def time_left(statuses: Sequence[Status]) -> float | None:
    """Seconds to the last step at the slowest rank's present pace; None where the script did not tell its steps."""
    ranks = [rank for status in statuses for rank in status.ranks]
    return max(
        (
            max(0, rank.steps - rank.step) / (rank.steps_per_second * max(1, rank.stride))
            for rank in ranks
            if rank.steps and rank.steps_per_second
        ),
        default=None,
    )
