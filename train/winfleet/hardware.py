"""What a host has and how busy it is: GPUs by NVML, processes by psutil."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

import psutil
import pynvml

MIB: Final = 2**20


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


def gpu_use() -> list[tuple[float, float]]:
    """Use (percent) and memory used (MiB) of each GPU in local_rank order; [] where NVML cannot tell."""
    found: list[tuple[float, float]] = []
    with _nvml() as there, contextlib.suppress(pynvml.NVMLError):
        for index in visible_gpus(pynvml.nvmlDeviceGetCount()) if there else []:
            use = float(pynvml.nvmlDeviceGetUtilizationRates(_handle(index)).gpu)
            found.append((use, pynvml.nvmlDeviceGetMemoryInfo(_handle(index)).used / MIB))
    return found


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


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def owner_of_port(address: str, port: int) -> str:
    """Who listens there: "name (pid N)", or "an unknown process" where the system does not tell."""
    everywhere = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.pid or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.laddr.ip in (address, *everywhere):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "an unknown process"
