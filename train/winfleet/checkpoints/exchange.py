"""A host's part in making the newest checkpoint whole on every host, between the decision to start ranks and the first of them.

Each host tells what it has through the agents' store, the first one decides (agreement.py), and all do it. Whoever has nothing
to do waits: no rank starts anywhere before every host has what it lacked.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar

from winfleet.checkpoints.agreement import (
    Decision,
    ExchangeError,
    Holding,
    Inventory,
    Transfer,
    decide,
    families,
    say_size,
)
from winfleet.checkpoints.desk import GivingServer, Taker, checked
from winfleet.checkpoints.find import INCOMPLETE, find, may_count
from winfleet.checkpoints.whole import trouble_of
from winfleet.core.errors import HostError
from winfleet.core.files import replace, write_atomic
from winfleet.core.plan import SWARM_PORT, Host, Plan
from winfleet.core.serving import serving
from winfleet.machine.ports import wait_for_port
from winfleet.rank.aside import ASIDE
from winfleet.runs.record import outputs

BROUGHT: Final = (
    "brought.json"  # path below work/ -> what another host gave: size, mtime_ns there, own_mtime_ns, digest
)
MOST_FILES: Final = 20_000  # the newest
MOST_MEMBERS: Final = 10  # of a family, the newest, that are looked into
PROGRESS_SECONDS: Final = 15.0
T = TypeVar("T")


class Store(Protocol):
    """What is needed of the agents' store."""

    def set(self, key: str, value: str, /) -> None:
        """Makes it known to all."""

    def get(self, key: str, /) -> bytes:
        """What somebody made known."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all of them are known."""


Wait = Callable[[Callable[[], bool]], None]  # until it is true; raises where the run ends meanwhile


class Exchange:
    """See the module. `is_new`: the run's work folder was made by this very launch; `reached`: the step of an earlier one."""

    def __init__(
        self, plan: Plan, host: Host, folder: Path, say: Callable[[str], None], *, is_new: bool, reached: int = 0
    ) -> None:
        self.plan, self.host, self.folder, self.say = plan, host, folder, say
        self.work, self.is_new, self.reached = folder / "work", is_new, reached
        self.brought: dict[str, dict[str, Any]] = {}

    def prepare(self, store: Store, hosts: Sequence[int], wait: Wait) -> Decision:
        """Returns once the newest checkpoint is whole on all `hosts` (machine ranks). Raises ExchangeError and OSError."""
        mine = beside(self.look, wait)
        self.is_new = False
        store.set(f"has{self.host.machine_rank}", mine.to_json())
        if self.host.machine_rank == hosts[0]:
            keys = [f"has{rank}" for rank in hosts]
            wait(lambda: store.check(keys))
            have = {rank: Inventory.from_json(store.get(f"has{rank}")) for rank in hosts}
            tokens = {(one, other): secrets.token_hex(16) for one in hosts for other in hosts}
            store.set("decision", decide(have, tokens).to_json())
        wait(lambda: store.check(["decision"]))
        decision = Decision.from_json(store.get("decision"))
        if decision.aside or decision.transfers:
            self.carry_out(decision, store, hosts, wait)
        if decision.resume:
            self.say(f"Newest whole checkpoint of this run: {decision.resume}")
        return decision

    def carry_out(self, decision: Decision, store: Store, hosts: Sequence[int], wait: Wait) -> None:
        """This host's part: renames what is not whole, gives, takes, and waits for the others."""
        begin = time.monotonic()
        for text in decision.said:
            self.say(text)
        self.set_aside([place for place, ranks in decision.aside.items() if self.host.machine_rank in ranks])
        given = [one for one in decision.transfers if one.source == self.host.machine_rank]
        with contextlib.ExitStack() as stack:
            if given:
                wait_for_files_port(self.host)
                addresses = {host.machine_rank: host.address for host in self.plan.hosts}
                stack.enter_context(serving(GivingServer(self.host.address, SWARM_PORT, self.work, given, addresses)))
            self.take([one for one in decision.transfers if one.target == self.host.machine_rank], wait)
            store.set(f"whole{self.host.machine_rank}", "")
            wait(lambda: store.check([f"whole{rank}" for rank in hosts]))
        if decision.transfers:
            self.say(f"The newest checkpoint is whole on every host, after {time.monotonic() - begin:.1f} s")

    # -- what this host has

    def look(self) -> Inventory:
        """What it has of checkpoints; nothing where the run is new."""
        free = shutil.disk_usage(self.folder).free
        if self.is_new:
            return Inventory(host=self.host.name, free_bytes=free)
        self.brought = read_brought(self.folder)
        home = self.folder.parent.parent
        written = [
            path.relative_to(self.work).as_posix()
            for path in outputs(home, self.folder, self.plan.code, self.plan.data)
        ]
        names = [name for name in written if may_count(name)]
        stats = {name: (self.work / name).stat() for name in names}
        kept = sorted(names, key=lambda name: -stats[name].st_mtime_ns)[:MOST_FILES]
        files = {}
        for name in kept:
            brought = self.is_brought(name)
            mtime_ns = self.brought[name]["mtime_ns"] if brought else stats[name].st_mtime_ns
            files[name] = Holding(size=stats[name].st_size, mtime_ns=mtime_ns, brought=brought)
        bad, needs = look_into(self.work, kept)
        return Inventory(host=self.host.name, free_bytes=free, files=files, bad=bad, needs=needs)

    def is_brought(self, name: str) -> bool:
        """Whether another host gave this file, and nobody has touched it since."""
        known = self.brought.get(name)
        if known is None:
            return False
        found = (self.work / name).stat()
        return (found.st_size, found.st_mtime_ns) == (known["size"], known["own_mtime_ns"])

    def set_aside(self, places: Sequence[str]) -> None:
        """Renames what is not whole, and notes it, so that ranks do not see it (winfleet.rank.aside)."""
        new = [name for place in places if (name := set_aside(self.work, place))]
        if new:
            path = self.folder / ASIDE
            known = json.loads(path.read_text("utf-8")) if path.exists() else []
            write_atomic(path, json.dumps([*known, *new], ensure_ascii=False))

    # -- what it lacks

    def take(self, transfers: Sequence[Transfer], wait: Wait) -> None:
        """Brings what this host lacks, and says how far it is."""
        hosts = {host.machine_rank: host for host in self.plan.hosts}
        takers = [
            Taker(one, self.host.address, hosts[one.source].address, SWARM_PORT, hosts[one.source].name)
            for one in transfers
        ]
        scratch, total, said = self.folder / "bringing", sum(one.bytes for one in transfers), [time.monotonic()]

        def run() -> None:
            for taker in takers:
                for name, content in taker.take(self.work, scratch, self.is_brought):
                    self.note(name, content, taker.transfer.files[name])

        def tell() -> None:
            if time.monotonic() - said[0] > PROGRESS_SECONDS:
                said[0] = time.monotonic()
                done = sum(taker.bytes for taker in takers)
                self.say(f"{self.host.name} has {say_size(done)} of {say_size(total)} of the newest checkpoint")

        try:
            if takers:
                beside(run, wait, tell)
        finally:
            for taker in takers:
                taker.over.set()
            shutil.rmtree(scratch, ignore_errors=True)

    def note(self, name: str, content: str, version: tuple[int, int]) -> None:
        """Writes down that a file is another host's."""
        own = (self.work / name).stat().st_mtime_ns
        self.brought[name] = {"size": version[0], "mtime_ns": version[1], "own_mtime_ns": own, "digest": content}
        write_atomic(self.folder / BROUGHT, json.dumps(self.brought, ensure_ascii=False))


def wait_for_files_port(host: Host) -> None:
    """Until an earlier transfer has left it. Raises ExchangeError."""
    try:
        wait_for_port(host.address, SWARM_PORT)
    except HostError as error:
        raise ExchangeError(str(error)) from None


def look_into(work: Path, names: Collection[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Files of the newest checkpoints that cannot be whole, with why; and what their indexes of shards name."""
    bad, needs = {}, {}
    for family in families(find(names)):
        for name in (name for one in family[:MOST_MEMBERS] for name in one.files):
            if why := trouble_of(work / name):
                bad[name] = why
            elif name.endswith(".index.json"):
                needs[name] = shards_of(work, name)
    return bad, needs


def shards_of(work: Path, index: str) -> list[str]:
    """Paths of the files that an index of shards (model.safetensors.index.json) names; [] where it is another kind of file."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        shards = set(json.loads((work / index).read_bytes())["weight_map"].values())
        return sorted(str(PurePosixPath(index).parent / str(shard)) for shard in shards)
    return []


def read_brought(folder: Path) -> dict[str, dict[str, Any]]:
    """What other hosts gave; {} where nothing was."""
    try:
        values = json.loads((folder / BROUGHT).read_text("utf-8"))
        return {
            str(name): dict(entry)
            for name, entry in values.items()
            if {"size", "mtime_ns", "own_mtime_ns"} <= set(entry)
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def set_aside(work: Path, place: str) -> str:
    """Renames a file or folder that is not whole, if this host has it; its new name, from work/ on."""
    path, number = checked(work, place), 1
    target = path.with_name(path.name + INCOMPLETE)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{number}{INCOMPLETE}")
    if not path.exists():
        return ""
    replace(path, target)
    return target.relative_to(work).as_posix()


def beside(do: Callable[[], T], wait: Wait, meanwhile: Callable[[], None] = lambda: None) -> T:
    """Does it in a thread, as it may take minutes and a launcher that falls silent is lost; what it returns or raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(do())
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="winfleet-checkpoints")
    thread.start()

    def is_over() -> bool:
        meanwhile()
        return not thread.is_alive()

    wait(is_over)
    if errors:
        raise errors[0]
    return results[0]
