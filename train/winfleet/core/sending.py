"""What ranks send of their training, and how often: part of the plan."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

AUTO: Final = "auto"  # of average_every: the rehearsal says it; until then gradients are sent
KINDS: Final = ("fp32", "fp16")
BITS: Final = (32, 16, 8, 4)
SHORT_ROUND, MUCH_MOMENTUM = 32, 0.5  # steps below which so much momentum overshoots (bench/averaging_loss.jsonl)
SENDING: Final = "WINFLEET_SENDING"  # the environment variable by which ranks know


class SendingError(ValueError):
    """A setting that cannot be; the text names it, the value and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """The settings fleet_gradients and fleet_average_*. Raises SendingError where one cannot be."""

    gradients: str = "fp32"  # or fp16: DDP's, on each step
    average_every: int = 0  # optimizer steps in which hosts send nothing; 0: gradients are sent on each step
    average_bits: int = 8  # of each number that is then sent
    average_outer: tuple[float, float] = (1.0, 0.5)  # learning rate and momentum of the step that is made of the mean

    def __post_init__(self) -> None:
        if self.gradients not in KINDS:
            raise SendingError(f"fleet_gradients: {self.gradients}\nhint: {' or '.join(KINDS)}")
        if self.average_every < 0 or self.average_every == 1:
            raise SendingError(
                f"fleet_average_every: {self.average_every}\n"
                "hint: 2 or more optimizer steps, auto, or 0, which sends gradients on each step"
            )
        if self.average_bits not in BITS:
            raise SendingError(f"fleet_average_bits: {self.average_bits}\nhint: {', '.join(map(str, BITS))}")
        lr, momentum = self.average_outer
        if not (0 < lr <= 2 and 0 <= momentum < 1):
            raise SendingError(
                f"fleet_average_outer: [{lr:g}, {momentum:g}]\n"
                "hint: a learning rate above 0 and up to 2, and a momentum from 0 to below 1, as [1.0, 0.5]"
            )

    @classmethod
    def of_settings(cls, given: Mapping[str, Any]) -> Sending:
        """From what a user wrote: gradients, average_every, average_bits and average_outer. Raises SendingError."""
        return cls(
            gradients=str(given["gradients"]),
            average_every=0 if given["average_every"] == AUTO else _whole("average_every", given["average_every"]),
            average_bits=_whole("average_bits", given["average_bits"]), average_outer=_pair(given["average_outer"]),
        )  # fmt: skip

    @classmethod
    def of_plan(cls, values: Mapping[str, Any] | None) -> Sending:
        """As a plan's JSON has it; plans of older versions have none. Raises TypeError where it is something else."""
        return cls() if values is None else cls(**{**values, "average_outer": tuple(values["average_outer"])})

    def notes(self, hosts: int, backend: str) -> list[str]:
        """What of it has no effect, or little, in a run on so many hosts."""
        if not self.average_every:
            return []
        if hosts == 1:
            return [
                f"fleet_average_every: {self.average_every} has no effect on one host, whose ranks send gradients on each step"
            ]
        found = []
        if self.average_every < SHORT_ROUND and self.average_outer[1] >= MUCH_MOMENTUM:
            found.append(
                f"fleet_average_outer: a momentum of {self.average_outer[1]:g} overshoots in rounds of {self.average_every} steps; "
                f"take none, [1.0, 0.0], or fleet_average_every: {SHORT_ROUND}"
            )
        if self.gradients != "fp32":
            found.append(
                f"fleet_gradients: {self.gradients} has no effect beside fleet_average_every, which sends none between hosts"
            )
        if backend == "nccl":
            found.append(
                "fleet_average_every gains nothing on the fast networks that NCCL hosts often have; the prediction tells"
            )
        return found

    def memory_bytes(self, gradient_bytes: int, processes: int, hosts: int) -> int:
        """Of a host's memory that averaging takes beside a training without it; `gradient_bytes` are those of weights in fp32.

        Each process has the anchor and the change, the first one the momentum of its segment and what it sends and gets.
        """
        if not self.average_every or hosts < 2:
            return 0
        momentum = gradient_bytes // hosts if self.average_outer[1] else 0
        on_way = 4 * gradient_bytes * self.average_bits // 32 * (hosts - 1) // hosts  # shares and updates, both ways
        return 2 * gradient_bytes * processes + momentum + on_way

    def export(self, processes: Sequence[int], environ: MutableMapping[str, str]) -> None:
        """Lets ranks know by the environment, where there is anything to know; `processes` are those of each host in order."""
        environ.pop(SENDING, None)
        averages = self.average_every > 0 and len(processes) > 1
        if sum(processes) > 1 and (averages or self.gradients != "fp32"):
            sending = self if averages else dataclasses.replace(self, average_every=0)
            environ[SENDING] = json.dumps({"sending": dataclasses.asdict(sending), "processes": list(processes)})

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> tuple[Sending, tuple[int, ...]] | None:
        """What export() wrote: the settings, and the processes of each host; None: nothing to do."""
        if SENDING not in environ:
            return None
        told = json.loads(environ[SENDING])
        return cls.of_plan(told["sending"]), tuple(told["processes"])


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError(value)
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise SendingError(f"fleet_{name}: {value}\nhint: a whole number") from None


def _pair(value: Any) -> tuple[float, float]:
    words = re.split(r"[\s,]+", value.strip("[] ")) if isinstance(value, str) else value
    try:
        lr, momentum = (float(word) for word in words)
    except (TypeError, ValueError):
        raise SendingError(f"fleet_average_outer: {value}\nhint: two numbers, as [1.0, 0.5]") from None
    return lr, momentum
