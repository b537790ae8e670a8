"""Rendezvous for PyTorch's elastic agent: keeps the plan's order of hosts, runs on stock Windows wheels, notices lost hosts.

The agent of machine_rank 0 holds the store. A generation is one start of all ranks: an agent that wants to run joins the
next generation, the others see it and restart too, and machine_rank 0 closes the generation with the list of its hosts.
torch finds it by the entry-point group `torchrun.handlers`, so `torchrun --rdzv-backend winfleet` works by hand as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler as torch_processes
from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, TCPStore
from torch.distributed.elastic.multiprocessing import api as torch_contexts
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from winfleet.core.plan import RANKS_PORT
from winfleet.machine.ports import listener

BEAT_SECONDS: Final = 1.0
LEFT: Final = "left"


class RunEndedError(RendezvousClosedError):
    """Another host ended the run; `reason` is what it said: {"machine_rank", "state", "text"}."""

    def __init__(self, reason: Mapping[str, Any]) -> None:
        super().__init__(str(reason.get("text", "the run has ended")))
        self.reason = dict(reason)


class PlanRendezvous(RendezvousHandler):
    """See the module. Beats go through the store: a host whose beat does not change for `lost_after` seconds is lost."""

    def __init__(
        self,
        *,
        run_id: str,
        machine_rank: int,
        num_machines: int,
        address: str,
        min_machines: int | None = None,
        ranks_port: int = RANKS_PORT,
        agents_port: int | None = None,
        start_timeout: float = 600.0,
        lost_after: float = 10.0,
        names: Mapping[int, str] | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Connects nothing yet. Times are in seconds; agents_port is the ranks' next by default.

        `watch` is called at each look of the agent at its ranks, and may raise to end them.
        """
        self.run_id, self.machine_rank, self.num_machines = run_id, machine_rank, num_machines
        self.min_machines = num_machines if min_machines is None else min_machines
        self.address, self.ranks_port = address, ranks_port
        self.agents_port = ranks_port + 1 if agents_port is None else agents_port
        self.start_timeout, self.lost_after = start_timeout, lost_after
        self.names = names or {}
        self.watch = watch or (lambda: None)
        self.generation = 0
        self.hosts: list[int] = []  # machine ranks of this generation
        self._store: PrefixStore | None = None
        self._beats: dict[int, tuple[bytes, float]] = {}  # machine_rank -> its last beat, when that was new
        self._beat_at = 0.0

    def get_backend(self) -> str:
        """The name that torchrun knows it by."""
        return "winfleet"

    def get_run_id(self) -> str:
        """The run's name."""
        return self.run_id

    @property
    def use_agent_store(self) -> bool:
        """False: the ranks make a store of their own on ranks_port, which obeys USE_LIBUV=0."""
        return False

    @property
    def store(self) -> PrefixStore:
        """The agents' own store, connected at the first use. Raises RendezvousTimeoutError where it cannot be had."""
        if self._store is None:
            tcp = self._host_store() if self.machine_rank == 0 else self._join_store()
            self._store = PrefixStore(self.run_id, tcp)
        return self._store

    def _host_store(self) -> TCPStore:
        return TCPStore(
            self.address, self.agents_port, None, True, timedelta(seconds=self.start_timeout),
            wait_for_workers=False, master_listen_fd=listener(self.address, self.agents_port), use_libuv=False,
        )  # fmt: skip

    def _join_store(self) -> TCPStore:
        limit = timedelta(seconds=self.start_timeout)
        try:
            return TCPStore(self.address, self.agents_port, None, False, limit, use_libuv=False)
        except (DistNetworkError, DistStoreError) as error:
            raise RendezvousTimeoutError(
                f"{self._name(self.machine_rank)} could not reach {self._name(0)} at {self.address}:{self.agents_port} "
                f"within {self.start_timeout:.0f} s ({type(error).__name__})"
            ) from None

    def next_rendezvous(self) -> RendezvousInfo:
        """Joins the next generation with all hosts. Raises RendezvousTimeoutError naming who did not come, or RunEndedError."""
        deadline = time.monotonic() + self.start_timeout
        self.hosts = []
        while self.machine_rank not in self.hosts:
            self.generation = self.store.add("generation", 0) + 1
            store = self._join_generation(deadline)
        os.environ["WINFLEET_GENERATION"] = str(self.generation)  # TORCHELASTIC_RESTART_COUNT differs from host to host
        bootstrap = RendezvousStoreInfo(self.address, self.ranks_port)
        return RendezvousInfo(store, self.hosts.index(self.machine_rank), len(self.hosts), bootstrap)

    def _join_generation(self, deadline: float) -> PrefixStore:
        store = PrefixStore(f"generation{self.generation}", self.store)
        store.set(f"joined{self.machine_rank}", "")
        store.add("joins", 1)
        while not store.check(["hosts"]):
            self._beat()
            self._raise_if_ended()
            joined = [rank for rank in range(self.num_machines) if store.check([f"joined{rank}"])]
            if time.monotonic() > deadline:
                missing = [self._name(rank) for rank in range(self.num_machines) if rank not in joined]
                raise RendezvousTimeoutError(f"{', '.join(missing)} did not come within {self.start_timeout:.0f} s")
            if self.machine_rank == 0 and self._is_complete(joined):
                self.store.set("generation", str(self.generation))
                store.set("hosts", json.dumps(joined))
            time.sleep(0.05)
        self.hosts = json.loads(store.get("hosts"))
        return store

    def _is_complete(self, joined: list[int]) -> bool:
        return len(joined) >= self.min_machines and len(self._lost().union(joined)) == self.num_machines

    def num_nodes_waiting(self) -> int:
        """Asked by the agent at every look at its ranks: above 0 it restarts them, which costs it no retry.

        Raises RunEndedError where another host ended the run, or where this one finds that too few hosts are left.
        """
        self._beat()
        self._raise_if_ended()
        self.watch()
        if self.machine_rank == 0 and (lost := self._lost() & set(self.hosts)):
            if len(self.hosts) - len(lost) < self.min_machines:
                self._end_for_lost(sorted(lost))
            return len(lost)
        return self.joins()

    def joins(self) -> int:
        """How many hosts wait for the next generation."""
        return int(PrefixStore(f"generation{self.generation + 1}", self.store).add("joins", 0))

    def wait_for_others(self, timeout: float) -> None:
        """At a good end: says that this host is done, and, on the store's host, waits until all others are (seconds).

        The store's host cannot leave first. Raises RunEndedError where the run failed elsewhere meanwhile.
        """
        self.store.set(f"done{self.machine_rank}", "")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._beat()
            self._raise_if_ended()
            waiting = [rank for rank in self.hosts if not self.store.check([f"done{rank}"])]
            if not waiting or self.machine_rank != 0:
                return
            if gone := [rank for rank in self._lost() if rank in waiting]:
                self._end_for_lost(gone)
            time.sleep(0.2)

    def wait_for_end(
        self, timeout: float, unless: Callable[[], bool] = lambda: False, pause_seconds: float = 0.2
    ) -> None:
        """Waits for another host's word or its loss (seconds), or for what `unless` tells. Raises RunEndedError on the first two."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not unless():
            self._beat()
            self._raise_if_ended()
            if self.machine_rank == 0 and (lost := self._lost() & set(self.hosts)):
                self._end_for_lost(sorted(lost))
            time.sleep(pause_seconds)

    def end(self, state: str, text: str) -> None:
        """Ends the run for all hosts: their next look raises RunEndedError with this. The first word stands."""
        reason = json.dumps({"machine_rank": self.machine_rank, "state": state, "text": text})
        with contextlib.suppress(RuntimeError):  # the store's host may have gone before us
            self.store.compare_set("ended", "", reason)

    def _end_for_lost(self, lost: list[int]) -> None:
        names = ", ".join(self._name(rank) for rank in lost)
        self.end("failed", f"lost {names}: no beat of its launcher for {self.lost_after:.0f} s")
        self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        try:
            if self.store.check(["ended"]):
                raise RunEndedError(json.loads(self.store.get("ended")))
        except (DistNetworkError, DistStoreError):
            raise RunEndedError({"machine_rank": 0, "state": "failed", "text": self.lost_store()}) from None

    def lost_store(self) -> str:
        """The sentence for the end of machine_rank 0's launcher."""
        return f"lost {self._name(0)}: its launcher, which holds the agents' store, is gone"

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            self._beat_at = time.monotonic()
            with contextlib.suppress(DistNetworkError, DistStoreError):  # _raise_if_ended says it better
                self.store.set(f"beat{self.machine_rank}", str(self._beat_at))

    def _lost(self) -> set[int]:
        """Machine ranks that left or fell silent before they were done. One never seen may still be starting."""
        lost = set()
        for rank in range(1, self.num_machines):
            if not self.store.check([f"beat{rank}"]) or self.store.check([f"done{rank}"]):
                continue
            beat, now = self.store.get(f"beat{rank}"), time.monotonic()
            if self._beats.get(rank, (b"", 0.0))[0] != beat:
                self._beats[rank] = beat, now
            if beat == LEFT.encode() or now - self._beats[rank][1] > self.lost_after:
                lost.add(rank)
        return lost

    def _name(self, machine_rank: int) -> str:
        return self.names.get(machine_rank, f"machine rank {machine_rank}")

    def is_closed(self) -> bool:
        """Whether some host ended the run."""
        return self._store is not None and self._store.check(["ended"])

    def set_closed(self) -> None:
        """Ends the run for all hosts."""
        self.end("finished", "the run has ended")

    def shutdown(self) -> bool:
        """Called by stock torchrun at its end, a good or a bad one."""
        if self._store is not None and (self.machine_rank == 0 or self.min_machines == self.num_machines):
            self.set_closed()
        elif self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set(f"beat{self.machine_rank}", LEFT)
        return True


def prepare_windows_agent() -> None:
    """What torch's agent needs on stock Windows wheels, for this process and the ranks that inherit from it."""
    os.environ["USE_LIBUV"] = "0"
    # torch ends ranks with CTRL_C_EVENT, which fails without a console; Popen makes TerminateProcess of SIGTERM
    for module in (torch_processes, torch_contexts):
        for name in ("_get_default_signal", "_get_kill_signal"):
            if hasattr(module, name):
                setattr(module, name, lambda: signal.SIGTERM)
    names = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT").split(",")
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(name for name in names if hasattr(signal, name))


def create_handler(parameters: RendezvousParameters) -> PlanRendezvous:
    """For stock torchrun and `accelerate launch`. Raises ValueError where the host's machine rank is not given."""
    machine_rank = parameters.get("rank", os.environ.get("WINFLEET_MACHINE_RANK"))
    if machine_rank is None:
        raise ValueError(
            "the winfleet rendezvous needs this host's machine rank\n"
            "hint: add `--rdzv-conf rank=1` (Accelerate: `--rdzv_conf rank=1`), or set WINFLEET_MACHINE_RANK"
        )
    if os.name == "nt":
        prepare_windows_agent()
    address, port = parse_rendezvous_endpoint(parameters.endpoint, RANKS_PORT)
    return PlanRendezvous(
        run_id=parameters.run_id, machine_rank=int(machine_rank), num_machines=parameters.max_nodes,
        min_machines=parameters.min_nodes, address=address, ranks_port=port,
        start_timeout=float(parameters.get("timeout", 900)), lost_after=float(parameters.get("lost_after", 10)),
    )  # fmt: skip


def get_handler() -> Callable[[RendezvousParameters], PlanRendezvous]:
    """Named by the entry point; torch calls it for the creator."""
    return create_handler
