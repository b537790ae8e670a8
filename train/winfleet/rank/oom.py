"""What a rank that ran out of GPU memory leaves behind, and the smaller batch with which all ranks start again.

The effective batch stays: the batch is divided by its smallest prime factor, and the accumulation is multiplied by it. So 8 x 2
becomes 4 x 4, 6 becomes 3, and 7 becomes 1 at once. Where the result could not be the same training, nothing is changed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from winfleet.core.files import as_object, read_object, write_atomic
from winfleet.core.reading import Paragraph, Reader
from winfleet.rank.batch_settings import Setting, find_both

# Of the GPU alone: more memory of the host (DefaultCPUAllocator, MemoryError) is another matter.
WORDS: Final = re.compile(
    r"(CUDA|HIP|XPU) out of memory|(CUDA|HIP|XPU) error: out of memory|Cuda failure \d+ 'out of memory'"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED"
)
MAX_SIZES: Final = 16  # sizes of batches in a note; a script that draws more kinds has no one batch size


class KeptError(RuntimeError):
    """Why the batch is not made smaller. The table of causes knows what to do then."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it, or an error that it came from, says that a GPU's memory is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if type(error).__name__ == "OutOfMemoryError" or WORDS.search(str(error)):
            return True
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """rank<r>.oom.json: written by the runner as the last thing of a rank that ran out of memory."""

    rank: int
    generation: int
    step: int = 0  # as the script counts
    text: Paragraph = ""
    sizes: tuple[int, ...] = ()  # of the batches it drew from torch's DataLoader
    waiting: bool = False  # its DataLoader had given no batch yet
    saved: bool = False  # it saved or loaded a checkpoint through Accelerate
    told: Mapping[str, int] = field(default_factory=dict)  # whole numbers that it said to its trackers

    def failure(self, kept: str) -> str:
        """The cause of the run's end, where the batch was kept for that reason. The table of causes has these words."""
        return f"{self.text}\nno smaller batch: {kept}"

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        write_atomic(folder / f"rank{self.rank}.oom.json", json.dumps(dataclasses.asdict(self)))


def read_note(folder: Path, rank: int, generation: int) -> Note | None:
    """The rank's note of this generation, None where it left none."""
    note = Reader().read_or_none(Note, read_object(folder / f"rank{rank}.oom.json"))
    return note if note is not None and note.generation == generation else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Batch divided and accumulation multiplied by `factor`, since the user's values; the same on all hosts."""

    host: str
    rank: int
    generation: int  # the one in which the memory ran out, 0 for an earlier launch of the same run
    step: int
    saved: bool
    batch: Setting
    accumulation: Setting
    factor: int
    factor_before: int = 1

    @property
    def values(self) -> tuple[tuple[Setting, int], ...]:
        """Both settings with their new values."""
        return (self.batch, self.batch.value // self.factor), (self.accumulation, self.accumulation.value * self.factor)

    @property
    def event(self) -> str:
        """The line for who watches."""
        before = self.batch.value // self.factor_before, self.accumulation.value * self.factor_before
        changes = ", ".join(
            f"{setting.name} {old} -> {new}" for old, (setting, new) in zip(before, self.values, strict=True)
        )
        if not self.generation:
            return f"Goes on with a smaller batch, as this run ran out of memory before: {changes}"
        begin = (
            "the newest checkpoint" if self.saved else "the beginning, unless the script finds a checkpoint of its own"
        )
        return (
            f"OOM on rank {self.rank} of {self.host} at step {self.step}: {changes}; all ranks start again from {begin}"
        )

    def to_json(self) -> str:
        """The change as it is in the launchers' store and in oom.json."""
        return json.dumps(dataclasses.asdict(self))


def read_change(text: str | bytes) -> Change | None:
    """A change of another machine's text, None where it is none: types are checked, as for a status."""
    change = Reader(strict=True).read_or_none(Change, as_object(text))
    return change if change is not None and change.batch.value >= change.factor > 0 else None


def smallest_factor(number: int) -> int:
    """The smallest prime factor of a number from 2 on."""
    return next((factor for factor in range(2, int(number**0.5) + 1) if number % factor == 0), number)


def decide(words: Sequence[str], note: Note, host: str, before: Change | None) -> Change:
    """The next smaller batch of the command, after `before`. Raises KeptError where there is none, or it is not sure."""
    if note.waiting:
        raise KeptError("no batch was drawn yet, so the model alone does not fit")
    factor = 1 if before is None else before.factor
    batch, accumulation = find_both(words, note.told) if before is None else (before.batch, before.accumulation)
    if batch is None:
        raise KeptError("the command does not say its batch size in one place")
    now = batch.value // factor
    if now < 2:
        raise KeptError(f"{batch.name} is {now} already")
    if accumulation is None:
        raise KeptError(
            f"{batch.name} is {now}, and nothing says how many batches make a step, so the effective batch would change"
        )
    drawn = [size for size in note.sizes if size]
    if drawn and now not in drawn:
        raise KeptError(
            f"{batch.name} is {now}, but the script drew batches of {', '.join(map(str, drawn))}, so it means something else"
        )
    return Change(
        host=host, rank=note.rank, generation=note.generation, step=note.step, saved=note.saved, batch=batch,
        accumulation=accumulation, factor=factor * smallest_factor(now), factor_before=factor,
    )  # fmt: skip


def check_taken(expected: Mapping[str, int], told: Mapping[str, int], sizes: Collection[int]) -> None:
    """As a changed training begins; `expected` has the batch first. Raises RuntimeError where the script took other values."""
    drawn = {name: sorted(filter(None, sizes)) for name in list(expected)[:1]}
    for name, value in expected.items():
        taken = [told[name]] if name in told else drawn.get(name, [])
        if taken and value not in taken:
            raise RuntimeError(f"{name} was made {value}, as memory ran out, but the script took {taken[0]}")
