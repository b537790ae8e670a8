"""The arguments of transformers' Trainer in a plain torch script, which saves nothing: per_device_train_batch_size and so on."""

import argparse

import torch
import torch.distributed as dist
import yaml


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--per_device_train_batch_size", type=int, default=8)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--config", help="the same in YAML")
    arguments = parser.parse_args()
    if arguments.config:
        with open(arguments.config, encoding="utf-8") as file:
            vars(arguments).update(yaml.safe_load(file))
    dist.init_process_group("nccl")
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batch, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    print(f"batch {batch} x {accumulation}", flush=True)
    data = torch.utils.data.TensorDataset(torch.rand(10_000, 4))
    batches = iter(torch.utils.data.DataLoader(data, batch))
    for step in range(arguments.steps):
        for _ in range(accumulation):
            (inputs,) = next(batches)
            (model(inputs).mean() / accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
