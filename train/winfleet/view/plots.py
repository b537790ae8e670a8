"""The plots of a report, as <svg> elements that take their colours from the page's style sheet."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from winfleet.view.records import RunData, Track, thin
from winfleet.view.speed import speed_of
from winfleet.view.verdict import verdicts

FEW_RANKS: Final = 8  # up to here every rank has its own colour
MAX_LINES: Final = 80
MAX_BARS: Final = 128
MAX_SIGNS: Final = 20
SIGN_ROOM: Final = 0.17  # of the width, for its word
WORDS: Final = {"restart": "restart", "oom": "out of memory", "stuck": "stuck"}  # by kind of event
PLOT_POINTS: Final = 8_000  # of all lines together
TIME_UNITS: Final[tuple[tuple[str, int], ...]] = (("hours", 3600), ("minutes", 60), ("seconds", 1))
# The page's variables of these names take the place of these colours.
COLORS: Final = {
    "soft": "#566273", "axis": "#8a94a3", "grid": "#e5e9ee", "muted": "#a9b2bd", "ink": "#18202b", "valid": "#c2185b",
    "card": "#ffffff", "c0": "#2f7de1", "c1": "#e07b10", "c2": "#159a7a", "c3": "#9457d6", "c4": "#b08a00",
    "c5": "#1aa3c4", "c6": "#7a8b2b", "c7": "#d0576b",
}  # fmt: skip
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "font.size": 10.5, "figure.figsize": (6.4, 3.1), "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.edgecolor": COLORS["axis"],
    "axes.labelcolor": COLORS["soft"], "axes.xmargin": 0.01, "axes.ymargin": 0.1, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": COLORS["grid"], "xtick.major.size": 0, "ytick.major.size": 0, "xtick.major.pad": 5,
    "ytick.major.pad": 5, "xtick.labelcolor": COLORS["soft"], "ytick.labelcolor": COLORS["soft"],
}  # fmt: skip

PEN_UP: Final = (math.nan, math.nan)

Pieces = list[list[tuple[float, float]]]  # what is drawn without lifting the pen


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a plot."""

    pieces: Pieces
    label: str
    color: str  # a name in COLORS
    width: float = 1.0  # points; 0 for dots


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """One layer of stacked bars, a bar a rank."""

    heights: Sequence[float]
    label: str
    color: str  # a name in COLORS


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """Something that happened, marked where it did."""

    x: float
    word: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: lines, or bars with the numbers of their ranks."""

    key: str
    title: str
    x_label: str
    lines: Sequence[Line]
    caption: str
    signs: Sequence[Sign] = ()
    bars: Sequence[Bars] = ()
    ranks: Sequence[int] = ()

    @property
    def legend(self) -> Iterable[tuple[str, str, str]]:
        """Label, colour and the kind of its sign, once for each label."""
        kinds = [
            (line.label, line.color, "bold" if line.width > 1 else "" if line.width else "dots") for line in self.lines
        ]
        return dict.fromkeys([*kinds, *((bar.label, bar.color, "block") for bar in self.bars)])


def panels(run: RunData, loss_caption: str) -> list[Panel]:
    """The plots, those of GPUs only where one was measured."""
    loss = _rank_lines(run.metrics, 0, total="mean")
    if run.validation:
        pieces = _pieces(run.logged[run.validation], 0)
        loss.append(Line(pieces=list(pieces.values()), label=run.validation, color="valid", width=0))
    rate = speed_of(run)
    total = "sum" if rate.unit == "samples/s" and not run.apart else ""
    rate_caption = f"{rate.value or 0.0:,.1f} {rate.unit} in the mean, {rate.of}."
    shown = [
        Panel("loss", "Loss", "step", loss, loss_caption, signs=_signs(run) if loss else ()),
        Panel("rate", rate.name, "step", _rank_lines(run.metrics, rate.column, total), rate_caption),
    ]
    shown += _parts(run)
    usage, unit = _from_start(run.usage)
    for key, title, column, form in (
        ("gpu", "GPU use, %", 2, "{:.0f} %"),
        ("gpu-memory", "GPU memory, GiB", 3, "{:.2f} GiB"),
        ("gpu-celsius", "GPU temperature, °C", 4, "{:.0f} °C"),
        ("cpu", "CPU use, %", 0, "{:.0f} %"),
        ("memory", "Memory, GiB", 1, "{:.2f} GiB"),
    ):
        means = [mean for track in usage if (mean := track.mean[column]) is not None]
        peaks = [peak for track in usage if (peak := track.peak[column]) is not None]
        if means or column < 2:
            lines = _rank_lines(usage, column, total="mean" if len(usage) > FEW_RANKS else "")
            caption = f"{form} in the mean of all ranks, {form} at most.".format(
                sum(means) / max(len(means), 1), max(peaks, default=0.0)
            )
            shown.append(Panel(key, title, unit, lines, caption + " 100 % is one core." * (key == "cpu")))
    return shown


def _parts(run: RunData) -> list[Panel]:
    """Where the time of a step goes, a bar a rank; nothing where it was not measured."""
    tracks = [track for track in run.metrics if None not in track.mean[2:5]][:MAX_BARS]
    if not tracks:
        return []
    layers = [
        Bars(heights=[track.mean[column] or 0.0 for track in tracks], label=label, color=color)
        for column, label, color in ((2, "compute", "c0"), (3, "communication", "c1"), (4, "data loading", "c2"))
    ]
    whole = sum(sum(layer.heights) for layer in layers) or 1.0
    *first, last = (f"{sum(layer.heights) / whole * 100:.0f} % {layer.label}" for layer in layers)
    said = [f"{text[:1].upper()}{text[1:]}." for text in verdicts([machine.status for machine in run.machines])]
    caption = " ".join([f"In the mean of all ranks {', '.join(first)} and {last}.", *said])
    ranks = [track.rank for track in tracks]
    return [Panel("parts", "Seconds of a step", "rank", (), caption, bars=layers, ranks=ranks)]


def _signs(run: RunData) -> list[Sign]:
    """Restarts and the like at the step that their host was at, each word once a step."""
    found = {
        (step, WORDS[event.kind]): Sign(x=step, word=WORDS[event.kind])
        for event in run.events
        if event.kind in WORDS and (step := _step_at(run, event.time, event.hosts)) is not None
    }
    return list(found.values())[-MAX_SIGNS:]


def _step_at(run: RunData, time: float, hosts: Sequence[str]) -> float | None:
    """The last step that a rank of these hosts had noted at that time, by its own clock; of another one if they noted none."""
    tracks = sorted(run.metrics, key=lambda track: track.host not in hosts)
    for track in tracks[:1]:
        steps = [sample.x for sample in track.samples if (noted := sample.values[5]) is not None and noted <= time]
        return steps[-1] if steps else None
    return None


def _from_start(usage: Sequence[Track]) -> tuple[list[Track], str]:
    """The same courses with x since their start, and the unit of x."""
    times = [sample.x for track in usage for sample in track.samples]
    begin, end = min(times, default=0.0), max(times, default=0.0)
    unit, seconds = next(one for one in TIME_UNITS if end - begin >= one[1] * 3 or one[1] == 1)
    return [
        dataclasses.replace(track, samples=[s._replace(x=(s.x - begin) / seconds) for s in track.samples])
        for track in usage
    ], unit


def _pieces(track: Track, column: int, limit: int = PLOT_POINTS) -> dict[tuple[int, int], list[tuple[float, float]]]:
    pieces: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for segment, x, values in thin(track.samples, limit):
        if (value := values[column]) is not None:
            pieces.setdefault(segment, []).append((x, value))
    return pieces


def _rank_lines(tracks: Sequence[Track], column: int, total: str) -> list[Line]:
    """A line a rank; many share one colour and one entry in the legend. A bold one for their mean or sum, if any."""
    used = [track for track in tracks if track.peak[column] is not None]
    few, limit = len(used) <= FEW_RANKS, max(PLOT_POINTS // max(len(used), 4), 100)
    lines = [
        Line(
            pieces=list(_pieces(track, column, limit).values()),
            label=f"rank {track.rank} · {track.host}" if few else f"each of {len(used)} ranks",
            color=f"c{track.rank % FEW_RANKS}" if few else "muted",
        )
        for track in used[:MAX_LINES]
    ]
    if total and len(used) > 1:
        lines.append(Line(pieces=together(used, column, total), label=f"{total} of all ranks", color="ink", width=2.0))
    return lines


def together(tracks: Sequence[Track], column: int, total: str) -> Pieces:
    """Mean or sum of the ranks, segment by segment, where all of its ranks have values.

    Ranks note their steps at their own times, so each is interpolated to the steps of the first.
    """
    segments: dict[tuple[int, int], Pieces] = {}
    for track in tracks:
        for segment, piece in _pieces(track, column).items():
            segments.setdefault(segment, []).append(piece)
    joined: Pieces = []
    for _, pieces in sorted(segments.items()):
        begin, end = max(piece[0][0] for piece in pieces), min(piece[-1][0] for piece in pieces)
        steps = [x for x, _ in pieces[0] if begin <= x <= end]
        values = np.array([np.interp(steps, *np.array(piece).T) for piece in pieces]).sum(axis=0)
        joined.append(list(zip(steps, values / (len(pieces) if total == "mean" else 1), strict=True)))
    return joined


def draw(panel: Panel) -> Markup | None:
    """The plot as an <svg> element; None where there is nothing to draw."""
    if not panel.lines and not panel.bars:
        return None
    with mpl.rc_context({**STYLE, "svg.hashsalt": panel.key}):
        figure = Figure()
        axes = figure.subplots()
        for line in panel.lines:
            x, y = zip(*(point for piece in line.pieces for point in (PEN_UP, *piece)), PEN_UP, strict=True)
            (drawn,) = axes.plot(x, y, color=COLORS[line.color], linewidth=line.width)
            if not line.width or len(x) < 4:  # a lone point has no line
                drawn.set(marker="o", markersize=8.0, markeredgecolor=COLORS["card"], zorder=3.0)
        _draw_bars(axes, panel)
        _draw_signs(axes, panel)
        axes.set_xlabel(panel.x_label)
        axes.locator_params(axis="x", nbins=7, integer=panel.x_label in ("step", "rank"))
        axes.locator_params(axis="y", nbins=5)
        if panel.key != "loss":
            axes.set_ylim(bottom=0)
        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # these hold addresses
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _embed(file.getvalue(), panel)


def _draw_bars(axes: Any, panel: Panel) -> None:
    """Layer upon layer, a bar a rank. A host may be missing, so ranks may have gaps."""
    if not panel.bars:
        return
    below, places = np.zeros(len(panel.ranks)), range(len(panel.ranks))
    for layer in panel.bars:
        axes.bar(places, layer.heights, bottom=below, width=0.7, color=COLORS[layer.color])
        below = below + np.array(layer.heights)
    axes.set_axisbelow(True)  # the grid
    axes.set_xlim(-0.6, max(len(panel.ranks), 4) - 0.4)
    axes.xaxis.set_major_formatter(lambda place, _: _rank_at(panel.ranks, place))


def _draw_signs(axes: Any, panel: Panel) -> None:
    """Upright lines with a word above; those too near to the last word have the line alone."""
    left, right = axes.get_xlim()
    worded = left - right
    for sign in sorted(panel.signs, key=lambda sign: sign.x):
        axes.axvline(sign.x, color=COLORS["soft"], linewidth=1.0, linestyle=(0, (2, 3)), zorder=1.0)
        if sign.x - worded >= SIGN_ROOM * (right - left):
            worded = sign.x
            top = axes.get_xaxis_transform()
            axes.text(
                sign.x, 1.0, sign.word, transform=top, color=COLORS["soft"], fontsize=9.5, va="bottom", ha="center"
            )


def _rank_at(ranks: Sequence[int], place: float) -> str:
    return str(ranks[int(place)]) if place in range(len(ranks)) else ""


def _embed(svg: str, panel: Panel) -> Markup:
    """The element alone, its ids made the panel's own, its colours the style sheet's, its numbers shortened."""
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{panel.key}-", svg[svg.index("<svg") :])
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    label = escape(f"{panel.title} by {panel.x_label}. {panel.caption}")
    # Safe as it is: matplotlib wrote it, out of numbers and our own words.
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # noqa: S704
