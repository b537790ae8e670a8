"""What ranks send of their training where the network is slow: gradients in 16 bits, or what has changed every few steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from winfleet.averaging import hooks
from winfleet.averaging.averager import Averager, Layout
from winfleet.averaging.half import compress
from winfleet.averaging.keeping import Keeper
from winfleet.core.sending import Sending
from winfleet.rank.meter import Meter


def say(text: str) -> None:
    """On rank 0's log."""
    if os.environ.get("RANK", "0") == "0":
        print(f"winfleet: {text}", flush=True)


def install(sending: Sending, processes: tuple[int, ...], meter: Meter) -> Callable[[], None]:
    """Before the script is run; `processes` are those of each host. Returns what brings all ranks' weights together."""
    if sending.average_every:
        keeper = Keeper(say)
        averager = Averager(sending, Layout(processes), meter, keeper)
        keeper.install(lambda: averager.segments)
        hooks.install(averager)
        return averager.flush
    construct: Any = DistributedDataParallel.__init__

    def constructed(self: DistributedDataParallel, *args: Any, **options: Any) -> None:
        construct(self, *args, **options)
        compress(self, say)

    DistributedDataParallel.__init__ = constructed  # type: ignore[method-assign]
    return lambda: None
