"""Runs a host's ranks under PyTorch's elastic agent and says how they ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError

from winfleet.checkpoints.exchange import Exchange
from winfleet.core.files import end_of, write_atomic
from winfleet.core.plan import Host, Plan
from winfleet.core.reading import plain
from winfleet.core.status import MAX_LINES, STOP_AT, STOPPING, Cause
from winfleet.launcher.board import Board
from winfleet.launcher.going_on import GoingOn
from winfleet.launcher.halving import Halving
from winfleet.launcher.joining import Joining
from winfleet.launcher.rendezvous import PlanRendezvous, RunEndedError, prepare_windows_agent
from winfleet.launcher.stuck import Alarm

MONITOR_SECONDS: Final = 0.2
KILL_SECONDS: Final = 5  # between asking a rank to end and ending it; the whole cluster must be down in 15
SETTLE_SECONDS: Final = 2.5  # after which all ranks hold still, and what they have done has been told
ONE_DAY: Final = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the host's part of the run ended."""

    state: str  # finished, failed or stopped
    cause: Cause | None = None
    exit_codes: dict[int, int] = field(default_factory=dict)  # by rank, of those that failed


class Stop:
    """A request to stop: anyone's file `stop`, made known to all hosts, answered by one step at which all ranks end."""

    def __init__(self, folder: Path, board: Board) -> None:
        self.folder, self.board = folder, board
        self.asked_at: float | None = None  # monotonic seconds
        self._grace = 60.0
        self._told = False  # how far our ranks are
        self._step: int | None = None

    def look(self, rendezvous: PlanRendezvous) -> None:
        """Called at each look of the agent. Ends the run for all where the ranks did not come to an end in time."""
        store, now = rendezvous.store, time.monotonic()
        if self.asked_at is None:
            if (self.folder / "stop").exists():
                store.set("stop", (self.folder / "stop").read_text("utf-8"))
            if not store.check(["stop"]):
                return
            self.asked_at, self._grace = now, grace_seconds(store.get("stop"))
            write_atomic(self.folder / STOPPING, "")
            self.board.say("Asked to stop: checkpoint, then exit", event=True)
        if not self._told and now - self.asked_at > SETTLE_SECONDS:
            self._told = True  # hosts that average every few steps stand at different ones
            steps = max((rank.count for rank in self.board.status.ranks), default=0)
            store.set(f"stop_count/{rendezvous.machine_rank}", str(steps))
        counts = [f"stop_count/{machine_rank}" for machine_rank in rendezvous.hosts]
        if self._step is None and rendezvous.machine_rank == 0 and self._told and store.check(counts):
            furthest = max(int(store.get(count)) for count in counts)
            store.set("stop_at", str(furthest + 2))  # one step may still have been under way
        if self._step is None and store.check(["stop_at"]):
            self._step = int(store.get("stop_at"))
            write_atomic(self.folder / STOP_AT, str(self._step))
        if now - self.asked_at > self._grace:
            rendezvous.end(
                "stopped", f"ranks did not reach the end of a step within {self._grace:.0f} s and were ended"
            )

    def look_early(self, rendezvous: PlanRendezvous) -> None:
        """Called while no rank is there yet: there is nothing to wait for."""
        self.look(rendezvous)
        if self.asked_at is not None:
            rendezvous.end("stopped", "asked to stop before its ranks were started")


def grace_seconds(text: bytes) -> float:
    """What a stop file says, {"grace_seconds": 60}; 60 where it says nothing."""
    try:
        return float(json.loads(text)["grace_seconds"])
    except (ValueError, KeyError, TypeError):
        return 60.0


class Agent(LocalElasticAgent):
    """torch's agent, which tells the board of each generation, the other hosts of a failure, and waits for them at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        rendezvous: PlanRendezvous,
        halving: Halving,
        going_on: GoingOn,
        before: Callable[[], None],
        log_folder: Path,
    ) -> None:
        """`before` is called before the first rank of each generation."""
        super().__init__(spec, logs_specs=DefaultLogsSpecs(log_dir=str(log_folder)), shutdown_timeout=KILL_SECONDS)
        self.rendezvous, self.halving, self.board, self.before = rendezvous, halving, halving.board, before
        self.going_on = going_on

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        worker_group.spec.args = ("-m", "winfleet.runner", *self.halving.begin(self.rendezvous))
        self.board.begin_generation(self.rendezvous.generation)
        self.before()
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        over = result.state in (WorkerState.FAILED, WorkerState.UNHEALTHY)
        if result.state != WorkerState.SUCCEEDED and self.halving.found(self.rendezvous.generation):
            return self._go_on(result, over=over or self.halving.overdue())
        if over and not self._is_echo_of_memory(result) and self._remaining_restarts == 0:
            outcome = failed(result, self.board.host, self.board.folder)
            if outcome.cause is not None and not outcome.cause.is_echo:  # an echo's cause is known elsewhere
                self.going_on.ask(self.rendezvous, outcome.cause.text)
                self._end_for_all()
        return result

    def _go_on(self, result: RunResult, *, over: bool) -> RunResult:
        """A rank of ours ran out of memory: all start again with a smaller batch, which costs no retry, or all end."""
        smaller = self.halving.settle(self.rendezvous)  # the others may know at once
        if not over:
            return result
        self._remaining_restarts = self._remaining_restarts + 1 if smaller else 0
        if not smaller:
            self._end_for_all()
        return RunResult(state=WorkerState.FAILED, failures=result.failures)

    def _is_echo_of_memory(self, result: RunResult) -> bool:
        """Whether our ranks only failed as another host's ran out of memory; that host may tell a moment later."""
        outcome = failed(result, self.board.host, self.board.folder)
        if outcome.cause is not None and outcome.cause.is_echo and len(self.rendezvous.hosts) > 1:
            with contextlib.suppress(RunEndedError):  # which is found again
                self.rendezvous.wait_for_end(self.rendezvous.lost_after + 2.0, unless=self._heard)
        if not self.halving.elsewhere(self.rendezvous):
            return False
        self._remaining_restarts += 1
        return True

    def _heard(self) -> bool:
        return self.halving.elsewhere(self.rendezvous) or self.rendezvous.joins() > 0

    def _end_for_all(self) -> None:
        """Before our own ranks are stopped, which takes seconds."""
        self.rendezvous.end("failed", f"a rank on {self.board.host.name} failed")

    def _exit_barrier(self) -> None:
        self.rendezvous.wait_for_others(ONE_DAY)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = KILL_SECONDS) -> None:
        super()._shutdown(death_sig, min(timeout, KILL_SECONDS))


def run_ranks(
    plan: Plan,
    host: Host,
    folder: Path,
    command: list[str],
    board: Board,
    ports: tuple[int, int],
    exchange: Exchange | None,
) -> Outcome:
    """Starts the host's ranks and stays until all have ended.

    `command` is what the runner is given; `ports` are the ranks' and the agents'; `exchange` makes checkpoints whole before
    ranks start. Ranks inherit this process's environment and folder.
    """
    stop, alarm, halving = Stop(folder, board), Alarm(board.lookout), Halving(command, host, folder, board)
    joining, going_on = Joining(host, plan, board.lookout), GoingOn(plan, host, board, exchange, stop.look_early)

    def watch() -> None:
        stop.look(rendezvous)
        alarm.look(rendezvous.store)
        halving.look()
        going_on.look(rendezvous)
        ranks, now = board.status.ranks, time.monotonic()
        if why := joining.failure(rendezvous.store, rendezvous.generation, ranks, now):
            rendezvous.end("failed", why)
        if text := joining.news(ranks, now):
            board.note(text, "stuck")

    def before() -> None:
        going_on.before(rendezvous)
        joining.begin(rendezvous.generation, time.monotonic())

    rendezvous = PlanRendezvous(
        run_id=plan.run, machine_rank=host.machine_rank, num_machines=len(plan.hosts), address=plan.hosts[0].address,
        ranks_port=ports[0], agents_port=ports[1], start_timeout=plan.start_timeout_seconds,
        names={other.machine_rank: other.name for other in plan.hosts}, watch=watch,
    )  # fmt: skip
    if os.name == "nt":
        prepare_windows_agent()
    spec = WorkerSpec(
        role="default", local_world_size=host.processes, entrypoint=sys.executable, rdzv_handler=rendezvous,
        max_restarts=plan.max_restarts, monitor_interval=MONITOR_SECONDS,
    )  # fmt: skip
    agent = Agent(spec, rendezvous, halving, going_on, before, folder / "errors")

    def run() -> RunResult:
        if host.machine_rank == 0:
            halving.publish(rendezvous)
        result: RunResult = agent.run()
        return result

    outcome = judge(run, rendezvous, host, folder, stop)
    with contextlib.suppress(OSError):  # ranks that were through before the last look
        board.tick()
    halving.look()
    if outcome.cause is not None:
        outcome = dataclasses.replace(outcome, cause=going_on.explain(outcome.cause))
    return say_memory(outcome, halving) if outcome.state == "failed" and halving.kept else outcome


def say_memory(outcome: Outcome, halving: Halving) -> Outcome:
    """The outcome with the rank that ran out of memory as its cause, and why its batch was not made smaller."""
    note = halving.note
    assert note is not None
    code = outcome.exit_codes.get(note.rank)
    return dataclasses.replace(outcome, cause=Cause(
        host=halving.host.name, rank=note.rank, exit_code=code, text=note.failure(halving.kept),
        lines=last_lines(halving.folder / f"rank{note.rank}.log"), time=outcome.cause.time if outcome.cause else time.time(),
    ))  # fmt: skip


def judge(
    run: Callable[[], RunResult | None], rendezvous: PlanRendezvous, host: Host, folder: Path, stop: Stop
) -> Outcome:
    """Runs the agent and turns its results and exceptions into an outcome, which the other hosts learn too."""
    try:
        result = run()
    except RunEndedError as error:
        state = str(error.reason.get("state", "failed"))
        cause = Cause(host=host.name, text=plain(error), time=time.time())
        return Outcome(state=state, cause=cause)
    except SignalException as error:
        text = f"the launcher was ended by {signal.Signals(error.sigval).name}"
        rendezvous.end("stopped", f"{text} on {host.name}")
        return Outcome(state="stopped", cause=Cause(host=host.name, text=text, time=time.time()))
    except (DistNetworkError, DistStoreError):  # of the agents' store
        return Outcome(state="failed", cause=Cause(host=host.name, text=rendezvous.lost_store(), time=time.time()))
    except (RendezvousError, RuntimeError, OSError) as error:
        rendezvous.end("failed", plain(error))
        return Outcome(state="failed", cause=Cause(host=host.name, text=plain(error), time=time.time()))
    if result is None or not result.is_failed():
        return Outcome(state="finished" if stop.asked_at is None else "stopped")
    outcome = failed(result, host, folder)
    if outcome.cause is not None and outcome.cause.is_echo:
        return find_cause_of_echo(outcome, rendezvous, host)
    return outcome


def find_cause_of_echo(outcome: Outcome, rendezvous: PlanRendezvous, host: Host) -> Outcome:
    """Waits for another host's word on why its ranks are gone, or for the silence that shows it to be lost."""
    try:
        rendezvous.wait_for_end(rendezvous.lost_after + 2.0)
    except RunEndedError as error:
        cause = Cause(host=host.name, text=plain(error), time=time.time())
        return dataclasses.replace(outcome, cause=cause)
    rendezvous.end("failed", f"a rank on {host.name} failed")
    return outcome


def failed(result: RunResult, host: Host, folder: Path) -> Outcome:
    """The outcome for ranks that failed: the cause is the first that does not only echo another's end."""
    causes = [as_cause(rank, failure, host, folder) for rank, failure in result.failures.items()]
    first = min(causes, key=lambda cause: cause.weight, default=None)
    return Outcome(state="failed", cause=first, exit_codes={rank: f.exitcode for rank, f in result.failures.items()})


def as_cause(rank: int, failure: ProcessFailure, host: Host, folder: Path) -> Cause:
    """What torch's agent knows of a rank that failed, with the last lines of its log."""
    text = failure.message
    if isinstance(text, dict):
        text = text.get("message", "")
    text = plain(text).strip()
    if not text or "errors.html" in text:  # torch's own hint, where the rank wrote no exception
        text = f"ended by {failure.signal_name()}" if failure.exitcode < 0 else "ended without an exception"
    lines = last_lines(folder / f"rank{rank}.log")
    return Cause(
        host=host.name, rank=rank, exit_code=failure.exitcode, text=text, lines=lines, time=float(failure.timestamp)
    )


def last_lines(path: Path) -> tuple[str, ...]:
    """The last lines of a log, () where there is none."""
    return tuple(plain(line, 500) for line in end_of(path, 16_384).splitlines()[-MAX_LINES // 2 :])
