"""nanoGPT's shape: settings are globals that configurator.py changes, batches are cut out of a memmap, rank 0 alone evaluates and saves.

The loss is divided by the script itself and scaled by a GradScaler; out_dir/ckpt.pt is loaded with --init_from=resume alone.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

out_dir = "out"
eval_interval = 2000
eval_iters = 2
always_save_checkpoint = True
init_from = "scratch"
dataset = "openwebtext"
gradient_accumulation_steps = 5 * 8
batch_size = 12
block_size = 1024
learning_rate = 6e-4
max_iters = 600000
backend = "nccl"
device = "cuda"
dtype = "float16"
config_keys = [k for k, v in globals().items() if not k.startswith("_") and isinstance(v, int | float | bool | str)]
exec(open("configurator.py").read())  # noqa: SIM115
config = {k: globals()[k] for k in config_keys}

ddp = int(os.environ.get("RANK", "-1")) != -1
if ddp:
    init_process_group(backend=backend)
    master_process = int(os.environ["RANK"]) == 0
    seed_offset = int(os.environ["RANK"])
    gradient_accumulation_steps //= int(os.environ["WORLD_SIZE"])
else:
    master_process, seed_offset = True, 0
if master_process:
    os.makedirs(out_dir, exist_ok=True)
torch.manual_seed(1337 + seed_offset)
data_dir = os.path.join("data", dataset)


def get_batch(split):
    """Rows of tokens, and those that follow each."""
    data = np.memmap(os.path.join(data_dir, f"{split}.bin"), dtype=np.uint16, mode="r")
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([torch.from_numpy(data[i : i + block_size].astype(np.int64)) for i in ix])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + block_size].astype(np.int64)) for i in ix])
    return x.to(device), y.to(device)


class GPT(torch.nn.Module):
    """The tokens that follow each token, and no more."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Embedding(vocab_size, 8), torch.nn.Linear(8, vocab_size))

    def forward(self, x, targets):
        logits = self.net(x)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


iter_num, best_val_loss, model_args = 0, 1e9, {"vocab_size": 16}
if init_from == "scratch":
    model = GPT(**model_args)
else:
    checkpoint = torch.load(os.path.join(out_dir, "ckpt.pt"), map_location=device)
    model_args = checkpoint["model_args"]
    model = GPT(**model_args)
    model.load_state_dict(checkpoint["model"])
    iter_num, best_val_loss = checkpoint["iter_num"], checkpoint["best_val_loss"]
model.to(device)
scaler = torch.amp.GradScaler(device, enabled=dtype == "float16", init_scale=1024.0)
optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95))
if init_from == "resume":
    optimizer.load_state_dict(checkpoint["optimizer"])
if ddp:
    model = DistributedDataParallel(model)
raw_model = model.module if ddp else model


@torch.no_grad()
def estimate_loss():
    """The mean over some batches of what is not trained on."""
    model.eval()
    losses = torch.tensor([model(*get_batch("val"))[1].item() for _ in range(eval_iters)])
    model.train()
    return losses.mean()


X, Y = get_batch("train")
while True:
    if iter_num % eval_interval == 0 and master_process:
        val_loss = estimate_loss()
        print(f"step {iter_num}: val loss {val_loss:.4f}", flush=True)
        if (val_loss < best_val_loss or always_save_checkpoint) and iter_num > 0:
            best_val_loss = val_loss
            print(f"saving checkpoint to {out_dir}")
            saved = {"model": raw_model.state_dict(), "optimizer": optimizer.state_dict(), "model_args": model_args}
            saved |= {"iter_num": iter_num, "best_val_loss": best_val_loss, "config": config}
            torch.save(saved, os.path.join(out_dir, "ckpt.pt"))
    for micro_step in range(gradient_accumulation_steps):
        if ddp:
            model.require_backward_grad_sync = micro_step == gradient_accumulation_steps - 1
        logits, loss = model(X, Y)
        loss = loss / gradient_accumulation_steps
        X, Y = get_batch("train")
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if master_process:
        print(f"LOSS {iter_num} {loss.item() * gradient_accumulation_steps:.6f}", flush=True)
    iter_num += 1
    while 0 < int(os.environ.get("HOLD_AT", "0")) <= iter_num and not Path("..", "stopping").exists():
        time.sleep(0.05)  # at the step that the test says, for the stop that it then asks for
    if iter_num > max_iters:
        break
if ddp:
    destroy_process_group()
