"""Fails in many ways, one after the other, and prints what each said: {code of the cause: "Type: text"}, as a rank's record has it."""

import datetime as dt
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

Failure = Callable[[], object]


class Killed(Dataset[int]):
    """Its worker is ended as Linux does when memory runs out."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dist.TCPStore("127.0.0.1", taken.getsockname()[1], 1, True, use_libuv=False)


def closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    dist.TCPStore("127.0.0.1", port, 2, False, dt.timedelta(seconds=1), use_libuv=False)


def full_disk() -> None:
    with open("/dev/full", "w") as file:
        file.write("x")


def foreign_address() -> None:
    with socket.socket() as one:
        one.bind(("192.0.2.7", 0))


def no_right() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program").write_text("not executable")
        subprocess.run([f"{folder}/program"], check=False)


def ranks(do: Callable[[dist.ProcessGroup, int], object]) -> None:
    """Two ranks of one gloo group as two threads; raises what the first of them raises."""
    store, errors = dist.HashStore(), []

    def run(rank: int) -> None:
        try:
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
            options._timeout = dt.timedelta(seconds=60)
            do(dist.ProcessGroupGloo(store, rank, 2, options), rank)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def all_reduce_alone() -> None:
    """Rank 1 does not come until rank 0 has given up."""
    failed, options = threading.Event(), dist.AllreduceOptions()
    options.timeout = dt.timedelta(seconds=0.3)

    def reduce(group: dist.ProcessGroup, rank: int) -> None:
        if rank == 1:
            failed.wait(60)
            return
        try:
            group.allreduce([torch.ones(4)], options).wait()
        finally:
            failed.set()

    ranks(reduce)


def spawn_without_main() -> None:
    """A script as users write them, that starts a process without asking whether it is the main one."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(
            "import multiprocessing as m\nm.set_start_method('spawn', force=True)\nm.Process(target=print).start()\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        raise RuntimeError(done.stderr)


def miss_a_rank() -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, True, dt.timedelta(seconds=0.5), use_libuv=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=dt.timedelta(seconds=0.5))


def compile_without_compiler() -> None:
    """torch looks for the compiler when it compiles for the first time."""
    with tempfile.TemporaryDirectory() as folder:
        from torch._inductor import config  # reads CXX once, which may be long ago

        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        config.cpp.cxx = (f"{folder}/none",)
        torch.compile(torch.sin)(torch.ones(3))


class Half(torch.nn.Module):
    """Has a layer that it does not use, and runs the other one `times` times, each of them checkpointed."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.times = times

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            batch = checkpoint(self.used, batch, use_reentrant=True)
        return batch


def train_in_ddp(model: torch.nn.Module, **options: Any) -> None:
    """Two steps of a lone rank."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = DistributedDataParallel(model, **options)
    for _ in range(2):
        wrapped(torch.ones(1, 2, requires_grad=True)).sum().backward()
    wrapped.generate()


def train_fp16_weights() -> None:
    """As scripts for LoRA do that load their model in fp16."""
    model = torch.nn.Linear(2, 2).half()
    optimizer, scaler = torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 2).half()).float().sum()).backward()
    scaler.unscale_(optimizer)


def load(*, objects: bool) -> None:
    """A checkpoint with an object in it, or one that was cut off."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        torch.save(Path("x") if objects else torch.ones(1000), path)
        if not objects:
            os.truncate(path, 1000)
        torch.load(path)


def make_twice() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(folder)


FAILURES: dict[str, Failure] = {
    "nccl-missing": lambda: dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29999", rank=0, world_size=1),
    "port-taken": taken_port,
    "store-unreachable": closed_port,
    "address-foreign": foreign_address,
    "gloo-adapter": lambda: dist.ProcessGroupGloo.create_device(interface="이더넷"),
    "shapes-differ": lambda: ranks(lambda group, rank: group.allreduce([torch.ones(4 + 4 * rank)]).wait()),
    "all-reduce-timeout": all_reduce_alone,
    "memory": lambda: torch.empty(10**15),
    "cuda-build": lambda: torch.ones(1, device="cuda"),
    "disk-full": full_disk,
    "path-long": lambda: os.open("x" * 300, os.O_RDONLY),
    "file-denied": no_right,
    "file-missing": lambda: os.open("/nowhere/train.bin", os.O_RDONLY),
    "module-missing": lambda: __import__("einops_of_nobody"),
    "code-page": lambda: "손실".encode().decode("cp949"),
    "loader-ended": lambda: next(iter(DataLoader(Killed(), num_workers=1))),
    "loader-pickle": lambda: pickle.dumps(lambda: None),
    "loader-main": spawn_without_main,
    "checkpoint-other": lambda: torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict()),
    "rank-missing": miss_a_rank,
    "compiler-missing": compile_without_compiler,
    "ddp-wrapped": lambda: train_in_ddp(torch.nn.Linear(2, 2)),
    "ready-twice": lambda: train_in_ddp(Half(times=2), find_unused_parameters=True),
    "unused-parameters": lambda: train_in_ddp(Half(times=1)),
    "ranks-race": make_twice,
    "fp16-weights": train_fp16_weights,
    "device-ids": lambda: train_in_ddp(torch.nn.Linear(2, 2), device_ids=[0]),
    "gloo-type": lambda: ranks(lambda group, _: group.allreduce([torch.ones(4, dtype=torch.int16)]).wait()),
    "dtypes-differ": lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2).half()),
    "no-grad": lambda: torch.ones(1).sum().backward(),
    "lengths-differ": lambda: next(iter(DataLoader([torch.ones(1), torch.ones(2)], batch_size=2))),
    "index-range": lambda: torch.nn.Embedding(2, 2)(torch.tensor([5])),
    "weights-only": lambda: load(objects=True),
    "file-damaged": lambda: load(objects=False),
}  # fmt: skip


def words_of(fail: Failure) -> str:
    """What it says, in a process of its own that has torch already: what it leaves behind, or ends, is nobody's."""
    words, errors = Path("words"), Path("errors")
    words.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            fail()
        except Exception as error:  # noqa: BLE001 (its words are the result)
            words.write_text(f"{type(error).__name__}: {error}", "utf-8")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return (words if words.exists() else errors).read_text("utf-8")


def main() -> None:
    multiprocessing.set_start_method("fork")
    print(json.dumps({code: words_of(fail) for code, fail in FAILURES.items()}))


if __name__ == "__main__":
    main()
