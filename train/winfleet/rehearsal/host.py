"""A host's part of the rehearsal: before any rank of a run exists, it tells what it has and measures what it is asked to.

    python -m winfleet.rehearsal.host --job job.json

runs on each host by the environment's Python. It listens on port 29504 of the host's plan address, for the cluster's
addresses and the controller alone, and does what `winfleet.rehearsal.controller` on the controller asks: nobody else knows the
token. It ends when it is told to, when the controller is not heard of for some seconds, and after its time limit; then
nothing of it is left on the host, neither processes nor files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from winfleet.core.errors import HostError
from winfleet.core.files import as_object, send_output_to, write_atomic
from winfleet.core.plan import PROBE_PORT, SWARM_PORT, Host, Plan, PlanError
from winfleet.core.serving import Handler, Server, serving
from winfleet.machine.ports import wait_for_port
from winfleet.machine.windows import end_children_with_me
from winfleet.rehearsal.child import Child, RehearseError
from winfleet.rehearsal.facts import tell
from winfleet.rehearsal.failures import lacks_something, trial_exception
from winfleet.rehearsal.links import LinkError, Listener, Target, bandwidth, reach, round_trip
from winfleet.runs.environment import prepare_environment
from winfleet.runs.work import fill_in, prepare_work

QUIET_SECONDS: Final = 15.0  # without a word from the controller, then this ends
LIMIT_SECONDS: Final = 900.0  # in any case
MOST_BODY: Final = 100_000
LINGER_SECONDS: Final = 10.0  # of an earlier transfer, at its port
RANK_SECONDS: Final = 180.0  # for `import torch` and a matrix product, on a PC whose scanner reads every file first
REDUCE_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a host's part is given: job.json, deleted once it was read."""

    host: str  # its name in the plan
    plan: str  # plan.json's text
    home: str  # fleet_home
    token: str
    controllers: tuple[str, ...] = ()  # addresses from which the controller comes
    port: int = PROBE_PORT

    @classmethod
    def take(cls, path: Path) -> Job:
        """Reads the file and deletes it. Raises RehearseError where it is no job."""
        try:
            values = json.loads(path.read_text("utf-8"))
            path.unlink()
            return cls(**{**values, "controllers": tuple(values["controllers"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RehearseError(f"{path} is no job: {error}") from None


class Rehearsal:
    """What this host does when it is asked; every operation takes and gives JSON values."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.plan = Plan.from_json(job.plan)
        self.host: Host = next(host for host in self.plan.hosts if host.name == job.host)
        self.allowed = {*(host.address for host in self.plan.hosts), *job.controllers}
        self.heard = time.monotonic()  # when the controller last asked for something
        self.over = threading.Event()
        self.results: dict[int, dict[str, Any]] = {}
        self.children: list[Child] = []
        self.ranks: list[Child] = []
        self._starter = ThreadPoolExecutor(1)  # Linux ends a rank with the thread that started it
        self._numbers = itertools.count(1)
        self._listeners: dict[int, Listener] = {}
        self._dynamic = Listener(self.host.address, 0, job.token, self.allowed)

    def begin(self, operation: str, given: Mapping[str, Any]) -> int:
        """Does it in a thread; its number. Raises KeyError where there is no such operation."""
        work: Callable[[Mapping[str, Any]], Any] = OPERATIONS[operation].__get__(self)
        number = next(self._numbers)
        self.results[number] = {"state": "running"}

        def run() -> None:
            try:
                self.results[number] = {"state": "done", "value": work(given)}
            except (RehearseError, LinkError, PlanError, OSError, ValueError, TypeError, KeyError) as error:
                self.results[number] = {"state": "failed", "cause": str(error) or type(error).__name__}

        threading.Thread(target=run, daemon=True, name=f"winfleet-{operation}").start()
        return number

    def facts(self, _given: Mapping[str, Any]) -> dict[str, Any]:
        """What this host has, and the port of the dynamic range on which it listens."""
        return {**tell(self.plan, Path(self.job.home)), "port": self._dynamic.port}

    def listen(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Listens on the `ports` and on no others; port -> why it cannot."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners, refused = {}, {}
        for port in given["ports"]:
            if port == SWARM_PORT:  # a transfer may just have told its end there
                with contextlib.suppress(HostError):
                    wait_for_port(self.host.address, port, LINGER_SECONDS)
            try:
                self._listeners[port] = Listener(self.host.address, int(port), self.job.token, self.allowed)
            except OSError as error:
                refused[str(port)] = str(error.strerror)
        return refused

    def reach(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Tries the `targets` [{"host", "address", "port"}]; those that are closed, each with `why`."""
        closed = reach([Target(**target) for target in given["targets"]], self.job.token)
        return [{**dataclasses.asdict(target), "why": why} for target, why in closed]

    def measure(self, given: Mapping[str, Any]) -> dict[str, float]:
        """Round trip (seconds) and bandwidth (bytes/s) to `address` and `port`, the latter for `seconds`."""
        target = (str(given["address"]), int(given["port"]), self.job.token)
        return {
            "round_trip_seconds": round_trip(*target),
            "bytes_per_second": bandwidth(*target, float(given["seconds"])),
        }

    def environment(self, rank: int, local_rank: int, world_size: int) -> dict[str, str]:
        """What a rank of the run would find."""
        environ = dict(os.environ)
        prepare_environment(self.plan, self.host, self.folder / "trial", console=False, environ=environ)
        return environ | {
            "RANK": str(rank), "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(min(world_size, self.host.processes)), "MASTER_ADDR": self.plan.hosts[0].address,
        }  # fmt: skip

    def start_ranks(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A process for each rank: imports torch and multiplies matrices on its device; what each says."""
        hosts = [[host.first_rank, host.processes] for host in self.plan.hosts]
        for local_rank in range(self.host.processes):
            rank = self.host.first_rank + local_rank
            environ = self.environment(rank, local_rank, self.plan.world_size)
            environ |= {"WINFLEET_DEVICE": "cuda" if self.host.gpus else "cpu", "WINFLEET_HOSTS": json.dumps(hosts)}
            environ["MASTER_PORT"] = str(given["port"])
            self.ranks.append(self.start(["-m", "winfleet.rehearsal.rank"], environ, self.folder))
        return [self.read_in_time(rank, RANK_SECONDS) for rank in self.ranks]

    def reduce(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One all-reduce of `bytes` among all ranks, through the real backend; what each rank says of its seconds."""
        answers: list[dict[str, Any]] = [{} for _ in self.ranks]
        troubles: list[str] = []

        def ask(index: int) -> None:
            try:
                answers[index] = self.ranks[index].ask({"bytes": int(given["bytes"])})
            except RehearseError as error:
                troubles.append(f"rank {self.host.first_rank + index}: {error}")

        asking = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(len(self.ranks))]
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + REDUCE_SECONDS
        for thread in asking:
            thread.join(max(0.0, deadline - time.monotonic()))
        silent = [str(self.host.first_rank + n) for n, thread in enumerate(asking) if thread.is_alive()]
        for rank in self.ranks:
            rank.end()
        if troubles:
            raise RehearseError(troubles[0])
        if silent:
            raise RehearseError(f"rank {', '.join(silent)} was not through after {REDUCE_SECONDS:.0f} s")
        return answers

    def try_command(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The user's own command as the only rank, for some `steps` and `seconds`, in a folder of its own; see trial.py."""
        place = self.folder / "trial"
        place.mkdir(exist_ok=True)
        work = prepare_work(self.plan, place)
        result, error_file = place / "trial.json", place / "error.json"
        with socket.socket() as free:
            free.bind((self.host.address, 0))
            port = free.getsockname()[1]
        environ = self.environment(0, 0, 1) | {
            "WINFLEET_TRIAL": str(int(given["steps"])), "WINFLEET_TRIAL_FILE": str(result), "WANDB_MODE": "disabled",
            "MASTER_ADDR": self.host.address, "MASTER_PORT": str(port), "WINFLEET_LOG": "console",
            "TORCHELASTIC_ERROR_FILE": str(error_file),
        }  # fmt: skip
        child = self.start(["-m", "winfleet.runner", *fill_in(self.plan.command, self.plan, place)], environ, work)
        deadline = time.monotonic() + float(given["seconds"])
        assert child.process.stdout is not None
        threading.Thread(target=child.process.stdout.read, daemon=True).start()  # else a full pipe would stop it
        while child.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        ended = child.process.poll()
        child.end()
        try:
            return as_object(result.read_text("utf-8"))
        except OSError:
            if ended is None:
                raise RehearseError(f"no optimizer step within {float(given['seconds']):.0f} s") from None
            if said := trial_exception(error_file):
                continued = (Path(self.job.home) / "runs" / self.plan.run / "work").exists()
                return {"exception": said, "lacks": not continued and lacks_something(said, work)}
            raise RehearseError(f"it ended before its second optimizer step: {child.last_words()}") from None

    def start(self, words: list[str], environment: Mapping[str, str], folder: Path) -> Child:
        """Starts a child that ends with this rehearsal."""
        if self.over.is_set():
            raise RehearseError("the rehearsal is over")
        log = self.folder / f"child{len(self.children)}.log"
        child = self._starter.submit(Child, words, environment, folder, log).result()
        self.children.append(child)
        return child

    def read_in_time(self, child: Child, seconds: float) -> dict[str, Any]:
        """The child's answer. Raises RehearseError where none comes in time."""
        watch = threading.Timer(seconds, child.end)
        watch.start()
        try:
            return child.read()
        finally:
            watch.cancel()

    def close(self) -> None:
        """Ends all that was started here, and removes the folder."""
        self.over.set()
        for child in self.children:
            child.end()
        if is_mine(self.folder):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):  # Windows keeps a log that is open
                os.dup2(nowhere, stream)
            shutil.rmtree(self.folder, ignore_errors=True)


OPERATIONS: Final[dict[str, Any]] = {
    "facts": Rehearsal.facts, "listen": Rehearsal.listen, "reach": Rehearsal.reach, "measure": Rehearsal.measure,
    "ranks": Rehearsal.start_ranks, "reduce": Rehearsal.reduce, "trial": Rehearsal.try_command,
}  # fmt: skip


class Desk(Handler):
    """POST /<operation> begins one, GET /<number> is its result so far, GET /clock this host's time, POST /end the end."""

    timeout = 10
    rehearsal: Rehearsal

    def do_GET(self) -> None:
        """A result, or the time."""
        if not self._known():
            return
        if self.path == "/clock":
            self.answer(200, json.dumps({"time": time.time()}))
            return
        number = int(self.path[1:]) if self.path[1:].isdecimal() and len(self.path) < 12 else 0
        found = self.rehearsal.results.get(number)
        self.answer(404 if found is None else 200, json.dumps(found))

    def do_POST(self) -> None:
        """Begins something, or ends all."""
        length = self.headers.get("Content-Length", "")
        if not self._known():
            return
        if not length.isdecimal() or int(length) > MOST_BODY:
            self.answer(413, f"at most {MOST_BODY} bytes")
            return
        given = as_object(self.rfile.read(int(length)))
        if self.path == "/end":
            self.answer(200, "{}")
            self.rehearsal.over.set()
            return
        try:
            self.answer(202, json.dumps({"number": self.rehearsal.begin(self.path[1:], given)}))
        except KeyError:
            self.answer(404, "no such operation")

    def _known(self) -> bool:
        if known := self.admits(self.rehearsal.job.token):
            self.rehearsal.heard = time.monotonic()
        return known


def is_mine(folder: Path) -> bool:
    """Whether no later rehearsal has taken the folder over."""
    try:
        return (folder / "owner").read_text("utf-8") == str(os.getpid())
    except OSError:
        return False


def serve(rehearsal: Rehearsal) -> None:
    """Answers until the end. Raises HostError or OSError where the port cannot be had."""
    job, address = rehearsal.job, rehearsal.host.address
    wait_for_port(address, job.port)
    handler = type("OwnDesk", (Desk,), {"rehearsal": rehearsal})
    with serving(Server(address, job.port, handler, rehearsal.allowed)):
        write_atomic(rehearsal.folder / "ready", "")
        begin = time.monotonic()
        while not rehearsal.over.wait(0.1):
            now = time.monotonic()
            if now - rehearsal.heard > QUIET_SECONDS or now - begin > LIMIT_SECONDS or not is_mine(rehearsal.folder):
                break


def main() -> None:
    """`python -m winfleet.rehearsal.host --job FILE`; the file's folder is the rehearsal's own."""
    parser = argparse.ArgumentParser(
        prog="python -m winfleet.rehearsal.host", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--job", type=Path, required=True, help="job.json; its folder is removed at the end")
    path: Path = parser.parse_args().job.resolve()
    folder = path.parent
    send_output_to(folder / "rehearsal.log")
    (folder / "owner").write_text(str(os.getpid()), "utf-8")
    try:
        end_children_with_me()
        rehearsal = Rehearsal(Job.take(path), folder)
    except (RehearseError, PlanError, OSError, StopIteration) as error:
        write_atomic(folder / "ready", str(error))
        sys.exit(1)
    try:
        serve(rehearsal)
    except (HostError, OSError) as error:
        write_atomic(folder / "ready", str(error))
        rehearsal.over.wait(2.0)  # for whoever waits for that file
    finally:
        rehearsal.close()
    os._exit(0)  # threads may still wait for peers


if __name__ == "__main__":
    main()
