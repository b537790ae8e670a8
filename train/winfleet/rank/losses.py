"""The loss as the script means it: without a GradScaler's factor, and without a division by its number of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

MOST_NODES: Final = 4  # of the loss's graph that are looked at
SCALED: Final = "winfleet: before scaling"  # in the metadata of a node that a GradScaler made
CASTS: Final = ("ToCopyBackward0",)
SAME: Final = 1e-6  # relative


class Loss(NamedTuple):
    """A micro-batch's loss, and the number by which the script divided it last; 1 where it did not."""

    value: torch.Tensor
    divisor: float


def read(loss: torch.Tensor) -> Loss:
    """What autograd's graph says of a loss of one element, at whose backward pass this is called."""
    value, divisor, node = loss.detach(), 1.0, loss.grad_fn
    for _ in range(MOST_NODES):
        if node is None:
            break
        name, number = type(node).__name__, None
        if (unscaled := _unscaled(node)) is not None:
            value = unscaled / divisor if divisor != 1.0 else unscaled
        elif name in ("DivBackward0", "MulBackward0"):
            number = _number(node)
            if number is None or divisor != 1.0:
                break
            divisor = number if name == "DivBackward0" else 1.0 / number
        elif name not in CASTS:
            break
        node = node.next_functions[0][0]
    return Loss(value, divisor)


def _unscaled(node: Any) -> torch.Tensor | None:
    found = node.metadata.get(SCALED)
    return found if isinstance(found, torch.Tensor) else None


def _number(node: Any) -> float | None:
    """The Python number by which this node divides or multiplies; None for a tensor of the script's own."""
    other = getattr(node, "_saved_other", None)
    if isinstance(other, torch.Tensor) and other.dim() == 0 and other.device.type == "cpu" and not other.requires_grad:
        other = other.item()
    return float(other) if isinstance(other, int | float) and other else None


def undivided(losses: Sequence[Loss], passes: int, usual: int | None) -> list[torch.Tensor]:
    """The losses of an optimizer step of so many backward passes, as they were before a division by exactly that number.

    `usual` is the number of the step before: an epoch's last step may have fewer, and is divided as the others.
    """
    counts = {count for count in (passes, usual) if count is not None and count > 1}
    return [
        loss.value * loss.divisor if any(abs(loss.divisor - count) <= SAME * count for count in counts) else loss.value
        for loss in losses
    ]


def watch_scalers() -> None:
    """Each GradScaler leaves word of what it scales in the graph."""
    scale: Any = torch.amp.GradScaler.scale

    def watched_scale(self: Any, outputs: Any) -> Any:
        scaled = scale(self, outputs)
        if isinstance(scaled, torch.Tensor) and scaled is not outputs and scaled.grad_fn is not None:
            node: Any = scaled.grad_fn
            node.metadata[SCALED] = outputs.detach()
        return scaled

    torch.amp.GradScaler.scale = watched_scale  # type: ignore[method-assign]
