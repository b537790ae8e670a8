"""An ordinary Accelerate script with a bare Accelerator(); options make it slow, or a rank of it fail."""

import argparse
import os
import time

import torch
from accelerate import Accelerator


def stand_still() -> None:
    time.sleep(100_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--slow-rank", type=int, default=-1, help="sleeps five times as long")
    parser.add_argument("--fail-rank", type=int, default=-1)
    parser.add_argument("--fail-step", type=int, default=3)
    parser.add_argument("--stand-rank", type=int, default=-1, help="stands still for good after step --fail-step")
    parser.add_argument("--fail-once", action="store_true")
    arguments = parser.parse_args()
    accelerator = Accelerator()
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    data = torch.utils.data.TensorDataset(torch.rand(100_000, 8))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1), loader)
    print(f"rank {accelerator.process_index} of {accelerator.num_processes}", flush=True)
    if accelerator.num_processes > 1:
        backend = torch.distributed.get_backend()
        print(f"rank {accelerator.process_index}: {type(model).__name__} over {backend}", flush=True)
    accelerator.init_trackers("bare", config={"max_steps": arguments.steps})
    losses = []
    for step, (batch,) in enumerate(loader, start=1):
        loss = model(batch).pow(2).mean()
        losses.append(loss.item())
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(arguments.sleep * (5 if accelerator.process_index == arguments.slow_rank else 1))
        first = os.environ.get("WINFLEET_GENERATION") == "1" or not arguments.fail_once
        if step == arguments.fail_step and accelerator.process_index == arguments.fail_rank and first:
            raise ValueError("on purpose: 손실이 이상합니다")
        if step == arguments.fail_step and accelerator.process_index == arguments.stand_rank:
            stand_still()
        if step == arguments.steps:
            break
    accelerator.print(f"loss fell from {losses[0]:.4f} to {losses[-1]:.4f}" if losses[-1] < losses[0] else "loss rose")
    accelerator.print("secret is", "there" if os.environ.get("WANDB_API_KEY") else "not there")
    if accelerator.is_main_process:
        with open("result.txt", "w", encoding="utf-8") as file:
            file.write(f"{accelerator.num_processes} ranks\n")


if __name__ == "__main__":
    main()
