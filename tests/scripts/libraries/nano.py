"""nanoGPT's shape: batches without a DataLoader, a loss that the script divides itself, GradScaler, rank 0 alone saves."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

accumulation, steps = 4, int(sys.argv[1]) if sys.argv[1:] else 30
if "RANK" in os.environ:
    dist.init_process_group("gloo")
torch.manual_seed(0)
raw = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(raw.parameters(), 1e-2)
begin, path = 0, Path("out/ckpt.pt")
if path.exists():
    saved = torch.load(path)
    raw.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    begin = saved["step"]
model = DistributedDataParallel(raw) if dist.is_initialized() else raw
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
data = torch.Generator()
for step in range(begin, steps):
    total = 0.0
    for micro in range(accumulation):
        data.manual_seed(step * accumulation + micro)
        x = torch.randn(4, 8, generator=data)
        with nullcontext() if micro == accumulation - 1 or not dist.is_initialized() else model.no_sync():
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean() / accumulation
            scaler.scale(loss).backward()
            total += loss.item()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    print(f"LOSS {step + 1} {total:.6f}", flush=True)
    if (step + 1) % 10 == 0 and (not dist.is_initialized() or dist.get_rank() == 0):
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": raw.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, path)
if dist.is_initialized():
    dist.destroy_process_group()
