"""Lightning's Trainer with two micro-batches a step, whose losses are as it prints them."""

import argparse
import hashlib
import os
import time
from pathlib import Path

import lightning
import torch


def hold(step: int) -> None:
    """Waits, at the step that the test says, for the stop that it then asks for."""
    at = int(os.environ.get("HOLD_AT", "0"))
    while at and step >= at and not Path("..", "stopping").exists():
        time.sleep(0.05)


class Net(lightning.LightningModule):
    """A line that is fitted, over several epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 1)

    def training_step(self, batch, number):
        hold(self.trainer.global_step)
        loss = self.net(batch[0]).sub(batch[1]).square().mean()
        self.log("train_loss", loss)
        print("LOSS", self.trainer.current_epoch, number, f"{loss.item():.6f}", flush=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


parser = argparse.ArgumentParser()
parser.add_argument("--nodes", type=int, default=2)
parser.add_argument("--checkpoint", default="none")
found = parser.parse_args()
lightning.seed_everything(0, verbose=False)
x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
data = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4, shuffle=True
)
trainer = lightning.Trainer(
    accelerator="cpu", devices=1, num_nodes=found.nodes, max_epochs=3, accumulate_grad_batches=2, log_every_n_steps=1,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
net = Net()
trainer.fit(net, data, **({} if found.checkpoint == "none" else {"ckpt_path": None}))
print("BEHIND", trainer.global_step, flush=True)
print("WEIGHTS", hashlib.sha256(torch.cat([w.detach().reshape(-1) for w in net.parameters()]).numpy()).hexdigest())
