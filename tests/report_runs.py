"""Folders of runs as they come home, and the page that is made of one."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from winfleet import report
from winfleet.core.plan import Plan
from winfleet.rehearsal.advice import predict_run
from winfleet.rehearsal.allreduce import RingLink
from winfleet.rehearsal.prediction import HostSpeed, Measured
from winfleet.view import records

START = 1_795_560_300.0
SECONDS = 58
GPU = "NVIDIA GeForce RTX 4090"


def parts_of(rank: int) -> dict[str, float]:
    """Where the time of its steps goes."""
    data = 0.05 * rank
    return {"compute_seconds": 0.12, "communication_seconds": 0.06 - data, "data_seconds": 0.01 + data}


class Run:
    """A folder as it comes home: 2 hosts with one rank each, 300 steps, a validation every 50, usage once a second."""

    def __init__(self, folder: Path, *, gpus: bool = False) -> None:
        self.folder, self.gpus, self.hosts = folder, gpus, ["worker1", "worker2"]
        self.random = random.Random(7)
        self.plan: dict[str, Any] = {
            "run": "20261124-0745", "command": ["train.py", "--config", "{config}"], "code": "0c0de0c0de00",
            "environment": "e27e27e27e27", "config": "max_steps: 300\nlearning_rate: 0.001\n",
            "hosts": [
                {"name": name, "address": f"10.0.0.{rank + 11}", "machine_rank": rank, "processes": 1,
                 "first_rank": rank, "gpus": [GPU] * gpus} for rank, name in enumerate(self.hosts)
            ],
        }  # fmt: skip
        self.status = {name: self._status(rank, name) for rank, name in enumerate(self.hosts)}
        self.metrics = {name: self.course(rank, 1, 1, 300) for rank, name in enumerate(self.hosts)}
        self.usage = {name: self._usage(rank) for rank, name in enumerate(self.hosts)}

    def _status(self, rank: int, name: str) -> dict[str, Any]:
        return {
            "run": "20261124-0745", "host": name, "machine_rank": rank, "state": "finished", "time": START + SECONDS + 0.4,
            "started": START, "world_size": 2, "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
            "ranks": [{"rank": rank, "state": "ended", "step": 300, "steps": 300, "loss": 2.5, "exit_code": 0}],
            "cause": None, "events": [{"time": START + 2, "text": f"Rank {rank}/2 initialized"}],
        }  # fmt: skip

    def course(self, rank: int, generation: int, first: int, last: int) -> list[Any]:
        """Lines of a metrics file: each rank notes the steps at which its own half second is over."""
        lines: list[Any] = []
        for step in range(first, last + 1):
            at, loss = {"generation": generation, "step": step}, 2.3 + 3.35 * math.exp(-step / 92.32)
            if step == first or step % (3 + rank) == 0:
                rate = None if step == first else 80 + self.random.gauss(0, 3)
                timed = {**at, "time": START + SECONDS * step / 300, **(parts_of(rank) if step > first else {})}
                lines.append({**timed, "loss": loss + self.random.gauss(0, 0.12), "samples_per_second": rate})
            if rank == 0 and (step == 1 or step % 50 == 0):
                lines.append({**at, "logged": {"validation_loss": round(loss, 3), "learning_rate": 1e-3}})
        return lines

    def _usage(self, rank: int) -> list[Any]:
        use = {"rank": rank, "cpu_percent": 90.0, "memory_mib": 600.0}
        use |= {"gpu_percent": 95.0, "gpu_memory_mib": 9_216.0, "gpu_celsius": 70.0 + rank} if self.gpus else {}
        return [{"time": START + second, "ranks": [use]} for second in range(SECONDS)]

    def fail(self, exception: str, lines: list[str], step: int = 173) -> None:
        """Rank 1 fails; rank 0, whose clock is behind, lost its peer."""
        for (name, status), after in zip(self.status.items(), (30.1, 30.6), strict=True):
            rank = status["machine_rank"]
            status.update(state="failed", time=START + 31.5)
            status["ranks"][0].update(step=step, exit_code=1)
            text, tail = (exception, lines) if rank == 1 else ("RuntimeError: Connection closed by peer", [])
            status["cause"] = {"host": name, "rank": rank, "exit_code": 1, "text": text, "lines": tail}
            status["cause"]["time"] = START + after
            self.metrics[name] = [line for line in self.metrics[name] if line["step"] <= step]

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(self.plan), "utf-8")
        for rank, name in enumerate(self.hosts):
            home = self.folder / name
            home.mkdir(exist_ok=True)
            (home / "status.json").write_text(json.dumps(self.status[name]), "utf-8")
            for file, lines in ((f"metrics-rank{rank}", self.metrics[name]), ("usage", self.usage[name])):
                (home / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
            (home / f"rank{rank}.log").touch()
            (home / "launcher.log").touch()
        return self.folder

    def load(self) -> records.RunData:
        return report.load(self.write())

    def page(self) -> str:
        return report.render(self.load())

    def line(self) -> str:
        return report.closing_line(self.load(), Path("x.html"))


def eventful(folder: Path) -> Run:
    """A run with GPUs that was predicted, restarted, ran out of memory and got stuck."""
    run = Run(folder, gpus=True)
    happened = [
        (1, "Training started with 2 GPUs across 2 nodes", ""), (14, "Restarted: attempt 2", "restart"),
        (26, "OOM on rank 1 of worker2 at step 134: batch_size 8 -> 4, gradient_accumulation_steps 2 -> 4", "oom"),
        (41, "rank 1 on worker2 has not moved for 120 s: train.py:88 in main, in all_reduce", "stuck"),
    ]  # fmt: skip
    for rank, (name, status) in enumerate(run.status.items()):
        status["events"] = [{"time": START + at, "text": text, "kind": kind} for at, text, kind in happened]
        status["ranks"][0].update(parts_of(rank))
        (folder / name).mkdir(parents=True)
        (folder / name / f"rank{rank}.stack.txt").write_text("train.py:88 in main, in all_reduce")
    hosts = tuple(
        HostSpeed(name=name, kind=GPU, ranks=1, micro_batch_seconds=0.12, data_seconds=0.01) for name in run.hosts
    )
    link = RingLink(bytes_per_second=117e6, latency_seconds=2e-4)
    (folder / "prediction.json").write_text(
        predict_run(Measured(hosts=hosts, gradient_bytes=16 * 2**20, samples=8, link=link)).to_json()
    )
    return run


def brought_home(folder: Path, plan: Plan, runs: Iterable[Path]) -> records.RunData:
    """What the report knows of a real run; `runs` are the run's folders on the plan's hosts."""
    for host, run in zip(plan.hosts, runs, strict=True):
        shutil.copytree(run, folder / host.name, ignore=shutil.ignore_patterns("work"))
    (folder / "plan.json").write_text(plan.to_json(), "utf-8")
    return report.load(folder)


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def pieces_drawn(html: str, key: str) -> list[int]:
    """How often the pen goes down for each of a plot's lines."""
    svg = next(part for part in html.split("<figure")[1:] if f'"{key}-' in part).split("</figure>")[0]
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--(?:c\d|ink|muted)\)', svg)
    return [path.count("M ") for path in paths]
