"""Makes the report of a run: `python -m winfleet.report logs/<run>` writes report.html into that folder.

The page is one file without scripts or network. Every value on it is escaped, cleaned of control characters and cut.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from winfleet.core.files import write_atomic
from winfleet.core.reading import plain
from winfleet.core.status import APART_FIXES, Cause, advise_on, count, duration, name_failure
from winfleet.rehearsal.choices import loss_of
from winfleet.rehearsal.prediction import rate
from winfleet.view.records import ReportError, RunData, load
from winfleet.view.speed import ends, speed_of

__all__ = ["ReportError", "closing_line", "load", "main", "render"]

MAX_ADVICE: Final = 3
MAX_GRID: Final = 8
MAX_VALUE: Final = 20_000  # characters of one value on the page


_count = partial(count, form=",")


def _show(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _number(value: float | None) -> str:
    """A loss or another value of the script: three decimals, or three digits where these would say nothing."""
    return _show(value, "{:.3f}" if not value or 0.001 <= abs(value) < 1e6 else "{:.3g}")


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _alike(names: Sequence[str]) -> str:
    """`4 × RTX 4090, RTX 3060` for names of which some are the same; "none" for none."""
    counts = Counter(map(str, names))
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items()) or "none"


def _moment(time: float | None) -> str:
    """Unix seconds as date and time where the report is made."""
    try:
        return "–" if time is None else datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return "–"


def _state(run: RunData) -> str:
    return {"lost": "Host lost", "running": "Still running"}.get(run.state, run.state.capitalize())


def _result(run: RunData) -> tuple[str, float, float] | None:
    """What the run is measured by, with its first and last value: validation loss, otherwise training loss."""
    measures = [("training loss", run.attempt.metrics)]
    if run.validation and (validated := run.attempt.logged.get(run.validation)):
        measures.insert(0, ("validation loss", (validated,)))
    return next(((name, *values) for name, tracks in measures if (values := ends(tracks))), None)


def _change(run: RunData) -> str:
    """`validation loss fell from 5.612 to 2.431`, or that there is none."""
    if (result := _result(run)) is None:
        return "the script reported no loss"
    name, first, last = result
    if _number(first) == _number(last):
        return f"{name} stayed at {_number(last)}"
    return f"{name} {'fell' if last < first else 'rose'} from {_number(first)} to {_number(last)}"


def _size(run: RunData) -> str:
    return f"{_count(run.plan.world_size, 'process')} on {_count(len(run.machines), 'host')}"


def closing_line(run: RunData, report: Path) -> str:
    """The one line that ends `python -m winfleet.report`. A run that did not finish says so first."""
    parts = [] if run.state == "finished" else [_state(run).lower()]
    parts += [f"not distributed: each process trained {run.apart}"] if run.apart else []
    parts += [_change(run), _size(run)]
    parts += [] if run.seconds is None else [duration(run.seconds)]
    return " · ".join([*parts, f"report: {report.as_posix()}"])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _headline(run: RunData) -> str:
    """The result in one sentence."""
    return _said(run) + _apart(run)


def _apart(run: RunData) -> str:
    if not run.apart:
        return ""
    return (
        f" Not distributed: each of {_count(run.plan.world_size, 'process')} trained a model of its own, {run.apart}. "
        f"To train one model together: {APART_FIXES[run.apart]}."
    )


def _said(run: RunData) -> str:
    change, seconds, cause = _change(run), run.seconds, next(iter(run.causes), None)
    if run.state == "finished":
        steps = f" in {_count(run.step, 'step')}" if run.step else ""
        took = "" if seconds is None else f", in {duration(seconds)}"
        return _sentence(f"{change}{steps}, with {_size(run)}{took}")
    subject = _state(run)
    if run.state == "failed" and cause and cause.rank is not None:
        subject = f"Rank {cause.rank} on {cause.host} failed"
        seconds = cause.time - run.started if cause.time and run.started else seconds
    at = (f" at step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "")) if run.step else ""
    after = "" if seconds is None else f" after {duration(seconds)}"
    return _sentence(
        f"{subject}{at}{after}; {'so far' if run.state in ('starting', 'running') else 'until then'} {change}"
    )


def _advice(cause: Cause) -> list[str]:
    """Why it failed and what to do, a line each; none where the table of causes does not know it."""
    return [line.strip() for line in advise_on(cause).splitlines() if line]


def _rows(run: RunData) -> list[dict[str, Any]]:
    """Each rank with its mean speed and use and its peaks."""
    column = speed_of(run).column
    speed = {(track.host, track.rank): track.mean[column] for track in run.metrics}
    usage = {(track.host, track.rank): track for track in run.usage}
    rows = []
    for machine, rank in run.ranks:
        key = (machine.plan.name, rank.rank)
        use = usage.get(key)
        means, peaks = (use.mean, use.peak) if use else ([None] * 5, [None] * 5)
        rows.append({
            "rank": rank, "host": machine.plan.name, "log": machine.rank_logs.get(rank.rank), "rate": speed.get(key),
            "cpu": means[0], "memory": peaks[1], "gpu": means[2], "gpu_memory": peaks[3], "celsius": peaks[4],
            "stack": machine.rank_stacks.get(rank.rank),
        })  # fmt: skip
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """One figure, as predicted and as it was."""

    name: str
    predicted: float
    measured: float | None

    @property
    def difference(self) -> float | None:
        """Percent of what was predicted."""
        return 100 * (self.measured / self.predicted - 1) if self.measured is not None and self.predicted else None


def _forecast(run: RunData) -> dict[str, Any] | None:
    """Predicted against measured, where both are known. A step is as long as the rank takes that works longest."""
    parts = [track.mean[2:5] for track in run.metrics if None not in track.mean[2:5]]
    if run.prediction is None:
        return None
    planned = run.prediction.planned
    longest = max(parts, key=lambda part: (part[0] or 0.0) + (part[2] or 0.0), default=None)
    compute, communication, data = longest or (None, None, None)
    whole = sum(part or 0.0 for part in longest) if longest else None
    predicted, unit = rate(planned)
    measured = speed_of(run)
    rows = [
        _Compared(
            name=f"{unit.partition('/')[0].capitalize()} per second",
            predicted=predicted,
            measured=measured.value if measured.unit == unit else None,
        ),
        _Compared(name="Seconds of a step", predicted=planned.step_seconds, measured=whole),
        _Compared(name="… computing", predicted=planned.compute_seconds + planned.waiting_seconds, measured=compute),
        _Compared(name="… communication", predicted=planned.network_seconds, measured=communication),
        _Compared(name="… loading data", predicted=planned.data_seconds, measured=data),
    ]
    advice = [one for one in run.prediction.advice[:MAX_ADVICE] if one.gain > 1]
    return {
        "rows": rows,
        "limit": planned.limit,
        "advice": advice,
        "grid": run.prediction.grid[:MAX_GRID],
        "choices": run.prediction.choices[:MAX_GRID],
    }


def render(run: RunData) -> str:
    """The page as one HTML document. Raises ModuleNotFoundError where jinja2 or matplotlib is not installed."""
    import jinja2
    from markupsafe import Markup

    from winfleet.view import plots

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value, MAX_VALUE),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "show": _show, "number": _number, "count": _count, "duration": _duration, "alike": _alike, "moment": _moment,
        "failure": name_failure, "loss": loss_of, "advice": _advice, "link": quote,
    }  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        run=run,
        state=_state(run),
        headline=_headline(run),
        result=_result(run),
        colors=plots.COLORS,
        plots=[(panel, plots.draw(panel)) for panel in plots.panels(run, _sentence(_change(run)))],
        rows=_rows(run),
        has_gpu=any(set(track.peak[2:]) != {None} for track in run.usage),
        forecast=_forecast(run),
        unit="GPU" if any(host.gpus for host in run.plan.hosts) else "process",
        speed=speed_of(run),
        grid_rates=[rate(row)[0] for row in run.prediction.grid[:MAX_GRID]] if run.prediction else [],
        ends={name: ends((track,)) or (None, None) for name, track in run.logged.items()},
    )
    return page + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and prints its line. Returns 0, or 2 where no report could be made."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.report", description="Makes report.html of a run.")
    parser.add_argument("folder", type=Path, help="the run's folder, for example logs/20261124-0745")
    path: Path = parser.parse_args(arguments).folder / "report.html"
    try:
        run = load(path.parent)
        write_atomic(path, render(run))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: `{path}` cannot be written: {error.strerror}\nhint: make the folder writable for you",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error}\nhint: make the report on the control node, with winfleet[control]", file=sys.stderr)
        return 2
    print(closing_line(run, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
