"""A host's status as Prometheus reads it: `GET /metrics` beside status.json, on port 29502."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from winfleet.core.status import STATES, Rank, Status

__all__ = ["CONTENT_TYPE", "expose"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LABELS: Final = ("run", "host", "rank")
RANK_STATES: Final = ("starting", "waiting", "joining", "joined", "training", "stuck", "ended")
BYTES_PER_MIB: Final = 2**20

Value = Callable[[Rank], float | None]


def _bytes(mebibytes: float | None) -> float | None:
    return None if mebibytes is None else mebibytes * BYTES_PER_MIB


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


GAUGES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("step", "Optimizer step, as the script counts", lambda rank: rank.step),
    ("loss", "Mean loss of the newest step noted", lambda rank: rank.loss),
    ("samples_per_second", "Samples trained on per second, this rank's own", lambda rank: rank.samples_per_second),
    ("steps_per_second", "Optimizer steps per second", lambda rank: rank.steps_per_second),
    ("compute_seconds", "Of one optimizer step: the rest", lambda rank: rank.compute_seconds),
    (
        "communication_seconds",
        "Of one optimizer step: waiting for other ranks",
        lambda rank: rank.communication_seconds,
    ),
    ("data_seconds", "Of one optimizer step: loading data", lambda rank: rank.data_seconds),
    ("gradient_bytes", "Size of the gradients", lambda rank: rank.gradient_bytes or None),
    ("cpu_ratio", "Use of CPU, 1 for one core", lambda rank: _ratio(rank.cpu_percent)),
    ("memory_bytes", "Resident memory of the process", lambda rank: _bytes(rank.memory_mib)),
    ("gpu_ratio", "Use of the GPU, 0 to 1", lambda rank: _ratio(rank.gpu_percent)),
    ("gpu_memory_bytes", "Memory used on the GPU, by all processes", lambda rank: _bytes(rank.gpu_memory_mib)),
    ("gpu_memory_total_bytes", "Memory of the GPU", lambda rank: _bytes(rank.gpu_memory_total_mib)),
    ("gpu_celsius", "Temperature of the GPU", lambda rank: rank.gpu_celsius),
    ("gpu_clock_hertz", "Clock of the GPU's multiprocessors", lambda rank: rank.gpu_mhz and rank.gpu_mhz * 1e6),
)


class _Ranks(Collector):
    """The gauges of one status. What was not measured has no sample."""

    def __init__(self, status: Status, now: float) -> None:
        self.status, self.now = status, now

    def collect(self) -> Iterator[Metric]:
        status = self.status
        for name, text, value in GAUGES:
            yield self._gauge(name, text, value)
        yield self._gauge(
            "beat_age_seconds", "Since the rank's last word", lambda rank: rank.beat and max(0.0, self.now - rank.beat)
        )
        states = GaugeMetricFamily("winfleet_rank_state", "1 for the rank's state", labels=[*LABELS, "state"])
        for rank in status.ranks:
            for state in RANK_STATES:
                states.add_metric([status.run, status.host, str(rank.rank), state], float(rank.state == state))
        yield states
        yield from self._of_host()

    def _gauge(self, name: str, text: str, value: Value) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"winfleet_{name}", text, labels=LABELS)
        for rank in self.status.ranks:
            if (found := value(rank)) is not None:
                family.add_metric([self.status.run, self.status.host, str(rank.rank)], found)
        return family

    def _of_host(self) -> Iterator[Metric]:
        status = self.status
        restarts = GaugeMetricFamily("winfleet_restarts", "Starts of all ranks after the first", labels=LABELS[:2])
        restarts.add_metric([status.run, status.host], status.generation - 1)
        peers = GaugeMetricFamily("winfleet_connections", "Connections over port 29500", labels=[*LABELS[:2], "peer"])
        for peer, count in status.connections.items():
            peers.add_metric([status.run, status.host, peer], count)
        states = GaugeMetricFamily("winfleet_state", "1 for the host's state", labels=[*LABELS[:2], "state"])
        for state in STATES:
            states.add_metric([status.run, status.host, state], float(status.state == state))
        yield from (restarts, peers, states)


def expose(status: Status, now: float) -> bytes:
    """The status in Prometheus's text format; `now` in unix seconds, for the age of the beats."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ranks(status, now))
    return generate_latest(registry)
