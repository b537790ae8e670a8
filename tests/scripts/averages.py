"""A script of plain torch and DDP, as users write them, in the variants that averaging has to know.

Prints what it did and, at its end, a digest of its weights for each rank: the same everywhere once ranks have come together.
"""

import hashlib
import importlib
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

RANK = int(os.environ["RANK"])
WANTED = sys.argv[1]
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 12
TRUE = torch.linspace(-1, 1, 8)


def digest(model: torch.nn.Module) -> str:
    flat = torch.cat([one.detach().float().reshape(-1) for one in model.state_dict().values()])
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:12]


def make() -> torch.nn.Sequential:
    norms = {"buffers": torch.nn.BatchNorm1d(16), "SyncBatchNorm": torch.nn.SyncBatchNorm(16)}
    norm = norms.get(WANTED, torch.nn.Identity())
    return torch.nn.Sequential(torch.nn.Linear(8, 16), norm, torch.nn.ReLU(), torch.nn.Linear(16, 1))


def share(plain: torch.nn.Module) -> torch.nn.Module:
    """The model as the variant has it on all ranks."""
    if WANTED == "FSDP":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(plain)
    if WANTED == "DeepSpeed":
        sys.path.insert(0, os.getcwd())  # the test has put something of this name there
        deepspeed = importlib.import_module("deepspeed")
        engine: torch.nn.Module = deepspeed.initialize(model=plain)
        return engine
    if WANTED == "no DDP":
        return plain
    if WANTED == "own group":
        return DistributedDataParallel(plain, process_group=dist.new_group([0, 1]))
    return DistributedDataParallel(plain, static_graph=WANTED == "static")


def optimize(model: torch.nn.Module) -> torch.optim.Optimizer:
    if WANTED == "ZeroRedundancyOptimizer":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.05)
    return torch.optim.AdamW(model.parameters(), 0.01)


def prepare(plain: torch.nn.Sequential, step: int) -> None:
    """What the variant does before a step."""
    if WANTED == "other weights" and step == 6:
        if RANK == 1:
            plain.load_state_dict(make().state_dict())
        dist.barrier()
    if WANTED == "frozen" and step in (1, 6):
        plain[0].requires_grad_(step == 6)
    if WANTED == "slow":
        time.sleep(0.2 if RANK else 0.05)
    if WANTED == "stands" and step == 3 and RANK == 1:
        time.sleep(100_000)
    if WANTED == "own collective" and step == 6 and RANK == 0:
        dist.all_reduce(torch.ones(1))
    if WANTED == "frozen on one" and step == 6 and RANK == 1:
        plain[0].requires_grad_(False)


def loss_of(model: torch.nn.Module, step: int) -> torch.Tensor:
    inputs = torch.randn(32, 8)
    loss = (model(inputs).squeeze(-1) - inputs @ TRUE).square().mean()
    if WANTED == "overflow" and step == 4:
        loss = loss * 1e9
    if WANTED == "scaler" and step == 3 and RANK == 1:
        loss = loss * float("inf")
    return loss


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(RANK)  # other weights on each rank, as DDP begins with rank 0's
    plain = make()
    model = share(plain)
    if WANTED == "join":
        Join([model])
    optimizer = optimize(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=WANTED == "scaler")
    for step in range(1, STEPS + 1 - (5 * RANK if WANTED == "uneven" else 0)):
        prepare(plain, step)
        loss = loss_of(model, step)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        print(f"step {step} loss {loss.item():.4f} weights {digest(plain)}", flush=True)
        if WANTED == "barrier" and step == 5:
            dist.barrier()
            print(f"saved {digest(plain)}", flush=True)
    dist.barrier()
    print(f"at last {digest(plain)}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
