"""Plain torch that saves as many scripts do: rank 0 alone writes a numbered folder and last.pt, each rank its state of random numbers
and, under a name that all have, its own number.

Loads the folder with the highest number, whichever host it is on. Fails at --fail-step, on rank 1, unless it went on from the
checkpoint before that step.
"""

import argparse
import os
import re
import time
from pathlib import Path

import torch
import torch.distributed as dist


def load(folder: Path, rank: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """The step to go on after; without an optimizer the weights alone are taken."""
    model.load_state_dict(torch.load(folder / "model.pt"))
    if optimizer is None:
        return 0
    optimizer.load_state_dict(torch.load(folder / "optim.pt"))
    if (numbers := folder / f"rng_{rank}.pt").exists():
        torch.set_rng_state(torch.load(numbers))
    return int(re.sub(r"\D", "", folder.name))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--fail-step", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--forgets", type=int, nargs="*", default=[], help="ranks that load nothing")
    parser.add_argument("--weights-alone", action="store_true", help="of the checkpoint, as a new stage does")
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    rank, out = dist.get_rank(), Path("out")
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    start = 0
    found = sorted(out.glob("step_*"))
    if found and rank not in arguments.forgets:
        start = load(found[-1], rank, model, None if arguments.weights_alone else optimizer)
    names = [path.name for path in found]
    print(f"rank {rank} goes on after step {start}, of {names}, {os.environ.get('WINFLEET_RESUME')}", flush=True)
    if (out / "own.pt").exists():
        print(f"rank {rank} has the own.pt of rank {torch.load(out / 'own.pt')}", flush=True)
    dist.barrier()
    for step in range(start + 1, arguments.steps + 1):
        for _ in range(arguments.gradient_accumulation_steps):
            loss = model(torch.rand(arguments.batch_size, 4)).pow(2).mean()
            (loss / arguments.gradient_accumulation_steps).backward()
        print(f"LOSS {step} {loss.item():.6f}", flush=True)
        optimizer.step()
        optimizer.zero_grad()
        if step % arguments.every == 0:
            folder = out / f"step_{step:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(torch.get_rng_state(), folder / f"rng_{rank}.pt")
            torch.save(rank, out / "own.pt")
            if rank == 0:
                torch.save(model.state_dict(), folder / "model.pt")
                torch.save(optimizer.state_dict(), folder / "optim.pt")
                torch.save({"step": step}, out / "last.pt")
                with Path("results.csv").open("a") as table:
                    table.write(f"{step}\n")
            dist.barrier()
        if step == arguments.fail_step and rank == 1 and start < step - arguments.every:
            raise ValueError("on purpose: 손실이 이상합니다")
        time.sleep(0.01)
    if dist.get_world_size() > 1:
        time.sleep(3)  # for the launchers to compare where ranks began
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
