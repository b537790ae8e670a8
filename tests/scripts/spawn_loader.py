"""A dataset class of the script itself, read by two DataLoader workers that are started by spawn."""

import os

import torch
from accelerate import Accelerator


class Squares(torch.utils.data.Dataset[torch.Tensor]):
    """The number and its square, and the process that made them."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), float(index**2), float(os.getpid())])


def main() -> None:
    accelerator = Accelerator()
    loader = torch.utils.data.DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context="spawn")
    loader = accelerator.prepare(loader)
    batches = list(loader)
    workers = {int(pid) for batch in batches for pid in batch[:, 2]}
    assert os.getpid() not in workers
    print(f"rank {accelerator.process_index}: {len(batches)} batches from {len(workers)} workers", flush=True)
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
