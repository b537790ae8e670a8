"""Libraries that scripts train with: what each says of itself, how it stops, and how it goes on. A file for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import wrapt

from winfleet.libraries import accelerate, lightning, transformers
from winfleet.libraries.resume import Resume
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper

HOOKS: Final[dict[str, Callable[[Any, Meter, Stopper, Resume], None]]] = {
    "accelerate.accelerator": accelerate.hook,
    "accelerate.data_loader": accelerate.hook_data,
    "transformers.trainer": transformers.hook,
    "lightning.pytorch.trainer.trainer": lightning.hook,
    "pytorch_lightning.trainer.trainer": lightning.hook,
}


def install(meter: Meter, stopper: Stopper) -> None:
    """Meets each library once the script imports it; to be called in the folder in which the script begins."""
    resume = Resume.of_environment()

    def meet(name: str, hook: Callable[[Any, Meter, Stopper, Resume], None]) -> None:
        wrapt.register_post_import_hook(lambda module: hook(module, meter, stopper, resume), name)

    for name, hook in HOOKS.items():
        meet(name, hook)
