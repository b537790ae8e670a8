"""The Python environment of a worker: made by uv from the lock, or an interpreter that is given. Standard library alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.causes import advise, explain
from ..core.errors import HostError
from ..core.files import end_of, read_object, temporary_variables
from ..transfer.folders import SHORT
from .interpreters import HINT, MANAGED, say_taken, system_python

MARK = "winfleet.json"  # of an environment: its lock's digest, written once it is whole
KEEP = 2  # environments: the new one, and the one before it
OFFLINE_HINT = "set uv_env_wheels for a host without internet"
LIMIT_MINUTES = 60.0  # a CUDA build has 3 GB, half an hour at 15 Mbit/s
SILENT_SECONDS = "120"  # of an index, until uv asks again; its own 30 are few for a slow line
BEST = "unsafe-best-match"  # of several indexes the one with the best version, as pip has it; hashes say what is taken
SAID = 3_000  # characters of a program's last words

LOOK = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
PROVE = """
import sys, torch
gpus, seen = int(sys.argv[1]), torch.cuda.device_count()
if gpus and not seen:
    sys.exit(f"torch {torch.__version__} sees none of the {gpus} GPUs that nvidia-smi lists")
for device in [f"cuda:{n}" for n in range(seen)] or ["cpu"]:
    ones = torch.ones(64, 64, device=device)
    assert float((ones @ ones).sum()) == 64.0**3, f"a matrix product on {device} is wrong"
"""


class Step(NamedTuple):
    """One command on the way to an environment."""

    title: str
    command: list[str]
    hint: str


def look(python: str, names: list[str]) -> dict[str, str]:
    """Versions of an interpreter and its packages. Raises OSError or CalledProcessError."""
    found = subprocess.run([python, "-I", "-c", LOOK, json.dumps(names)], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def differences(found: dict[str, str], wanted: dict[str, list[str]], python_version: str) -> list[str]:
    """What does not satisfy the lock. A local part, as +cpu or +cu130, tells builds of one version apart and is let pass."""
    said = [
        f"{name} is {found.get(name, 'missing')}, the lock says {' or '.join(versions)}"
        for name, versions in sorted(wanted.items())
        if found.get(name, "").partition("+")[0] not in [version.partition("+")[0] for version in versions]
    ]
    if not found["python"].startswith(python_version + "."):
        said.append(f"Python is {found['python']}, wanted is {python_version}")
    return said


def interpreter(folder: Path) -> Path:
    """Python of an environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def build_of(folder: Path) -> str:
    """Version of the environment's torch with its build, as 2.13.0+cu130; "" where there is none."""
    packages = folder.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    found = [path for place in packages for path in place.glob("torch-*.dist-info")]
    return found[0].name[len("torch-") : -len(".dist-info")] if found else ""


def is_cpu_build(version: str, *, windows: bool) -> bool:
    """Whether a torch is the build without GPUs: +cpu, and what PyPI has for Windows."""
    local = version.partition("+")[2]
    return local == "cpu" or (windows and bool(version) and not local)


def lock_of(folder: Path) -> str:
    """Digest of the lock that an environment was made from; "" where it is not whole."""
    return str(read_object(folder / MARK).get("digest", ""))


def is_whole(folder: Path, given: Mapping[str, Any]) -> bool:
    """Whether the environment is there. One of another lock, or without GPUs on a host that has got some since, does not count."""
    return lock_of(folder) == given["digest"] and not (
        wanted_gpus(given) and is_cpu_build(build_of(folder), windows=os.name == "nt")
    )


def say_other_lock(home: Path, given: Mapping[str, Any]) -> str:
    """Why a host that is to be given nothing cannot train: the lock that is asked for, and those of what it has."""
    there = sorted((home / "env").glob(f"*/{MARK}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
    others = list(dict.fromkeys(digest[:SHORT] for mark in there if (digest := lock_of(mark.parent))))
    wanted = given["digest"][:SHORT]
    if wanted in others:
        what = f"its environment of the lock {wanted} has no GPU build of torch"
    elif others:
        what = f"its environment is of the lock {' and '.join(others)}, this controller's lock is {wanted}"
    else:
        what = f"it has no environment, this controller's lock is {wanted}"
    return f"{what}; none is made with fleet_skip_deploy\nhint: run deploy_and_train.yml without it once"


def wanted_gpus(given: Mapping[str, Any]) -> int:
    """How many GPUs torch must see: none where its CPU build is asked for by name."""
    return 0 if given["torch_backend"] == "cpu" else int(given.get("gpus", 0))


def index_strategy(requirements: str) -> list[str]:
    """Options of uv for requirements that name other indexes."""
    return ["--index-strategy", BEST] if requirements.startswith("--extra-index-url ") else []


def steps(given: Mapping[str, Any], folder: Path, requirements: Path) -> list[Step]:
    """The commands that make the environment, in their order."""
    uv = str(given.get("uv") or folder.parent.parent / "agent" / ("uv.exe" if os.name == "nt" else "uv"))
    python = str(interpreter(folder))
    base = [str(given["base"])] if given["base"] else [str(given["python_version"]), MANAGED]
    offline = ["--offline", "--no-index", "--find-links", str(given["wheels"])] if given["wheels"] else []
    links = ["--find-links", str(given["built"])] if given.get("built") else []  # wheels that the index has not
    backend = [f"--torch-backend={given['torch_backend']}"] if given["torch_backend"] and not offline else []
    hint = (
        f"a wheel in {given['wheels']} is spoiled or missing; if winfleet brought that folder, remove it and run again" if offline
        else f"is the package index reachable from this host? {given.get('offline_hint', OFFLINE_HINT)}"
    )  # fmt: skip
    build = (
        "the wheels hold torch's CPU build: set uv_env_torch_backend as uv_env's README says" if offline
        else "is the driver new enough for this build? set uv_env_torch_backend to another, as cu126, or to cpu"
    )  # fmt: skip
    return [
        Step("Python", [uv, "venv", "--python", *base, *offline[:1], str(folder)], hint if given["base"] else HINT.format(version=given["python_version"])),
        Step("packages", [uv, "pip", "sync", "--python", python, "--require-hashes", *offline, *links, *index_strategy(given["requirements"]), str(requirements)], hint),
        Step("torch", [uv, "pip", "install", "--python", python, *offline, *backend, f"torch=={given['torch']}"], hint),
        Step("a matrix product on each device", [python, "-I", "-c", PROVE, str(wanted_gpus(given))], build),
    ]  # fmt: skip


def make(home: Path, given: Mapping[str, Any], folder: Path, say: Callable[[str], object] = str) -> None:
    """Makes the environment; its mark is written last, so that a half-made one is made again. Raises HostError.

    `say` is told each step's title; what its program prints goes to env/<digest>.log.
    """
    environment, secrets = variables(home, given, os.environ, windows=os.name == "nt"), secrets_of(given)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    requirements = folder.parent / f"{folder.name}.requirements.txt"
    requirements.write_text(given["requirements"], encoding="utf-8")
    minutes = float(given.get("limit_minutes") or LIMIT_MINUTES)
    deadline = time.monotonic() + 60 * minutes
    python, *others = steps(given, folder, requirements)
    say(python.title)
    note = make_python(
        python, given, environment, lambda step: run(step, environment, folder, deadline, minutes, secrets)
    )
    for step in others:
        say(step.title)
        run(step, environment, folder, deadline, minutes, secrets)
    for old in sorted(folder.parent.glob(f"*/{MARK}"), key=lambda path: path.stat().st_mtime)[: -KEEP + 1]:
        shutil.rmtree(old.parent)
    (folder / MARK).write_text(json.dumps({"digest": given["digest"], "note": note}), encoding="utf-8")


def variables(home: Path, given: Mapping[str, Any], inherited: Mapping[str, str], *, windows: bool) -> dict[str, str]:
    """The environment of uv: what this process has inherited, ours, then uv_env_environment and the secrets, which win."""
    found = {**inherited, "NO_COLOR": "1", "UV_PYTHON_INSTALL_DIR": str(home / "agent" / "interpreters")}
    found.setdefault("UV_HTTP_TIMEOUT", SILENT_SECONDS)
    users = {**given.get("environment", {}), **secrets_of(given)}
    if windows:  # nothing of ours lies below the user's folder, whose name may not be ASCII
        found |= {"UV_CACHE_DIR": str(home / "agent" / "cache"), "PYTHONUTF8": "1", **temporary_variables(home)}
        users = {name.upper(): value for name, value in users.items()}  # as os.environ has them
        if not {"UV_SYSTEM_CERTS", "UV_NATIVE_TLS"} & {*found, *users}:
            found["UV_SYSTEM_CERTS"] = "true"  # Windows knows what a company has put before the internet
    return {**found, **{name: str(value) for name, value in users.items()}}


def secrets_of(given: Mapping[str, Any]) -> dict[str, str]:
    """Variables of uv_env_secrets."""
    return dict((given.get("secrets") or {}).get("uv") or {})


def make_python(
    step: Step, given: Mapping[str, Any], environment: Mapping[str, str], do: Callable[[Step], object]
) -> str:
    """Makes the environment's Python by `do`; what is to be said of it, "" where it is the one that was wanted. Raises HostError."""
    try:
        do(step)
    except HostError:
        version = str(given["python_version"])
        taken = None if given["base"] else system_python(step.command[0], version, environment, windows=os.name == "nt")
        if taken is None:
            raise
        said = last_words(Path(step.command[-1]))
        do(step._replace(command=[*step.command[:3], taken[0], step.command[-1]]))
        return say_taken(version, taken, said)
    return ""


def log_of(folder: Path) -> Path:
    """The file with what uv prints while it makes this environment."""
    return folder.with_name(f"{folder.name}.log")


def last_words(folder: Path) -> str:
    """The end of what they printed; "" where there is nothing."""
    return end_of(log_of(folder), SAID).strip()


def run(
    step: Step,
    environment: Mapping[str, str],
    folder: Path,
    deadline: float,
    minutes: float,
    secrets: Mapping[str, str],
) -> None:
    """Runs a step's command until it has ended, or until `deadline` (monotonic). Raises HostError with its last words.

    What it prints stays without the values of `secrets`.
    """
    named = f"`{' '.join(step.command[:3])}`"
    with log_of(folder).open("wb") as file:
        process = subprocess.Popen(
            step.command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    hide(log_of(folder), secrets.values())
    if code is None:
        raise HostError(
            f"{named} was not done after {minutes:.12g} minutes:\n{last_words(folder)}\n"
            "hint: run again, what was downloaded is kept; or set uv_env_limit_minutes for a slow line"
        )
    if code:
        said = last_words(folder)
        quoted = textwrap.indent(said, "  | ")  # uv says "error: " too
        raise HostError(f"{named} failed with {code}:\n{quoted}{advise_on_packages(said, step.hint)}")


def hide(path: Path, secrets: Iterable[str]) -> None:
    """Takes secrets, and passwords of URLs among them, out of a file."""
    whole = [value for value in secrets if value]
    parts = [password for value in whole if (password := re.sub(r"^\w+://[^/@]*?:([^/]*)@.*$", r"\1", value)) != value]
    text = old = path.read_bytes()
    for word in (*whole, *parts):
        text = text.replace(word.encode(), b"***")
    if text != old:
        path.write_bytes(text)


def advise_on_packages(said: str, hint: str) -> str:
    """Cause and hint for the words of uv, or of the Python that it made; the step's own hint too where it may help."""
    known = explain(said)
    return advise(said, "this host") + ("" if known and not known.code.startswith("index-") else f"\nhint: {hint}")


def ensure(home: Path, given: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Makes env/<digest> if it is missing, or takes `python`; {"changed", "python", "versions"}.

    Raises HostError where uv fails, or where the interpreter does not satisfy the lock.
    """
    folder, changed = home / "env" / given["digest"][:SHORT], False
    python = given["python"] or str(interpreter(folder))
    if not given["python"] and not is_whole(folder, given):
        if given["refuse"]:
            raise HostError(say_other_lock(home, given))
        changed = True
        if check:
            return {"changed": True, "python": python, "versions": {}}
        make(home, given, folder)
    try:
        versions = look(python, list(given["direct"]))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise HostError(
            f"{python} cannot be used: {said}\nhint: set uv_env_python to a Python, or to nothing"
        ) from None
    if wrong := differences(versions, given["direct"], given["python_version"]):
        fix = f"remove {folder}, then run again: it is made anew"
        if given["python"]:
            fix = f"install train/constraints.txt into {python}, or leave uv_env_python empty"
        raise HostError(f"{python} does not satisfy the lock: {'; '.join(wrong)}\nhint: {fix}")
    note = read_object(folder / MARK).get("note", "") if changed or given.get("finish") else ""
    return {"changed": changed, "python": python, "versions": versions, "note": note}
