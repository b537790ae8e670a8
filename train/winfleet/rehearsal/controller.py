"""The controller's part of the rehearsal: asks the hosts (`winfleet.rehearsal.host`), judges, and measures what a prediction needs.

Whether the hosts are the same and reach each other is asked every time. What depends on hosts, code, settings and environment
alone (links, a step's compute, an all-reduce) is kept for some hours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from winfleet.core.files import write_atomic
from winfleet.core.plan import PROBE_PORT, RANKS_PORT, STATUS_PORT, Host, Plan
from winfleet.core.reading import Reader, plain
from winfleet.core.sending import Sending
from winfleet.preflight.problems import Problem, sort_out
from winfleet.rank.trial import Trial
from winfleet.rehearsal.checks import (
    Facts,
    as_closed,
    check_clocks,
    check_devices,
    check_folders,
    check_links,
    check_locks,
    check_memory,
    check_ports,
    check_reached,
    check_trials,
    check_versions,
    needed_ports,
    needed_targets,
    note_builds,
    note_names,
    note_slow_links,
    number,
)
from winfleet.rehearsal.links import Link, Target, reach, rounds
from winfleet.rehearsal.peers import Peer, PeerError, RefusedError, ask_all, kept_awake, peers_of

CLOCK_LOOKS: Final = 3
FACTS_SECONDS: Final = 60.0
REACH_SECONDS: Final = 15.0
RANKS_SECONDS: Final = 200.0
TRIAL_SECONDS: Final = 120.0  # from the command's start to its last timed step
REDUCE_SECONDS: Final = 75.0
REDUCE_GOAL: Final = 1.5  # seconds that one all-reduce may take by the links
REDUCE_BYTES: Final = (2**20, 2**28)
CPU: Final = "CPU"
MAX_WORDS: Final = 500  # of an exception
CHECKED_BY: Final = {"reach": "links", "measure": "links", "reduce": "links", "ranks": "versions"}  # operation -> check


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduce:
    """An all-reduce among all ranks of the plan, through the real backend."""

    bytes: int
    seconds: float  # of the slowest rank
    local_seconds: Mapping[str, float] = field(
        default_factory=dict
    )  # host with several ranks -> the same among them alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """What was measured of a cluster."""

    links: tuple[Link, ...] = ()
    trials: Mapping[str, Trial] = field(default_factory=dict)  # kind of GPU, or CPU -> what one process needs
    reduce: Reduce | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the rehearsal went."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    measured: Rehearsed = field(default_factory=Rehearsed)
    memory_free: Mapping[str, int] = field(default_factory=dict)  # bytes of each host, before its ranks started

    def lacks_memory(self, plan: Plan) -> list[Problem]:
        """Hosts on which the plan's way of averaging does not fit beside nothing else."""
        size = max((trial.gradient_bytes for trial in self.measured.trials.values()), default=0)
        return check_memory(plan, size, self.memory_free)


def kind_of(host: Host) -> str:
    """The name of its first GPU, or CPU."""
    return host.gpus[0] if host.gpus else CPU


def key_of(plan: Plan, *, links_alone: bool = False) -> str:
    """The same for plans whose measurements are the same."""
    hosts = [dataclasses.asdict(host) for host in plan.hosts]
    rest = dataclasses.asdict(dataclasses.replace(plan, run="any", sending=Sending()))
    text = json.dumps(hosts if links_alone else rest, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Shelf:
    """Measurements of earlier rehearsals, a file each, in a folder of the controller."""

    def __init__(self, folder: Path, hours: float) -> None:
        self.folder, self.hours = folder, hours

    def take(self, key: str) -> Rehearsed | None:
        """What was kept under the key; None where it is missing, too old, or of another version."""
        path = self.folder / f"{key}.json"
        try:
            if time.time() - path.stat().st_mtime < self.hours * 3600:
                return Reader(strict=True).read(Rehearsed, json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            pass
        return None

    def put(self, key: str, measured: Rehearsed) -> None:
        """Keeps it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / f"{key}.json", json.dumps(dataclasses.asdict(measured), indent=2) + "\n")


class Rehearsal:
    """One rehearsal of a plan's hosts, on which `winfleet.rehearsal.host` runs already."""

    def __init__(self, plan: Plan, token: str) -> None:
        self.plan, self.token = plan, token
        self.peers = peers_of(plan, token)
        self.facts: dict[str, Facts] = {}
        self.notes: list[str] = []
        self.lacking: list[tuple[str, str]] = []  # host, exception: what every rank of the run would meet

    def ask(
        self, operation: str, given: Mapping[str, Mapping[str, Any]], seconds: float
    ) -> tuple[dict[str, Any], list[Problem]]:
        """Asks hosts at once; their answers, and a problem for each that gave none."""
        answers, troubles = ask_all(self.peers, operation, given, seconds)
        return answers, [self.say_silent(name, operation, error) for name, error in troubles.items()]

    def say_silent(self, name: str, operation: str, error: PeerError) -> Problem:
        """A host that did not answer, or could not do what it was asked to."""
        if isinstance(error, RefusedError):
            return Problem(
                where=name, what=f"the rehearsal's `{operation}` failed: {error}",
                check=CHECKED_BY.get(operation, "reachable"),
                hint=f"look at {name}; to train without a rehearsal: -e fleet_rehearsal=false",
            )  # fmt: skip
        address = self.peers[name].address
        return Problem(
            where=name, what=f"{address}: {error}", check="reachable",
            hint=f"is {name} busy or asleep, and may this machine reach its TCP port {PROBE_PORT}?",
        )  # fmt: skip

    def everyone(self, given: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
        """The same arguments for every host."""
        return dict.fromkeys(self.peers, given or {})

    def judge(self) -> list[Problem]:
        """Everything that keeps this cluster from training, all at once: clocks, versions, folders, ports, every direction."""
        skews, problems = self.clocks()
        found, silent = self.ask("facts", {name: {} for name in skews}, FACTS_SECONDS)
        self.facts = {name: facts for name, values in found.items() if (facts := Facts.parse(values)) is not None}
        strange = RefusedError("an answer of the wrong form")
        problems += [*silent, *(self.say_silent(name, "facts", strange) for name in found if name not in self.facts)]
        problems += [*check_clocks(skews), *check_versions(self.facts)]
        problems += [*check_locks(self.facts, self.plan), *check_folders(self.facts, self.plan)]
        problems += self.reached() if set(self.facts) == set(self.peers) else []
        self.notes += [*note_builds(self.facts), *note_names(self.facts, self.plan)]
        return problems

    def clocks(self) -> tuple[dict[str, float], list[Problem]]:
        """Seconds that each host's clock is ahead of this one, by the quickest of some round trips; and who is silent."""

        def look(peer: Peer) -> float | PeerError:
            quickest, skew = float("inf"), 0.0
            try:
                for _ in range(CLOCK_LOOKS):
                    before = time.time()
                    theirs = peer.call("GET", "/clock").get("time")
                    after = time.time()
                    if not isinstance(theirs, int | float):
                        return PeerError("an answer that is no time")
                    if after - before < quickest:
                        quickest, skew = after - before, float(theirs) - (before + after) / 2
            except PeerError as error:
                return error
            return skew

        with ThreadPoolExecutor(max(1, len(self.peers))) as pool:
            found = dict(zip(self.peers, pool.map(look, self.peers.values()), strict=True))
        silent = [self.say_silent(name, "clock", skew) for name, skew in found.items() if isinstance(skew, PeerError)]
        return {name: skew for name, skew in found.items() if isinstance(skew, float)}, silent

    def reached(self) -> list[Problem]:
        """Every pair of hosts in both directions in one round, and this machine to each host's status."""
        ports = needed_ports(self.plan)
        refused, silent = self.ask("listen", {name: {"ports": ports[name]} for name in self.peers}, REACH_SECONDS)
        problems = silent + check_ports(
            {name: value for name, value in refused.items() if isinstance(value, dict)}, self.plan
        )
        if problems:
            return problems
        targets = needed_targets(self.plan, {name: facts.port for name, facts in self.facts.items()})
        given = {name: {"targets": [dataclasses.asdict(target) for target in targets[name]]} for name in self.peers}
        answers, silent = self.ask("reach", given, REACH_SECONDS)
        own = [Target(host=host.name, address=host.address, port=STATUS_PORT) for host in self.plan.hosts]
        closed = [("this machine", target, why) for target, why in reach(own, self.token)]
        for name, values in answers.items():
            closed += as_closed(name, values, targets[name])
        _, deaf = self.ask("listen", self.everyone({"ports": []}), REACH_SECONDS)
        return [*silent, *check_reached(closed, self.plan), *deaf]

    def links(self) -> tuple[list[Link], list[Problem]]:
        """Round trip and bandwidth of every pair in both directions, in rounds that do not disturb one another."""
        addresses = {host.name: host.address for host in self.plan.hosts}
        seconds = 1.0 if len(self.peers) <= 4 else 0.5
        found, problems = list[Link](), list[Problem]()
        for pairs in rounds(list(self.peers)):
            for way in (pairs, [(other, one) for one, other in pairs]):
                given = {
                    one: {"address": addresses[other], "port": self.facts[other].port, "seconds": seconds}
                    for one, other in way
                }
                answers, silent = self.ask("measure", given, REACH_SECONDS + seconds)
                problems += silent
                found += [as_link(one, other, answers[one]) for one, other in way if one in answers]
        given = {  # ranks of one host speak over its loopback
            host.name: {"address": host.address, "port": self.facts[host.name].port, "seconds": seconds}
            for host in self.plan.hosts
        }
        answers, silent = self.ask("measure", given, REACH_SECONDS + seconds)
        return found + [as_link(name, name, values) for name, values in answers.items()], problems + silent

    def devices(self) -> list[Problem]:
        """Starts the ranks: each imports torch and proves its device."""
        answers, silent = self.ask("ranks", self.everyone({"port": RANKS_PORT}), RANKS_SECONDS)
        return [*silent, *check_devices(answers, self.plan)]

    def trials(self, steps: int) -> dict[str, Trial]:
        """The user's command for some steps, on all hosts at once, as the run has it: hosts may share a machine or a disk.

        Of the hosts of one kind of GPU the slowest counts. What fails is a note, or stops the run where every rank would
        meet it: a package that is not there, a path that was not sent.
        """
        given = self.everyone({"steps": steps, "seconds": TRIAL_SECONDS})
        answers, troubles = ask_all(self.peers, "trial", given, TRIAL_SECONDS + 10)
        said = {name: str(why) for name, why in troubles.items()}
        found: dict[str, Trial] = {}
        for host in self.plan.hosts:
            answer = answers.get(host.name)
            exception = (
                plain(answer["exception"], MAX_WORDS) if isinstance(answer, dict) and "exception" in answer else ""
            )
            if exception and answer is not None and answer.get("lacks") is True:
                self.lacking.append((host.name, exception))
            elif exception:
                said[host.name] = exception
            elif (trial := Trial.parse(answer)) is not None:
                kind = kind_of(host)
                found[kind] = max(found.get(kind, trial), trial, key=lambda one: one.micro_batch_seconds)
        self.notes += [f"{name}: no prediction, the command was tried alone: {why}" for name, why in said.items()]
        return found

    def reduce(self, size: int) -> tuple[Reduce | None, list[Problem]]:
        """One all-reduce of so many bytes among all ranks."""
        answers, silent = self.ask("reduce", self.everyone({"bytes": size}), REDUCE_SECONDS)
        return as_reduce(size, answers, self.plan), silent


def as_link(source: str, target: str, values: object) -> Link:
    """What a host measured; 0 bytes/s where it says nothing of use."""
    known = values if isinstance(values, dict) else {}
    return Link(
        source=source, target=target, bytes_per_second=number(known.get("bytes_per_second"), 1e13),
        round_trip_seconds=number(known.get("round_trip_seconds"), 1e3),
    )  # fmt: skip


def as_reduce(size: int, answers: Mapping[str, Any], plan: Plan) -> Reduce | None:
    """What the ranks said of an all-reduce; None where one of them said nothing of use."""
    seconds, local = list[float](), dict[str, float]()
    for host in plan.hosts:
        values = answers.get(host.name)
        entries = [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []
        own = [number(entry.get("seconds"), 1e4) for entry in entries]
        if len(own) != host.processes or not all(own):
            return None
        seconds += own
        if found := [number(entry.get("local_seconds"), 1e4) for entry in entries]:
            local |= {host.name: max(found)} if max(found) else {}
    return Reduce(bytes=size, seconds=max(seconds), local_seconds=local) if seconds else None


def reduce_bytes(plan: Plan, links: Sequence[Link], trials: Mapping[str, Trial]) -> int:
    """The gradients' size, or as much of it as the slowest link carries in a moment: time grows with size from there on.

    A ring all-reduce sends 2 (R - 1) / R of the bytes over each link.
    """
    least, most = REDUCE_BYTES
    wanted = max((trial.gradient_bytes for trial in trials.values()), default=0) or 16 * least
    slowest = min((link.bytes_per_second for link in links), default=1e9)
    share = 2 * (plan.world_size - 1) / plan.world_size or 1.0
    return int(max(least, min(wanted, most, REDUCE_GOAL * slowest / share)))


def rehearse(plan: Plan, token: str, shelf: Shelf, steps: int, allowed: Sequence[str] = ()) -> Outcome:
    """The whole rehearsal. Where a trial is not wanted, `steps` is 0; `allowed` are the checks of fleet_warnings.

    Nothing is measured where a problem stops the run, or where hosts do not reach each other.
    """
    rehearsal = Rehearsal(plan, token)
    with kept_awake(rehearsal.peers.values()):
        problems = rehearsal.judge()
        stopping, _ = sort_out(problems, allowed)
        if stopping or any(problem.check == "links" for problem in problems):
            return Outcome(problems=tuple(problems), notes=tuple(rehearsal.notes))
        key = f"{key_of(plan)}-{steps}"
        measured = shelf.take(key)
        if measured is None:
            measured, found = measure(rehearsal, shelf, steps)
            problems += found
            if not found:
                shelf.put(key, measured)
        notes = (*rehearsal.notes, *note_slow_links(measured.links))
        free = {
            name: facts.memory_free_bytes
            for name, facts in rehearsal.facts.items()
            if facts.memory_free_bytes is not None
        }
        return Outcome(problems=tuple(problems), notes=notes, measured=measured, memory_free=free)


def measure(rehearsal: Rehearsal, shelf: Shelf, steps: int) -> tuple[Rehearsed, list[Problem]]:
    """Links, where none are kept; then every rank's device, and the command's own steps at the same time; then an all-reduce."""
    key = f"links-{key_of(rehearsal.plan, links_alone=True)}"
    kept = shelf.take(key)
    links, problems = (list(kept.links), []) if kept else rehearsal.links()
    problems += check_links(links)
    if problems:
        return Rehearsed(links=tuple(links)), problems
    shelf.put(key, Rehearsed(links=tuple(links)))
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(rehearsal.trials, steps) if steps else None
        problems += rehearsal.devices()
        trials = trying.result() if trying else {}
    problems += check_trials(rehearsal.lacking)
    if problems:
        return Rehearsed(links=tuple(links), trials=trials), problems
    reduce, problems = rehearsal.reduce(reduce_bytes(rehearsal.plan, links, trials))
    return Rehearsed(links=tuple(links), trials=trials, reduce=reduce), problems
