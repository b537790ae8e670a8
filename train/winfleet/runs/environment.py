"""The environment variables of a run's ranks."""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from pathlib import Path

from winfleet.core.files import temporary_variables
from winfleet.core.plan import Host, Plan
from winfleet.core.status import NO_RESUME
from winfleet.machine.system import usable_cores


def prepare_environment(
    plan: Plan, host: Host, folder: Path, *, console: bool, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Sets what every rank inherits. What the user has set already stands."""
    environ.update({
        "WINFLEET_RUN": plan.run, "WINFLEET_RUN_FOLDER": str(folder.resolve()), "WINFLEET_ADDRESS": host.address,
        "WINFLEET_BACKEND": plan.backend, "WINFLEET_LOG": "console" if console else "file",
    })  # fmt: skip
    package = str(Path(__file__).resolve().parents[2])
    environ["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environ.get("PYTHONPATH")])])
    environ.pop(NO_RESUME, None)
    if not plan.resume:
        environ[NO_RESUME] = "1"
    plan.sending.export([one.processes for one in plan.hosts], environ)
    if host.os == "Windows" and not console:  # at a console one_pc.py has done it
        home = folder.resolve().parent.parent
        environ.update(temporary_variables(home))
        environ.setdefault("HF_HOME", str(home / "huggingface"))
    environ.update(plan.variables.get(host.name, {}))
    environ.setdefault("PYTHONUTF8", "1")  # else output in a pipe or file has Windows' ANSI code page
    environ.setdefault("PYTHONUNBUFFERED", "1")
    environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // host.processes)))
    environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML's order, so that its index is local_rank
    if not host.gpus:
        environ.setdefault("ACCELERATE_USE_CPU", "true")  # a bare Accelerator() stays alone without
    if plan.mixed_precision != "no":
        environ.setdefault("ACCELERATE_MIXED_PRECISION", plan.mixed_precision)
    if plan.backend == "nccl" and host.adapter:
        environ.setdefault("NCCL_SOCKET_IFNAME", host.adapter)


def take_secrets(folder: Path) -> None:
    """Reads runs/<run>/secrets.json into the environment and deletes it."""
    path = folder / "secrets.json"
    if path.exists():
        secrets = json.loads(path.read_text("utf-8"))
        path.unlink()
        os.environ.update({str(name): str(value) for name, value in secrets.items()})
