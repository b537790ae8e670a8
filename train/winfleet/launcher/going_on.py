"""What is done before a generation's first rank so that the script goes on where it was, and what is said where it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from torch.distributed import PrefixStore

from winfleet.checkpoints.exchange import Exchange
from winfleet.launcher.rendezvous import PlanRendezvous

RESUME: Final = (
    "WINFLEET_RESUME"  # path below work/ of the newest whole checkpoint that this run wrote; absent where there is none
)
ONE_DAY: Final = 86_400.0
PAUSE_SECONDS: Final = 0.02


class GoingOn:
    """See the module. `look` is called again and again meanwhile and may raise, as where the run is asked to stop."""

    def __init__(self, exchange: Exchange | None, look: Callable[[PlanRendezvous], None]) -> None:
        self.exchange, self.look = exchange, look

    def before(self, rendezvous: PlanRendezvous) -> None:
        """Makes the newest checkpoint whole on every host, and tells the ranks which one it is."""
        os.environ.pop(RESUME, None)
        if self.exchange is None:
            return

        def wait(ready: Callable[[], bool]) -> None:
            def is_over() -> bool:
                self.look(rendezvous)
                return ready()

            rendezvous.wait_for_end(ONE_DAY, is_over, PAUSE_SECONDS)

        store = PrefixStore(f"checkpoints{rendezvous.generation}", rendezvous.store)
        if resume := self.exchange.prepare(store, rendezvous.hosts, wait).resume:
            os.environ[RESUME] = resume
