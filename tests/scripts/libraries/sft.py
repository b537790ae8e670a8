"""TRL's SFTTrainer with LoRA on a tiny GPT, made on the spot; it accumulates four micro-batches a step."""

import os
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


def hold(step: int) -> None:
    """Waits, at the step that the test says, for the stop that it then asks for."""
    at = int(os.environ.get("HOLD_AT", "0"))
    while at and step >= at and not Path("..", "stopping").exists():
        time.sleep(0.05)


class Hold(TrainerCallback):
    """At the end of a step."""

    def on_step_end(self, _args, state, *_, **__):
        hold(state.global_step)


torch.manual_seed(0)
words = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number + 2 for number in range(60)}}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=32))
texts = [" ".join(f"w{(number * 7 + at) % 60}" for at in range(12)) for number in range(400)]
arguments = SFTConfig(
    "out", max_steps=20, per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=500, save_steps=50,
    report_to="none", disable_tqdm=True, use_cpu=True, max_length=16, learning_rate=1e-2, gradient_checkpointing=False,
)  # fmt: skip
trainer = SFTTrainer(
    model, arguments, train_dataset=Dataset.from_dict({"text": texts}), processing_class=fast, callbacks=[Hold()],
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"]),
)  # fmt: skip
trainer.train()
print("BEHIND", flush=True)
