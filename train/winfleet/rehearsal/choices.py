"""What hosts may send, each with the speed that it would give on the measured links, beside what it does to a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from winfleet.rehearsal.prediction import AVERAGE_EVERY, FP32, Choice, Measured, predict, rate, without_samples

# Share above DDP's validation loss after the same steps, with the default bits and outer step, of a training from
# scratch: bench/averaging_loss.jsonl, which `bench/averaging_loss.py --table` shows. What is not here was not measured.
LOSS_ABOVE: Final = {8: 0.073, 32: 0.036}


def choices(measured: Measured) -> tuple[Choice, ...]:
    """DDP's gradients in 32 and 16 bits, then averages; () for a single host, which has nobody to send to."""
    if measured.link is None or len(measured.hosts) < 2:
        return ()
    plain = dataclasses.replace(measured, gradients=FP32, average_every=0)
    ways = [
        ("fleet_average_every: 0", plain, 0.0),
        ("fleet_gradients: fp16", dataclasses.replace(plain, gradients="fp16"), None),
        *(
            (f"fleet_average_every: {every}", dataclasses.replace(plain, average_every=every), LOSS_ABOVE.get(every))
            for every in AVERAGE_EVERY
        ),
    ]
    base = predict(plain)
    rows = [(name, predict(way), above) for name, way, above in ways]
    return tuple(
        Choice(
            setting=name,
            forecast=without_samples(measured, row),
            gain=base.step_seconds / row.step_seconds,
            loss_above=above,
        )
        for name, row, above in rows
    )


def table_of(found: Sequence[Choice]) -> list[str]:
    """A line each under a heading, for a terminal."""
    if not found:
        return []
    unit = rate(found[0].forecast)[1]
    lines = [f"{'what hosts send':<24}  {unit:>9}  {'speed-up':>8}  {'of gradients':>12}  loss after as many steps"]
    lines += [
        f"{one.setting:<24}  {rate(one.forecast)[0]:>9.1f}  {one.forecast.speed_up:>7.2f}x  {one.gain:>11.2f}x  {loss_of(one)}"
        for one in found
    ]
    return lines


def loss_of(one: Choice) -> str:
    """What it does to a loss, in words."""
    if one.loss_above is None:
        return "not measured"
    return f"{one.loss_above:+.1%} in bench/averaging_loss.py" if one.loss_above else "DDP's own"
