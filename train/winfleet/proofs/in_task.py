"""What is proved in a detached task of a host, by the environment in which ranks train: GPUs, long paths. Writes files alone.

    python -m winfleet.proofs.in_task --folder FOLDER

`alive.json` stands there once it runs, with a request that this PC stays awake; it goes on when `go` stands there, and leaves
`result.json`: {"outcomes", "facts"}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from winfleet.core.files import write_atomic
from winfleet.machine.hardware import Gpus, gpu_names
from winfleet.machine.nvidia_smi import gpus
from winfleet.machine.windows import keep_awake
from winfleet.proofs.outcome import Outcome, failed, holds, not_applicable, proved

GO_SECONDS: Final = 120.0
SIDE: Final = 256  # of the matrices that are multiplied
LONG: Final = 300  # characters of a path; Windows without LongPathsEnabled takes 259
NEAR_MIB: Final = 64.0  # between two looks at the memory of a GPU
LONG_PATHS: Final = (r"SYSTEM\CurrentControlSet\Control\FileSystem", "LongPathsEnabled")
NO_GPU: Final = "no GPU here"


def session() -> int | None:
    """Windows' number of the session this process is in, 0 where nobody is signed in; elsewhere that of its leader."""
    if os.name != "nt":
        return os.getsid(0)
    windll: Any = ctypes.__dict__["WinDLL"]
    number = ctypes.c_uint32()
    return number.value if windll("kernel32").ProcessIdToSessionId(os.getpid(), ctypes.byref(number)) else None


def prove_cuda() -> Outcome:
    """Each GPU of the driver multiplies, in this task."""
    if not gpus():
        return not_applicable(NO_GPU)
    import torch

    if not torch.cuda.is_available():
        return failed(f"torch {torch.__version__} finds no CUDA here, nvidia-smi {len(gpus())} GPUs")
    for index in range(torch.cuda.device_count()):
        ones = torch.ones(SIDE, SIDE, device=f"cuda:{index}")
        if float((ones @ ones).sum()) != float(SIDE**3):
            return failed(f"a product on GPU {index} is wrong")
    number, listed = torch.cuda.device_count(), len(gpu_names())
    return holds(number == listed, f"torch {torch.__version__} multiplies on {number} GPUs, NVML lists {listed}")


def prove_nvml() -> Outcome:
    """NVML names the GPUs, and has of their memory, what nvidia-smi has."""
    told = gpus()
    if not told:
        return not_applicable(NO_GPU)
    names, looked = [str(gpu["name"]) for gpu in told], Gpus().look()
    sizes = [gpu.memory_total_mib for gpu in looked]
    if list(gpu_names()) != names:
        return failed(f"NVML names {', '.join(gpu_names()) or 'none'}, nvidia-smi {', '.join(names)}")
    far = [
        f"GPU {index}: {size} MiB by NVML, {gpu['memory_mib']} by nvidia-smi"
        for index, (size, gpu) in enumerate(zip(sizes, told, strict=False))
        if size is None or abs(size - gpu["memory_mib"]) > NEAR_MIB
    ]
    return holds(
        not far and len(sizes) == len(told), "; ".join(far) or f"both name {', '.join(names)}, with one memory"
    )


def long_paths_enabled() -> bool:
    """Whether this system takes paths of more than 259 characters."""
    if os.name != "nt":
        return True
    import winreg  # of Windows' Python alone

    registry: Any = winreg
    try:
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, LONG_PATHS[0]) as key:
            return bool(registry.QueryValueEx(key, LONG_PATHS[1])[0])
    except OSError:
        return False


def prove_long_paths(folder: Path) -> Outcome:
    """Where Windows is set to take them, a file at a long path is written and read."""
    enabled, path = long_paths_enabled(), folder
    while len(str(path)) < LONG:
        path /= "0123456789" * 4
    try:
        path.mkdir(parents=True)
        (path / "file").write_text("text", "utf-8")
        whole = (path / "file").read_text("utf-8") == "text"
    except OSError as error:
        if enabled:
            return failed(f"a path of {len(str(path))} characters is refused: {error.strerror}")
        return proved(
            f"LongPathsEnabled is off, and a path of {len(str(path))} characters is refused: such data is named before it is sent"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return holds(whole, f"a file at a path of {len(str(path))} characters was written and read")


def facts() -> dict[str, Any]:
    """What the file of proofs says of a machine."""
    import torch

    return {
        "system": platform.platform(), "Python": platform.python_version(), "torch": torch.__version__,
        "GPUs": [f"{gpu['name']}, driver {gpu['driver']}, {gpu['memory_mib']} MiB" for gpu in gpus()],
    }  # fmt: skip


def attempt(proof: Callable[[], Outcome]) -> Outcome:
    """The proof's outcome; what it raises is one, too."""
    try:
        return proof()
    except Exception as error:  # noqa: BLE001 (whatever torch, the driver or the disk raise is what was seen)
        return failed(f"{type(error).__name__}: {error}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.proofs.in_task")
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder
    keep_awake()
    write_atomic(
        folder / "alive.json", json.dumps({"pid": os.getpid(), "session": session(), "python": sys.executable})
    )
    deadline = time.monotonic() + GO_SECONDS
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    found = {
        "task-cuda": attempt(prove_cuda),
        "nvml-agrees": attempt(prove_nvml),
        "long-paths": attempt(lambda: prove_long_paths(folder / "long")),
    }
    told = {"outcomes": {name: one.told() for name, one in found.items()}, "facts": facts()}
    write_atomic(folder / "result.json", json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
