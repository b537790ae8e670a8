"""Fits a small network to the points of data/points.csv. An ordinary Accelerate script: it knows nothing of winfleet.

Row i of that file, from 1 on, has x1 = 2 frac(0.7548777 i) - 1, x2 = 2 frac(0.5698403 i) - 1 and y = sin(3 x1) + x2^2.
"""

import argparse
import csv
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Points(Dataset[tuple[Tensor, Tensor]]):
    """One row, one sample: (x1, x2) and (y)."""

    def __init__(self, path: Path) -> None:
        with path.open(newline="") as file:
            self.rows = torch.tensor([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index, :2], self.rows[index, 2:]


def main() -> None:
    """The whole training."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    arguments = parser.parse_args()
    accelerator = Accelerator()
    set_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    adam = torch.optim.Adam(network.parameters(), arguments.learning_rate)
    points = DataLoader(Points(Path("data", "points.csv")), batch_size=5, shuffle=True, num_workers=2)
    model, optimizer, batches = accelerator.prepare(network, adam, points)
    for epoch in range(1, arguments.epochs + 1):
        losses = []
        for x, y in batches:
            loss = nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        mean = accelerator.reduce(torch.stack(losses).mean(), "mean")
        accelerator.print(f"epoch {epoch}/{arguments.epochs}: loss {float(mean):.4f}")
    if accelerator.is_main_process:
        torch.save(accelerator.unwrap_model(model).state_dict(), "model.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main()
