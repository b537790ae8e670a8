"""A host's notice board: gathers what its ranks say, writes status.json once a second and serves it over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import threading
import time
from pathlib import Path
from typing import Final

from winfleet.core.files import read_object, write_atomic
from winfleet.core.plan import Host, Plan
from winfleet.core.serving import Handler, Server, serving
from winfleet.core.status import (
    APART_ALONE,
    APART_FIXES,
    ENDED,
    READER,
    Cause,
    Event,
    Rank,
    Status,
    count,
    progress_line,
    trained_apart,
)
from winfleet.launcher.joining import BEFORE
from winfleet.launcher.stuck import Lookout
from winfleet.machine.hardware import Gpu, Gpus, Network, ProcessUse

log = logging.getLogger("winfleet")

USED: Final = ("rank", "cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib", "gpu_celsius")  # of usage.jsonl
TICK_SECONDS: Final = 1.0
CONSOLE_SECONDS: Final = 5.0
FIRST_SECONDS: Final = 15.0  # after the start; until then the last status stays up for a reader who has not come yet
MAX_EVENTS: Final = 500  # the newest: a rank may stop and go for days
LINGER_SECONDS: Final = 5.0  # the last status stays up for a reader who has asked in the last LINGER_SECONDS


class Board:
    """Everything that shows this host reads what is written here and nothing else."""

    def __init__(self, plan: Plan, host: Host, folder: Path, *, console: bool) -> None:
        """`folder` is runs/<run>; with `console` progress goes to the log as well, as there is nobody else to show it."""
        self.plan, self.host, self.folder, self.console = plan, host, folder, console
        self.status = Status(
            run=plan.run, host=host.name, machine_rank=host.machine_rank, state="starting",
            world_size=plan.world_size, gpus=bool(host.gpus), started=time.time(),
            launcher_pid=os.getpid(), versions=versions(),
            ranks=tuple(Rank(rank=host.first_rank + n, local_rank=n) for n in range(host.processes)),
        )  # fmt: skip
        self._begun = time.monotonic()
        self.told = threading.Event()  # somebody has read the last status
        self.asked_at = 0.0  # when somebody last read the status over HTTP
        self._use, self._gpus, self._network = ProcessUse(), Gpus(), Network(host.address)
        self.lookout = Lookout(folder, host.name, plan.stuck_seconds)
        self._said: set[str] = set()
        self._console_at = 0.0
        self._lock = threading.RLock()  # the agent's thread notes events too
        self._stop = threading.Event()
        self._usage = (folder / "usage.jsonl").open("a", encoding="utf-8", buffering=1)
        self._thread = threading.Thread(target=self._run, daemon=True, name="winfleet-board")
        self._served: contextlib.ExitStack | None = None  # once somebody may ask

    def serve(self, port: int) -> None:
        """Starts to answer GET /status.json, and /metrics for Prometheus, on the plan's address. Raises OSError where the port is taken."""
        board = self

        class Desk(Handler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self.give_metrics()
                elif self.path == "/status.json":
                    board.asked_at, status = time.monotonic(), board.status
                    self.answer(200, status.to_json(), "application/json")
                    if status.state in ENDED:
                        board.told.set()
                else:
                    self.answer(404, "only /status.json and /metrics are here")

            def give_metrics(self) -> None:
                try:
                    from winfleet.launcher.metrics import CONTENT_TYPE, expose
                except ModuleNotFoundError:
                    self.answer(404, "prometheus_client is not installed in this environment")
                    return
                self.answer(200, expose(board.status, time.time()), CONTENT_TYPE)

        self._served = contextlib.ExitStack()
        self._served.enter_context(serving(Server(self.host.address, port, Desk)))

    def start(self) -> None:
        """Writes the first status now and the next ones from a thread."""
        self.tick()
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self.tick()
            except OSError as error:  # a full disk must not end the training
                log.warning("status not written: %s", error)

    def tick(self) -> None:
        """Looks at the ranks once, writes status.json and a line of usage.jsonl, and says what is new."""
        with self._lock:
            self._network.look()
            ranks, news = self.lookout.judge(self.read_ranks())
            state = self.status.state
            if state == "starting" and any(rank.state == "training" or rank.count for rank in ranks):
                state = "running"
            self.status = dataclasses.replace(
                self.status, ranks=ranks, state=state, time=time.time(), ports=self._network.ports,
                connections=self._network.connections,
            )  # fmt: skip
            self._say_milestones()
            for text in news:
                self.note(text, "stuck")
            write_atomic(self.folder / "status.json", self.status.to_json())
        use = [{name: getattr(rank, name) for name in USED} for rank in ranks if rank.memory_mib is not None]
        if use:
            self._usage.write(json.dumps({"time": round(time.time(), 3), "ranks": use}) + "\n")
        if self.console and time.monotonic() - self._console_at >= CONSOLE_SECONDS and self.status.state not in ENDED:
            self._console_at = time.monotonic()
            log.info(progress_line([self.status]))

    def read_ranks(self) -> tuple[Rank, ...]:
        """The ranks of this generation, as they last said, with their use of CPU and GPU."""
        gpus = self._gpus.look() if self.host.gpus else []
        return tuple(self._read_rank(rank, gpus) for rank in self.status.ranks)

    def _read_rank(self, rank: Rank, gpus: list[Gpu]) -> Rank:
        values = read_object(self.folder / f"rank{rank.rank}.json")
        if values.get("generation") != self.status.generation:
            return dataclasses.replace(rank, state="starting")
        said = dataclasses.replace(rank, **READER.members(Rank, values))
        if said.pid is None or said.exit_code is not None:
            return said
        cpu, memory = self._use.look(said.pid)
        gpu = gpus[rank.local_rank] if rank.local_rank < len(gpus) else Gpu()
        use = {f"gpu_{name}": value for name, value in dataclasses.asdict(gpu).items()}
        return dataclasses.replace(said, cpu_percent=cpu, memory_mib=memory, **use)

    def _say_milestones(self) -> None:
        """The guide's log lines, each once a generation, each when it is true."""
        ranks, plan = self.status.ranks, self.plan
        joined = [rank for rank in ranks if rank.state not in BEFORE and rank.apart != APART_ALONE]
        if (apart := trained_apart([rank for rank in ranks if rank.count])) and plan.world_size > 1:
            self.say(f"Not distributed: each rank trains a model of its own, {apart}; {APART_FIXES[apart]}", event=True)
        for rank in joined:
            self.say(f"Rank {rank.rank}/{plan.world_size} initialized")
        if len(joined) == len(ranks):  # a process group stands only once every rank of it is there
            self.say("All processes joined successfully")
        if any(rank.state == "training" or rank.count for rank in ranks):
            noun = "GPU" if all(host.gpus for host in plan.hosts) else "process"
            self.say(
                f"Training started with {count(plan.world_size, noun)} across {count(len(plan.hosts), 'node')}",
                event=True,
            )

    def say(self, text: str, *, event: bool = False, kind: str = "") -> None:
        """Logs the line once; an event also goes into the status."""
        if text in self._said:
            return
        self._said.add(text)
        if event:
            self.note(text, kind)
        else:
            log.info(text)

    def note(self, text: str, kind: str) -> None:
        """Logs an event and adds it to the status, as often as it happens."""
        log.info(text)
        with self._lock:
            events = (*self.status.events, Event(time=time.time(), text=text, kind=kind))
            self.status = dataclasses.replace(self.status, events=events[-MAX_EVENTS:])

    def begin_generation(self, generation: int) -> None:
        """The ranks start anew."""
        with self._lock:
            if generation != self.status.generation:
                self._said.clear()
                self.lookout.begin_generation()
                ranks = tuple(Rank(rank=rank.rank, local_rank=rank.local_rank) for rank in self.status.ranks)
                self.status = dataclasses.replace(self.status, generation=generation, ranks=ranks, state="starting")
                self.say(f"Restarted: attempt {generation}", event=True, kind="restart")

    def end(self, state: str, cause: Cause | None, exit_codes: dict[int, int]) -> None:
        """Writes the last status, lets a reader who follows the run see it, and closes."""
        self._stop.set()
        self._thread.join(timeout=5)
        with self._lock:
            self.status = dataclasses.replace(self.status, ranks=self.read_ranks())
            self._say_milestones()  # a run of a second has passed them all since the last look
            good = 0 if state == "finished" else None
            ranks = tuple(
                dataclasses.replace(rank, state="ended", exit_code=exit_codes.get(rank.rank, good))
                for rank in self.status.ranks
            )
            self.status = dataclasses.replace(self.status, ranks=ranks, state=state, cause=cause, time=time.time())
            self.say(f"Run {state}", event=True)
            write_atomic(self.folder / "status.json", self.status.to_json())
        self._usage.close()
        if self._served is not None:
            # a run of a second may be over before its first reader comes
            now = time.monotonic()
            wait = LINGER_SECONDS if self.asked_at else self._begun + FIRST_SECONDS - now
            if not self.console and (not self.asked_at or now - self.asked_at < LINGER_SECONDS):
                self.told.wait(max(0.0, wait))
            self._served.close()


def versions() -> dict[str, str]:
    """Python, platform, and the packages that a run depends on, without importing them."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "accelerate", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
