"""An ordinary Accelerate script on a GPU that is emulated: its layers sleep as long as one would compute, its gradients are real."""

import argparse
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Compute(torch.autograd.Function):
    """Passes its input on; forward takes `seconds`, backward twice as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        time.sleep(2 * ctx.seconds)
        return gradients[0], None


class Layers(torch.nn.Module):
    """Layers of equal size, whose means are to add up to the target."""

    def __init__(self, layers: int, floats: int, seconds: float) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.zeros(floats) for _ in range(layers)])
        self.seconds = seconds / layers / 3

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = Compute.apply(x, self.seconds) + weight.mean()  # type: ignore[no-untyped-call]
        return x


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--mib", type=int, default=2, help="of gradients")
    parser.add_argument("--seconds", type=float, default=0.2, help="of compute in a step")
    arguments = parser.parse_args()
    accelerator = Accelerator()
    model = Layers(8, arguments.mib * 2**20 // 4 // 8, arguments.seconds)
    data = torch.utils.data.TensorDataset(torch.rand(8 * 4 * (arguments.steps + 1), 1))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 100.0), loader)
    for step, (batch,) in enumerate(loader, start=1):
        accelerator.backward((model(batch) - 5).pow(2).mean())
        optimizer.step()
        optimizer.zero_grad()
        if step == arguments.steps:
            break


if __name__ == "__main__":
    main()
