"""What averaging does to a loss: validation losses of a model of ten million weights, each method at its best learning rate.

    .venv/bin/python bench/averaging_loss.py [--hours 2] [--record bench/averaging_loss.jsonl] [--steps 512] [--table]

A byte GPT is trained on the sources of Python's standard library (code and English) with plain DDP, one process a host on
the loopback, and what is sent between them is `winfleet.averaging`, as in a run. Learning rates are chosen with one seed at
a quarter of the steps, and where two are alike at all of them; then the methods of that search train with three seeds each, the others with one. Each training is a line of the record: the
next call goes on where this one stopped. Seconds are not looked at, so other work may run beside it. Losses are those of
the mean, behind a barrier. Whatever the figures say, it exits with 0. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import socket
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from frame import ROOT, BenchError, goal, measure, print_machine
from torch import Tensor, nn
from winfleet import averaging
from winfleet.core.sending import Sending
from winfleet.rank.meter import Meter

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 320, 8, 5, 128, 4  # 9.9 million weights; 512 tokens a rank and step
WARM_STEPS, CLIP, DECAY, BETAS = 50, 1.0, 0.1, (0.9, 0.95)
LEARNING_RATES: Final = (1e-4, 3e-4, 1e-3, 2e-3)
ALIKE: Final = 1.01  # losses of two learning rates, closer than which the longer training decides
STEPS: Final = 512
SEEDS: Final = (1, 2, 3)
SHARE: Final = 4  # learning rates are chosen at one of so many parts of the steps
LOOKS: Final = 4  # losses a training
VALIDATION: Final = 64  # sequences
HELD_BACK: Final = 20  # one of so many files is for validation
METHODS: Final = {
    "DDP": Sending(),
    "fp16": Sending(gradients="fp16"),
    "every 32, 1.0/0": Sending(average_every=32, average_outer=(1.0, 0.0)),
    "every 32, 1.0/0.5": Sending(average_every=32, average_outer=(1.0, 0.5)),
    "every 32, 0.7/0.9": Sending(average_every=32, average_outer=(0.7, 0.9)),
    "every 8, 1.0/0": Sending(average_every=8, average_outer=(1.0, 0.0)),
    "every 8, 1.0/0.5": Sending(average_every=8, average_outer=(1.0, 0.5)),
    "every 32, 1.0/0.5, 4 bits": Sending(average_every=32, average_bits=4, average_outer=(1.0, 0.5)),
    "every 128, 1.0/0": Sending(average_every=128, average_outer=(1.0, 0.0)),
    "every 128, 1.0/0.5": Sending(average_every=128, average_outer=(1.0, 0.5)),
}
SEARCHED: Final = ("DDP", "every 32, 1.0/0", "every 32, 1.0/0.5", "every 32, 0.7/0.9")
BASE: Final = "DDP"
LIKE: Final = "every 32, 1.0/0.5"  # whose learning rate the others take that were not searched
PROPOSED: Final = {
    "every 32, 1.0/0.5": 0.01,
    "every 128, 1.0/0.5": 0.03,
}  # method -> how much above DDP's loss is the goal


@dataclass(frozen=True, slots=True)
class Training:
    """One line of the record, but for its losses."""

    method: str
    learning_rate: float
    steps: int
    seed: int = 1
    ranks: int = 2


class Block(nn.Module):
    """Attention and a perceptron of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, WIDTH] to the same."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.first(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
        result: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return result


class GPT(nn.Module):
    """Bytes to the mean loss of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, CONTEXT + 1] bytes to a scalar."""
        hidden = self.blocks(self.tokens(x[:, :-1]) + self.places.weight)
        return nn.functional.cross_entropy(self.head(self.norm(hidden)).flatten(0, 1), x[:, 1:].flatten())


def text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train with and to validate with: the standard library's own modules, in the order of their names."""
    home = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(home.rglob("*.py")) if not {"site-packages", "test"} & set(path.parts)]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for index, path in enumerate(files):
        parts[index % HELD_BACK == 0].append(path.read_bytes())
    train, held = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    return train, held


def sequences(data: np.ndarray, starts: np.ndarray) -> Tensor:
    """[len(starts), CONTEXT + 1]."""
    return torch.from_numpy(np.stack([data[start : start + CONTEXT + 1] for start in starts]).astype(np.int64))


def schedule(step: int, steps: int) -> float:
    """Of the learning rate: linear at first, then a cosine down to a tenth."""
    if step < WARM_STEPS:
        return (step + 1) / WARM_STEPS
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARM_STEPS) / max(1, steps - WARM_STEPS))


def train(rank: int, training: Training, port: int, losses: Any) -> None:
    """As one rank. Puts a validation loss of the mean, LOOKS times."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(training.ranks))
    sending = METHODS[training.method]
    if sending != Sending():
        averaging.install(sending, (1,) * training.ranks, Meter(None))
    dist.init_process_group("gloo")
    torch.manual_seed(training.seed)
    model = nn.parallel.DistributedDataParallel(GPT())
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, betas=BETAS, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, training.steps))
    data, held = text()
    order = np.random.default_rng(training.seed)  # the same on all ranks; each takes its part
    looks = sequences(held, np.random.default_rng(7).integers(0, len(held) - CONTEXT - 1, VALIDATION))
    for step in range(1, training.steps + 1):
        starts = order.integers(0, len(data) - CONTEXT - 1, BATCH * training.ranks)[rank :: training.ranks]
        model(sequences(data, starts)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rate.step()
        optimizer.zero_grad(set_to_none=True)
        if step % (training.steps // LOOKS) == 0:
            dist.barrier()  # behind which all ranks hold the mean
            if rank == 0:
                with torch.no_grad():
                    losses.put(float(model.module(looks)))
    dist.destroy_process_group()


def run(training: Training) -> list[float]:
    """Its validation losses. Raises BenchError where a rank fails."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    losses = context.Queue()
    ranks = [context.Process(target=train, args=(rank, training, port, losses)) for rank in range(training.ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise BenchError(f"{training}: a rank failed")
    return [losses.get() for _ in range(LOOKS)]


class Record:
    """Trainings that are done, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.losses: dict[Training, list[float]] = {}
        for line in lines:
            told = json.loads(line)
            losses = told.pop("losses")
            self.losses[Training(**told)] = losses

    def add(self, training: Training, losses: list[float]) -> None:
        """One more."""
        self.losses[training] = losses
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(training), "losses": [round(loss, 4) for loss in losses]}) + "\n")

    def last(self, training: Training) -> float | None:
        """Its loss at the end, if it is done."""
        found = self.losses.get(training)
        return found[-1] if found else None

    def good_rates(self, method: str, steps: int) -> list[float]:
        """The learning rates with the least losses at a part of the steps, the best first; [] before all were tried."""
        found = {rate: self.last(Training(method, rate, steps // SHARE)) for rate in LEARNING_RATES}
        known = {rate: loss for rate, loss in found.items() if loss is not None}
        if len(known) < len(found):
            return []
        least = min(known.values())
        return sorted((rate for rate in known if known[rate] <= ALIKE * least), key=lambda rate: known[rate])

    def best_rate(self, method: str, steps: int) -> float | None:
        """The one of these that has the least loss at all steps; None before they were tried."""
        searched = method if method in SEARCHED else BASE if METHODS[method].average_every == 0 else LIKE
        found = {rate: self.last(Training(searched, rate, steps)) for rate in self.good_rates(searched, steps)}
        known = {rate: loss for rate, loss in found.items() if loss is not None}
        return min(known, key=lambda rate: known[rate]) if known and len(known) == len(found) else None


def todo(record: Record, steps: int) -> Iterator[Training]:
    """What is to be trained, in its order; asked anew after each training, as the next depends on what came out."""
    for rate in LEARNING_RATES:
        for method in SEARCHED:
            yield Training(method, rate, steps // SHARE)
    for method in SEARCHED:
        for rate in record.good_rates(method, steps):
            yield Training(method, rate, steps)
    others = [method for method in METHODS if method not in SEARCHED]
    for seed, methods in ((SEEDS[0], others), *((seed, SEARCHED) for seed in SEEDS[1:])):
        for method in methods:
            best = record.best_rate(method, steps)
            assert best is not None, "the search comes before"
            yield Training(method, best, steps, seed)


def go_on(record: Record, steps: int, seconds: float) -> None:
    """Trains what the record lacks; begins none after so many seconds. Raises BenchError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        missing = next((training for training in todo(record, steps) if training not in record.losses), None)
        if missing is None:
            return
        begun = time.monotonic()
        record.add(missing, run(missing))
        print(f"{missing}: {record.last(missing):.4f}, {time.monotonic() - begun:.0f} s", flush=True)


def seeds_of(record: Record, method: str, steps: int) -> list[float]:
    """Its losses at its best learning rate, of the seeds that are done."""
    rate = record.best_rate(method, steps)
    found = [record.last(Training(method, rate, steps, seed)) for seed in SEEDS] if rate else []
    return [loss for loss in found if loss is not None]


def above(record: Record, method: str, steps: int = STEPS) -> float | None:
    """Share of its mean loss above that of DDP, of as many seeds; None where one of them is not done, or there is no such method."""
    losses, base = (seeds_of(record, name, steps) for name in (method, BASE)) if method in METHODS else ([], [])
    of = min(len(losses), len(base))
    return statistics.mean(losses[:of]) / statistics.mean(base[:of]) - 1 if of else None


def print_tables(record: Record, steps: int) -> None:
    """The search, and all methods against DDP at equal tokens."""
    print(f"\n| {steps // SHARE} steps, 2 ranks | {' | '.join(f'lr {rate:g}' for rate in LEARNING_RATES)} |")
    print("|---|" + "---|" * len(LEARNING_RATES))
    for method in SEARCHED:
        row = [record.last(Training(method, rate, steps // SHARE)) for rate in LEARNING_RATES]
        print(f"| {method} | {' | '.join('' if loss is None else f'{loss:.3f}' for loss in row)} |")
    print(f"\n| {steps} steps, 2 ranks | lr | loss | seeds | above DDP |\n|---|---|---|---|---|")
    for method in METHODS:
        losses, more = seeds_of(record, method, steps), above(record, method, steps)
        if more is None:
            continue
        said = f", {goal(more, PROPOSED[method], form='.0%')}" if method in PROPOSED else ""
        spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        rate = record.best_rate(method, steps)
        print(f"| {method} | {rate:g} | {statistics.mean(losses):.3f}{spread} | {len(losses)} | {more:+.1%}{said} |")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measures what averaging does to a loss, in pieces.")
    parser.add_argument("--hours", type=float, default=20.0, help="no training is begun after these")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--record", type=Path, default=ROOT / "bench/averaging_loss.jsonl")
    parser.add_argument("--table", action="store_true", help="trains nothing, prints what the record has")
    found = parser.parse_args()
    if found.steps % (SHARE * LOOKS * 32):
        parser.error(f"--steps: a multiple of {SHARE * LOOKS * 32}, so that losses are looked at where a round ends")
    record = Record(found.record)
    print_machine()

    def work() -> None:
        if not found.table:
            go_on(record, found.steps, 3600 * found.hours)
        print_tables(record, found.steps)

    return measure(work)


if __name__ == "__main__":
    sys.exit(main())
