"""Two stages with an optimizer each, made up front; the second one takes its steps without the first."""

import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator


def hold(step: int) -> None:
    """Waits, at the step that the test says, for the stop that it then asks for."""
    at = int(os.environ.get("HOLD_AT", "0"))
    while at and step >= at and not Path("..", "stopping").exists():
        time.sleep(0.05)


accelerator = Accelerator()
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
model, *optimizers = accelerator.prepare(
    net, *(torch.optim.SGD(part, 0.01) for part in (net[1].parameters(), net.parameters()))
)
for stage, optimizer in enumerate(optimizers):
    for step in range(6 if stage == 0 else 40):
        accelerator.backward(model(torch.randn(8, 4)).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        hold(6 * stage + step + 1)
