"""As Accelerate's complete_nlp_example: checkpoints by steps or epochs, and the place to go on from is read from the name."""

import argparse
import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset


def hold(step: int) -> None:
    """Waits, at the step that the test says, for the stop that it then asks for."""
    at = int(os.environ.get("HOLD_AT", "0"))
    while at and step >= at and not Path("..", "stopping").exists():
        time.sleep(0.05)


parser = argparse.ArgumentParser()
parser.add_argument("--checkpointing-steps", default="epoch")
parser.add_argument("--resume", default="")
found = parser.parse_args()
accelerator = Accelerator()
torch.manual_seed(0)
net = torch.nn.Linear(8, 1)
x = torch.randn(160, 8, generator=torch.Generator().manual_seed(1))
model, optimizer, loader = accelerator.prepare(
    net, torch.optim.Adam(net.parameters(), 1e-2), DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)
)
begin, skipped, overall = 0, 0, 0
resume = found.resume
if resume == "newest":
    resume = str(max(Path("out").iterdir(), key=lambda path: path.stat().st_mtime, default=""))
if resume:
    accelerator.load_state(resume)
    name = Path(resume).name
    if "epoch" in name:
        begin = int(name.removeprefix("epoch_")) + 1
    else:
        skipped = int(name.removeprefix("step_"))
        begin, skipped = divmod(skipped, len(loader))
    overall = begin * len(loader) + skipped
for epoch in range(begin, 3):
    batches = accelerator.skip_first_batches(loader, skipped) if epoch == begin and skipped else loader
    for rows, wanted in batches:
        loss = (model(rows) - wanted).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        overall += 1
        if accelerator.is_main_process:
            print(f"LOSS {overall} {loss.item():.6f}", flush=True)
        hold(overall)
        if found.checkpointing_steps.isdigit() and overall % int(found.checkpointing_steps) == 0:
            accelerator.save_state(f"out/step_{overall}")
    accelerator.log({"train_loss": loss.item(), "epoch": epoch}, step=epoch)
    if found.checkpointing_steps == "epoch":
        accelerator.save_state(f"out/epoch_{epoch}")
