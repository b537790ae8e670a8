"""Runs a script on the CPU as if a rank had a GPU with room for so many samples: `small_gpu.py RANK STEP ROOM STAY script args…`.

After STEP optimizer steps, a backward pass over more samples of an embedding's or a linear layer's input raises what torch raises
there; the process then stays for STAY seconds before it ends.
"""

import atexit
import os
import runpy
import sys
import time
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

rank, step, room, stay = map(int, sys.argv[1:5])
sys.argv = sys.argv[5:]
sys.path[0] = str(Path(sys.argv[0]).parent)
steps = samples = 0
backward = torch.Tensor.backward


def count_step(*_: object) -> None:
    global steps
    steps += 1


def count_samples(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
    global samples
    if isinstance(module, torch.nn.Embedding | torch.nn.Linear) and inputs[0].dim() > 1:
        samples = len(inputs[0])


def limited(self: torch.Tensor, *args: object, **kwargs: object) -> None:
    if int(os.environ["RANK"]) == rank and steps >= step and samples > room:
        atexit.register(time.sleep, stay)
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
        )
    backward(self, *args, **kwargs)


torch.Tensor.backward = limited  # type: ignore[method-assign, assignment]
register_optimizer_step_post_hook(count_step)
register_module_forward_hook(count_samples)
runpy.run_path(sys.argv[0], run_name="__main__")
