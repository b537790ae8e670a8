"""Train a small GPT on the bytes of a text, with Hugging Face Accelerate. Make a text: `python make_text.py data`.

Alone, with what this machine has:   python train.py --config configs/train_config.yaml
With two processes on this machine:  torchrun --nproc-per-node 2 train.py --config configs/train_config.yaml
Tiny, on a CPU, in about a minute:   OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 train.py
All that is written goes to output/. Started again, it goes on from the newest checkpoint there.
"""

import argparse
import atexit
import dataclasses
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from train_config import load


class GPT(nn.Module):
    """A transformer decoder over bytes."""

    def __init__(self, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 256, bias=False)
        for weights in (weights for weights in self.parameters() if weights.dim() > 1):
            nn.init.normal_(weights, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Bytes, uint8 of shape (batch, context + 1), to their mean loss in nats per byte, a scalar."""
        x = self.token(tokens[:, :-1].long()) + self.position.weight  # (batch, context, width)
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        logits = self.head(self.blocks(x, mask=causal, is_causal=True))
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].long().flatten())


@dataclasses.dataclass
class Progress:
    """The loop's own state. Accelerate saves it last, so a folder where it can be read is a complete checkpoint."""

    step: int = 0  # optimizer steps that are done: logged, validated and saved
    validation_losses: dict[int, float] = dataclasses.field(default_factory=dict)  # step: nats per byte

    def state_dict(self) -> dict[str, Any]:
        """What Accelerate saves."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        vars(self).update(state)


def complete_steps(checkpoints: Path) -> list[int]:
    """The steps of which this machine holds a complete checkpoint, ascending. A last file cut off is no zip file."""
    last_files = checkpoints.glob("step_*[0-9]/custom_checkpoint_0.pkl")
    return sorted(int(file.parent.name.removeprefix("step_")) for file in last_files if zipfile.is_zipfile(file))


def resume(accelerator: Accelerator, checkpoints: Path, progress: Progress) -> str:
    """Loads the newest checkpoint that all processes hold, if there is one; says what it did."""
    common = set.intersection(*map(set, gather_object([complete_steps(checkpoints)])))
    if not common:
        return "no checkpoint that all processes hold: starts at step 0"
    accelerator.load_state(str(checkpoints / f"step_{max(common):06d}"))
    # Accelerate's count of micro-batches is one too high in a checkpoint that was made while one was under way.
    accelerator.step = progress.step * accelerator.gradient_accumulation_steps
    return f"newest checkpoint that all processes hold: resumes after step {progress.step}"


def save(accelerator: Accelerator, checkpoints: Path, step: int) -> None:
    """Saves a checkpoint on every machine, then keeps the newest two there and removes the rest."""
    folder = checkpoints / f"step_{step:06d}"
    if accelerator.is_local_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # an old last file in it would make a half-written one look complete
    accelerator.wait_for_everyone()
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        for old in set(complete_steps(checkpoints)[:-2]) - {step}:
            shutil.rmtree(checkpoints / f"step_{old:06d}", ignore_errors=True)


def main() -> None:  # noqa: C901, PLR0915 (read from top to bottom, like the training it is)
    """The whole training."""
    parser = argparse.ArgumentParser(description="Trains a small GPT on the bytes of a text.")
    parser.add_argument("--config", default="configs/train_config.yaml", help="settings, a YAML file")
    parser.add_argument("--data", default="data", type=Path, help="folder with train.txt and validation.txt")
    arguments = parser.parse_args()
    config = load(arguments.config)
    output, accumulation = Path(config.output_dir), config.gradient_accumulation_steps
    accelerator = Accelerator(
        gradient_accumulation_steps=accumulation,
        mixed_precision=config.mixed_precision,
        project_config=ProjectConfiguration(str(output), save_on_each_node=True),
        step_scheduler_with_optimizer=False,  # or the schedule would take a step for every process
    )
    processes, say = accelerator.num_processes, accelerator.on_main_process(partial(print, flush=True))
    if processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise RuntimeError("Accelerate found no GPU, so each process is alone\nhint: set ACCELERATE_USE_CPU=true")
    set_seed(config.seed)

    # Data: windows of context + 1 bytes, in the same random order on every machine; Accelerate deals the batches out.
    def loader(name: str, batches: int, workers: int = 0, pin: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        windows = torch.from_numpy(np.fromfile(arguments.data / name, np.uint8)).unfold(0, config.context + 1, 1)
        order = np.random.default_rng(config.seed).integers(len(windows), size=batches * config.batch_size * processes)
        return DataLoader(TensorDataset(windows), config.batch_size, sampler=order, num_workers=workers, pin_memory=pin)

    batches = loader("train.txt", config.steps * accumulation, config.num_workers, config.pin_memory)
    validation_batches = loader("validation.txt", config.eval_batches * accumulation)

    # Model, optimizer and schedule: linear warm-up, then a cosine down to a tenth.
    def schedule(step: int) -> float:
        warm, rest = config.warmup_steps, max(1, config.steps - config.warmup_steps)
        return (step + 1) / warm if step < warm else float(0.55 + 0.45 * np.cos(np.pi * (step - warm) / rest))

    gpt, progress = GPT(config.context, config.layers, config.heads, config.width), Progress()
    adamw = torch.optim.AdamW(gpt.parameters(), config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    model, optimizer, scheduler, batches, validation_batches = accelerator.prepare(
        gpt, adamw, torch.optim.lr_scheduler.LambdaLR(adamw, schedule), batches, validation_batches
    )
    accelerator.register_for_checkpointing(progress)
    batch = f"{config.batch_size} batch_size x {accumulation} gradient_accumulation_steps x {processes} processes"
    size = sum(weights.numel() for weights in gpt.parameters())
    say(f"model of {size:,} parameters, mixed precision {config.mixed_precision}, device {accelerator.device}")
    say(f"effective batch {config.batch_size * accumulation * processes} = {batch}")
    say(resume(accelerator, output / "checkpoints", progress))

    # Trackers: Accelerate's own, and a wandb run for each process, in one group, so that every PC can be watched.
    output.mkdir(parents=True, exist_ok=True)
    facts = dataclasses.asdict(config) | {"max_steps": config.steps}
    accelerator.init_trackers("winfleet", config=facts)
    group, name = os.environ.get("WINFLEET_RUN", "local"), f"rank{accelerator.process_index}"
    mode: Any = "disabled" if not config.wandb else "online" if os.environ.get("WANDB_API_KEY") else "offline"
    quiet = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="winfleet", group=group, name=name, mode=mode, dir=output, config=facts, settings=quiet)
    atexit.register(run.finish)  # in time for wandb to note how this process ended, however it did

    def log(text: str, **values: float) -> None:
        say(f"step {progress.step}/{config.steps}  {text}")
        for tracker in (accelerator, run):
            tracker.log(values, step=progress.step)

    @torch.no_grad()
    def validate() -> None:
        model.eval()
        losses = torch.stack([model(tokens) for (tokens,) in validation_batches])
        model.train()
        progress.validation_losses[progress.step] = loss = float(accelerator.reduce(losses.mean(), "mean"))
        log(f"validation loss {loss:.4f}", validation_loss=loss)

    # The loop. Whenever backward() begins on a step's first batch, all of the step before is done, and counted.
    validate()  # after a resume too, which tells the trackers where the count of steps goes on
    losses: list[Tensor] = []  # of the step's micro-batches
    for (tokens,) in accelerator.skip_first_batches(batches, progress.step * accumulation):
        with accelerator.accumulate(model):
            loss = model(tokens)
            losses.append(loss.detach())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            scheduler.step()
            progress.step += 1
            last = progress.step == config.steps
            if config.log_every and (last or progress.step % config.log_every == 0):
                mean = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))  # over the effective batch
                log(f"loss {mean:.4f}  lr {scheduler.get_last_lr()[0]:.2e}", train_loss=mean)
            if last or (config.eval_every and progress.step % config.eval_every == 0):
                validate()
            if config.checkpoint_every and (last or progress.step % config.checkpoint_every == 0):
                save(accelerator, output / "checkpoints", progress.step)
            losses.clear()

    accelerator.save_model(model, str(output / "model"))
    accelerator.end_training()


if __name__ == "__main__":
    main()
