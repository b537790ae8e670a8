"""torch.distributed without Accelerate: the backend is asked for as nccl, as many public scripts do."""

import torch
import torch.distributed as dist


def main() -> None:
    dist.init_process_group("nccl")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        model(torch.rand(2, 4)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"rank {dist.get_rank()}: sum {int(total)} over {dist.get_backend()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
