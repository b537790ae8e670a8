"""Hugging Face's Trainer on a tiny GPT, made on the spot: what a script of today does, and its losses as it prints them."""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments


def hold(step: int) -> None:
    """Waits, at the step that the test says, for the stop that it then asks for."""
    at = int(os.environ.get("HOLD_AT", "0"))
    while at and step >= at and not Path("..", "stopping").exists():
        time.sleep(0.05)


class Hold(TrainerCallback):
    """At the end of a step."""

    def on_step_end(self, _args, state, *_, **__):
        hold(state.global_step)


parser = argparse.ArgumentParser()
parser.add_argument("--resume", default="none")
parser.add_argument("--steps", type=int, default=24)
parser.add_argument("--limit", type=int)
found = parser.parse_args()
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=128, n_positions=16))
texts = torch.randint(0, 128, (512, 16), generator=torch.Generator().manual_seed(1))
arguments = TrainingArguments(
    "out", max_steps=found.steps, per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=1,
    save_steps=10, save_total_limit=found.limit, report_to="none", disable_tqdm=True, use_cpu=True, learning_rate=1e-3,
)  # fmt: skip
trainer = Trainer(
    model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in texts], callbacks=[Hold()]
)
given = {"none": {}, "false": {"resume_from_checkpoint": False}, "true": {"resume_from_checkpoint": True}}[found.resume]
result = trainer.train(**given)
if trainer.is_world_process_zero():
    print("RESULT", json.dumps({"rate": result.metrics["train_samples_per_second"], "log": trainer.state.log_history}))
print("WEIGHTS", hashlib.sha256(torch.cat([w.detach().reshape(-1) for w in model.parameters()]).numpy()).hexdigest())
trainer.save_model("final")
print("BEHIND", flush=True)
