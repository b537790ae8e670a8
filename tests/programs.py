"""How tests run programs; some do not spend seconds on importing torch or Ansible: they are forked from one that has them."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, ROOT, SCRIPTS, patience
from servers import free_port

TORCH = ("accelerate", "winfleet.launcher.agent", "winfleet.rank.watching")
ANSIBLE = ("ansible.cli.playbook",)


Environment = Mapping[str, str]
NOTHING: Environment = {}


def call(
    *words: str | Path, folder: Path = ROOT, given: str = "", environment: Environment = NOTHING
) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end, which is given the text, and variables besides those that all tests have."""
    return subprocess.run(
        words, cwd=folder, env={**ENVIRONMENT, **environment}, input=given, capture_output=True, text=True, check=False,
        timeout=patience(300),
    )  # fmt: skip


def output_of(*words: str | Path, folder: Path = ROOT, given: str = "", environment: Environment = NOTHING) -> str:
    """What a program prints; fails the test where it fails."""
    done = call(*words, folder=folder, given=given, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_git(*words: str) -> list[str]:
    """The files that `git ls-files` lists; skips the test where there is no checkout."""
    listed = call("git", "ls-files", "-z", *words)
    if listed.returncode:
        pytest.skip("no checkout of git")
    return [name for name in listed.stdout.split("\0") if name]


@functools.cache
def parent(shared: Sequence[str]) -> "subprocess.Popen[str]":
    """The process that is forked, scripts/forked.py; it ends with this one, whose end closes its standard input."""
    command = [sys.executable, str(SCRIPTS / "forked.py"), *shared]
    return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(shared: Sequence[str], **asked: Any) -> Any:
    """Its answer."""
    process = parent(shared)
    assert process.stdin
    assert process.stdout
    print(json.dumps(asked), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


class Forked:
    """`python words…` in a folder, with what it prints in files; `shared` are the modules that it has from its parent."""

    def __init__(
        self, folder: Path, *words: str | Path, output: Path,
        environment: Environment = ENVIRONMENT, shared: Sequence[str] = TORCH,
    ) -> None:  # fmt: skip
        self.output, self.shared = output, shared
        self.returncode: int | None = None
        given = {"folder": str(folder), "environment": dict(environment), "output": str(output)}
        self.pid: int = ask(shared, **given, words=[str(word) for word in words])

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        if self.returncode is None:
            self.returncode = ask(self.shared, wait=self.pid)
        return self.returncode

    def wait(self, seconds: float) -> int:
        """The same once it has ended; ends it, and the test, where that takes longer."""
        deadline = time.monotonic() + patience(seconds)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{self.output}: {self.said}")
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        """Ends it, and waits for its end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)

    @property
    def printed(self) -> str:
        """Its standard output."""
        return Path(f"{self.output}.out").read_text("utf-8")

    @property
    def said(self) -> str:
        """What it wrote to its standard errors."""
        return Path(f"{self.output}.err").read_text("utf-8")


def run_forked(
    folder: Path, *words: str | Path, environment: Environment = ENVIRONMENT, shared: Sequence[str] = TORCH
) -> "subprocess.CompletedProcess[str]":
    """Such a process, once it has ended."""
    with tempfile.TemporaryDirectory() as logs:
        process = Forked(folder, *words, output=Path(logs, "output"), environment=environment, shared=shared)
        return subprocess.CompletedProcess(words, process.wait(120), process.printed, process.said)


def end_ranks(
    folder: Path, *words: str | Path, ranks: int, environment: Environment
) -> "list[subprocess.CompletedProcess[str]]":
    """The ranks of one host, told of each other as torch's agent would, once all have ended; with one that fails all end."""
    group = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    with tempfile.TemporaryDirectory() as logs:
        started = []
        for rank in range(ranks):
            variables = {**environment, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(Forked(folder, *words, output=Path(logs, f"rank{rank}"), environment=variables))
        deadline = time.monotonic() + patience(120)
        while None in (codes := [process.poll() for process in started]):
            if any(codes) or time.monotonic() > deadline:
                for process in started:
                    process.kill()
            time.sleep(0.02)
        return [
            subprocess.CompletedProcess(words, process.wait(1), process.printed, process.said) for process in started
        ]


def run_ranks(folder: Path, *words: str | Path, ranks: int, environment: Environment) -> str:
    """What they print, once all have ended well."""
    ended = end_ranks(folder, *words, ranks=ranks, environment=environment)
    assert [rank.returncode for rank in ended] == [0] * ranks, "".join(rank.stdout + rank.stderr for rank in ended)
    return "".join(rank.stdout for rank in ended)
