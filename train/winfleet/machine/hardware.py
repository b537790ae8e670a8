"""What a host has and how busy it is: GPUs by NVML or nvidia-smi, processes and connections by psutil."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil
import pynvml

from winfleet.core.plan import PROBE_PORT, RANKS_PORT
from winfleet.machine.nvidia_smi import query
from winfleet.machine.ports import EVERYWHERE

MIB: Final = 2**20
SMI_SECONDS: Final = 5.0
NETWORK_SECONDS: Final = 10.0
SMI_FIELDS: Final = (
    "utilization.gpu",
    "memory.used",
    "memory.total",
    "temperature.gpu",
    "clocks.sm",
    "clocks.max.sm",
)  # as in Gpu


@contextlib.contextmanager
def _nvml() -> Iterator[bool]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or no GPU
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(count: int) -> list[int]:
    """NVML's indices of the GPUs that CUDA_VISIBLE_DEVICES leaves, in local_rank order (CUDA_DEVICE_ORDER=PCI_BUS_ID)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(range(count))
    return [int(index) for index in visible.split(",") if index.strip().isdigit() and int(index) < count]


def gpu_names() -> tuple[str, ...]:
    """Names of this host's NVIDIA GPUs in local_rank order; () without any."""
    with _nvml() as there:
        if not there:
            return ()
        names = [str(pynvml.nvmlDeviceGetName(_handle(index))) for index in range(pynvml.nvmlDeviceGetCount())]
    return tuple(names[index] for index in visible_gpus(len(names)))


def _handle(index: int) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


@dataclass(frozen=True, slots=True)
class Gpu:
    """How busy a GPU is now; None where its driver does not tell. Percent, MiB, degrees Celsius, MHz."""

    percent: float | None = None
    memory_mib: float | None = None
    memory_total_mib: float | None = None
    celsius: float | None = None
    mhz: float | None = None  # of its multiprocessors
    max_mhz: float | None = None


def _ask(question: Callable[..., Any], *words: Any) -> Any:
    """NVML's answer, None where the card or its driver has none: many a laptop's GPU tells no use."""
    with contextlib.suppress(pynvml.NVMLError):
        return question(*words)
    return None


def _look_by_nvml() -> list[Gpu]:
    found: list[Gpu] = []
    with _nvml() as there, contextlib.suppress(pynvml.NVMLError):
        for index in visible_gpus(pynvml.nvmlDeviceGetCount()) if there else []:
            handle = _handle(index)
            use, memory = (
                _ask(pynvml.nvmlDeviceGetUtilizationRates, handle),
                _ask(pynvml.nvmlDeviceGetMemoryInfo, handle),
            )
            found.append(
                Gpu(
                    percent=None if use is None else float(use.gpu),
                    memory_mib=None if memory is None else memory.used / MIB,
                    memory_total_mib=None if memory is None else memory.total / MIB,
                    celsius=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
                    mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
                    max_mhz=_ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
                )
            )
    return found


def _number(word: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(word)
    return None


def _look_by_smi() -> list[Gpu]:
    """`[N/A]` and the like are unknown values."""
    gpus = [Gpu(*map(_number, row)) for row in query("gpu", SMI_FIELDS, SMI_SECONDS)]
    return [gpus[index] for index in visible_gpus(len(gpus))]


class Gpus:
    """This host's GPUs in local_rank order: by NVML, else by nvidia-smi, which costs a process and so is asked seldom."""

    def __init__(self) -> None:
        self._last: list[Gpu] = []
        self._asked_at = -SMI_SECONDS

    def look(self) -> list[Gpu]:
        """[] where neither can tell."""
        if found := _look_by_nvml():
            return found
        if time.monotonic() - self._asked_at >= SMI_SECONDS:
            self._asked_at = time.monotonic()
            self._last = _look_by_smi()
        return self._last


class ProcessUse:
    """CPU use of processes since the last look: psutil needs two looks at the same object."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def look(self, pid: int) -> tuple[float | None, float | None]:
        """(percent of one core, resident memory in MiB); (None, None) for a process that is gone."""
        try:
            if pid not in self._processes:
                self._processes[pid] = psutil.Process(pid)
                self._processes[pid].cpu_percent()
                return None, self._processes[pid].memory_info().rss / MIB
            process = self._processes[pid]
            if process.status() == psutil.STATUS_ZOMBIE:
                return None, None
            return process.cpu_percent(), process.memory_info().rss / MIB
        except psutil.Error:
            return None, None


class Network:
    """This host's part in the run's connections. A look goes through all processes of the system, so it is kept for a while."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ports: tuple[int, ...] = ()  # of 29500-29504, those that this host listens on
        self.connections: dict[str, int] = {}  # by the other end's address: connections over port 29500
        self._looked_at = -NETWORK_SECONDS

    def look(self) -> None:
        """Brings both up to date, every NETWORK_SECONDS."""
        if time.monotonic() - self._looked_at < NETWORK_SECONDS:
            return
        self._looked_at = time.monotonic()
        with contextlib.suppress(psutil.Error, OSError, RuntimeError):  # what is not known must not end the status
            self.ports, self.connections = sort_connections(psutil.net_connections("tcp"), self.address)


def sort_connections(found: Sequence[Any], address: str) -> tuple[tuple[int, ...], dict[str, int]]:
    """The ports among 29500-29504 that are listened on at the address, and the peers of established connections on 29500.

    `found` is psutil.net_connections()'s. A port counts once, whichever of the two ends of a connection has it.
    """
    ours = range(RANKS_PORT, PROBE_PORT + 1)
    ports: set[int] = set()
    peers: Counter[str] = Counter()
    for one in found:
        if not one.laddr:
            continue
        local = one.laddr.ip.removeprefix("::ffff:")  # an IPv4 connection of an IPv6 socket
        if one.status == psutil.CONN_LISTEN and one.laddr.port in ours and local in (address, *EVERYWHERE):
            ports.add(one.laddr.port)
        elif (
            one.status == psutil.CONN_ESTABLISHED
            and local == address
            and RANKS_PORT in (one.laddr.port, one.raddr.port)
        ):
            peers[one.raddr.ip.removeprefix("::ffff:")] += 1
    return tuple(sorted(ports)), dict(peers)
