"""How a rank stops when it is asked to: with a checkpoint, and after the same step as all others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from winfleet.core.status import STOP_AT, STOPPING, stop_step
from winfleet.rank.meter import Meter

HOLD_SECONDS: Final = 20.0


class Stopper:
    """Ends this rank after the step that the launcher names: all ranks then stand at the same place."""

    def __init__(self, meter: Meter, folder: Path | None) -> None:
        self.meter = meter
        self.folder = folder
        self.accelerators: list[Any] = []
        self.checkpoints = Path("output", "checkpoints")  # beside the script's own, once it saves one
        self._asked = False
        self._patience: float | None = None  # until when (monotonic) this rank holds still for the step to be named

    def look(self) -> None:
        """Called as a step's first backward pass begins. Raises SystemExit(0) out of it when it is time.

        Once somebody has asked, a rank holds still here until the step is named; the others then wait for it in the
        step's all-reduce, so that no rank is past the step when it is named.
        """
        if self._asked or self.folder is None or not (self.folder / STOPPING).exists():
            return
        if self._patience is None:
            self._patience = time.monotonic() + HOLD_SECONDS
        while (step := stop_step(self.folder / STOP_AT)) is None and time.monotonic() < self._patience:
            time.sleep(0.02)
        if step is None or self.meter.count < step:
            return
        self._asked = True
        print(f"winfleet: asked to stop after step {self.meter.values['step']}", flush=True)
        for accelerator in self.accelerators[:1]:
            self._save(accelerator)
        self.meter.values["stopped"] = True
        self.meter.write()
        raise SystemExit(0)

    def _save(self, accelerator: Any) -> None:
        if accelerator.project_configuration.automatic_checkpoint_naming:
            accelerator.save_state()
        else:
            accelerator.save_state(str(self.checkpoints / f"step_{self.meter.values['step']:06d}"))
        accelerator.wait_for_everyone()
