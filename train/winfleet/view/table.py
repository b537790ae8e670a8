"""The ranks of a run as a table, for a terminal of any width or a log file."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from winfleet.core.reading import plain
from winfleet.core.status import ENDED, Rank, Status
from winfleet.view.verdict import share

MAX_CELL: Final = 24  # characters of a name from another machine
GAP: Final = "  "

Cell = Callable[[Status, Rank, float], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column; where room is short, those of the highest `order` are left out first."""

    heading: str
    order: int
    cell: Cell
    right: bool = True


def _show(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _step(_: Status, rank: Rank, __: float) -> str:
    return f"{rank.step}/{rank.steps}" if rank.steps else str(rank.step)


def _state(status: Status, rank: Rank, _: float) -> str:
    return status.state if status.state in ENDED else plain(rank.state, MAX_CELL)


def _beat(_: Status, rank: Rank, now: float) -> str:
    return "-" if rank.beat is None else f"{max(0.0, now - rank.beat):.0f} s ago"


def _parts(_: Status, rank: Rank, __: float) -> str:
    """Percent of a step in compute, communication and data loading."""
    shares = [share(part, rank) for part in (rank.compute_seconds, rank.communication_seconds, rank.data_seconds)]
    return "-" if None in shares else "/".join(f"{(part or 0.0) * 100:.0f}" for part in shares)


SAMPLES: Final = Column(heading="samples/s", order=1, cell=lambda _, rank, __: _show(rank.samples_per_second, 1))
STEPS: Final = Column(heading="steps/s", order=1, cell=lambda _, rank, __: _show(rank.steps_per_second, 2))
COLUMNS: Final = (
    Column(heading="rank", order=0, cell=lambda _, rank, __: str(rank.rank)),
    Column(heading="host", order=0, cell=lambda status, *_: plain(status.host, MAX_CELL), right=False),
    Column(heading="state", order=0, cell=_state, right=False),
    Column(heading="step", order=0, cell=_step),
    Column(heading="loss", order=2, cell=lambda _, rank, __: _show(rank.loss, 3)),
    SAMPLES,
    Column(heading="comp/comm/data %", order=3, cell=_parts),
    Column(heading="GPU %", order=4, cell=lambda _, rank, __: _show(rank.gpu_percent, 0)),
    Column(heading="°C", order=6, cell=lambda _, rank, __: _show(rank.gpu_celsius, 0)),
    Column(heading="CPU %", order=7, cell=lambda _, rank, __: _show(rank.cpu_percent, 0)),
    Column(heading="memory MiB", order=5, cell=lambda _, rank, __: _show(rank.gpu_memory_mib or rank.memory_mib, 0)),
    Column(heading="pid", order=9, cell=lambda _, rank, __: str(rank.pid or "-")),
    Column(heading="beat", order=8, cell=_beat),
)


def width_of(text: str) -> int:
    """Columns that the text takes in a terminal: two for a Korean letter."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """The table's columns that fit, and its rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def widths(self) -> list[int]:
        """The columns' widths."""
        lines = [tuple(column.heading for column in self.columns), *self.rows]
        return [max(width_of(line[index]) for line in lines) for index in range(len(self.columns))]


def paced_by_steps(found: Sequence[tuple[Status, Rank]]) -> bool:
    """Whether no rank knows of samples, as without a DataLoader."""
    known = [rank for _, rank in found if rank.samples_per_second is not None]
    return not known and any(rank.steps_per_second is not None for _, rank in found)


def cells(statuses: Sequence[Status], now: float, width: int | None = None) -> Cells:
    """All ranks of a run, by host and rank; with a width, as many columns as fit, the first four at least.

    Where room is short, columns without any value go first.
    """
    found = [(status, rank) for status in sorted(statuses, key=lambda one: one.machine_rank) for rank in status.ranks]
    columns = [STEPS if column is SAMPLES and paced_by_steps(found) else column for column in COLUMNS]
    while True:
        rows = tuple(tuple(column.cell(status, rank, now) for column in columns) for status, rank in found)
        table = Cells(columns=tuple(columns), rows=rows)
        needed = sum(table.widths()) + len(GAP) * (len(columns) - 1)
        empty = [all(row[index] == "-" for row in rows) for index in range(len(columns))]
        _, least = max(zip(empty, columns, strict=True), key=lambda pair: (pair[1].order and pair[0], pair[1].order))
        if width is None or needed <= width or not least.order:
            return table
        columns.remove(least)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def table(statuses: Sequence[Status], now: float | None = None, width: int | None = None) -> str:
    """The table as plain lines, a rank a line, under a heading."""
    shown = cells(statuses, time.time() if now is None else now, width)
    widths = shown.widths()
    lines = [[column.heading for column in shown.columns], *shown.rows]
    return "\n".join(
        GAP.join(
            _pad(text, size, right=column.right) for text, size, column in zip(line, widths, shown.columns, strict=True)
        ).rstrip()
        for line in lines
    )


def describe_host(status: Status) -> str:
    """The ports that a host listens on, and its connections over 29500."""
    ports = " ".join(map(str, status.ports)) or "none of ours"
    peers = ", ".join(f"{count} with {plain(peer, MAX_CELL)}" for peer, count in sorted(status.connections.items()))
    return f"{plain(status.host, MAX_CELL)}: listens on {ports}; connections over 29500: {peers or 'none'}"
