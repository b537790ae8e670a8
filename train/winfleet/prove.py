r"""Proves on this PC what only a real one can show, and writes a file that may be sent.

    python -m winfleet.prove --home C:\winfleet [--yes] [--only trains,ctrl-c]

`launch_distributed.cmd -Prove` calls it by the environment's Python; several PCs: `ansible-playbook prove.yml`. Exit status: 0
where nothing failed, 1 where something did, 2 where nothing was done.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from winfleet.core.causes import advise
from winfleet.core.errors import HostError
from winfleet.core.files import write_atomic
from winfleet.core.status import Status, read_file
from winfleet.machine.hardware import gpu_names
from winfleet.preflight.problems import read_names
from winfleet.proofs.claims_table import PROVED_BY_PROGRAM, chosen
from winfleet.proofs.on_host import GONE_SECONDS, NAME, RUNS, end_in, prove, undo, wait_until_gone
from winfleet.proofs.outcome import FAILED, Outcome, failed, holds, not_applicable, read_outcomes
from winfleet.proofs.record import summary, write
from winfleet.proofs.trainings import (
    BEGIN_SECONDS,
    END_SECONDS,
    LARGE,
    OUTPUT,
    SCRIPT,
    Home,
    ProofError,
    Said,
    Trainings,
    judge_large,
    lay_out,
)
from winfleet.runs.state import command_line
from winfleet.support.archive import accounts_here

TRAIN: Final = Path(__file__).resolve().parent.parent  # of this checkout
ALONE: Final = "one PC by itself: ansible-playbook prove.yml proves it"
ALONE_STEPS: Final = 100
CREATE_NEW_CONSOLE: Final = 0x10  # winbase.h
QUESTION: Final = """The proofs train on this PC for some minutes, with all its GPUs, and end ranks and launchers of their own.
Nothing of yours is changed, and what they make is taken away. Type yes to begin: """


class OnePc:
    """The launcher of this PC by itself; runs lie in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.hosts: Sequence[str] = [platform.node() or "localhost"]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.running = ""
        lay_out(TRAIN, folder / "project")
        words = [sys.executable, str(TRAIN / "make_text.py"), str(folder / "data")]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            raise HostError(f"the example's text could not be made in {folder}\nhint: is there room on the disk?")

    def place(self, run: str) -> Path:
        """The folder in which the launcher is started."""
        return self.folder / run

    def command(self, run: str, training: Mapping[str, Any]) -> list[str]:
        """The launcher's command line; writes the settings."""
        here = self.place(run)
        here.mkdir(exist_ok=True)
        lines = [f"  {name}: {value}" for name, value in {"wandb": "false", "output_dir": OUTPUT, **training}.items()]
        write_atomic(here / "config.yaml", "\n".join(["training:", *lines, ""]))
        script = [
            str(self.folder / "project" / SCRIPT),
            "--data",
            str(self.folder / "data"),
            "--config",
            str(here / "config.yaml"),
        ]
        return [sys.executable, "-m", "winfleet.launch", "--auto", "--apart", "--", *script]

    def run(self, run: str, words: Sequence[str], **more: Any) -> subprocess.Popen[bytes]:
        """Starts it; what it prints stands in its folder."""
        with (self.place(run) / "said.txt").open("wb") as said:
            return subprocess.Popen(
                words, cwd=self.place(run), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, **more
            )

    def said(self, run: str, code: int) -> Said:
        """What it printed until now."""
        return Said(code=code, text=(self.place(run) / "said.txt").read_text("utf-8", "replace"))

    def begin(self, run: str, steps: int) -> None:
        """See Cluster."""
        self.process, self.running = self.run(run, self.command(run, {"steps": steps, "checkpoint_every": steps})), run

    def ended(self) -> bool:
        """See Cluster."""
        return self.process is None or self.process.poll() is not None

    def finish(self) -> Said:
        """See Cluster."""
        code = self.process.wait() if self.process else 2
        told = self.said(self.running, code)
        return Said(code=code, text=f"{told.text}\n{self.hosts[0]}: the launcher ended with {code}\n")

    def stop(self, run: str) -> Said:
        """See Cluster; a PC by itself has no command for it."""
        if self.process:
            self.process.kill()
        return Said(code=1, text=f"run {run} was killed: {ALONE}")

    def look(self, run: str) -> Sequence[Status]:
        """See Cluster."""
        found = [read_file(path) for path in self.place(run).glob("logs/*/*/status.json")]
        return [status for status in found if status]

    def end(self, host: str, run: str, what: str) -> Sequence[int]:
        """See Cluster."""
        del host
        (status,) = self.place(run).glob("logs/*/*/status.json")
        return end_in(status.parent, what)

    def ranks(self, run: str) -> list[int]:
        """Process ids of its ranks that live."""
        pids = [rank.pid for status in self.look(run) for rank in status.ranks if rank.pid]
        return [pid for pid in pids if "winfleet.runner" in command_line(pid)]

    def home(self, run: str) -> Home:
        """See Cluster."""
        files = [str(path.relative_to(self.place(run))) for path in self.place(run).rglob("*") if path.is_file()]
        return Home(files=files)


class Alone(Trainings):
    """The trainings of a PC by itself."""

    def whole(self) -> None:
        """One that finishes, as nothing there can be stopped and continued."""
        run = f"{NAME}-whole"
        self.say("A training begins and goes on to its end")
        self.cluster.begin(run, ALONE_STEPS)
        said = self.cluster.finish()
        if said.code:
            raise ProofError(said.last_error)
        losses = [float(line.split("loss ")[1].split()[0]) for line in said.text.splitlines() if "  loss " in line]
        files = [name for name in self.cluster.home(run).files if OUTPUT in name]
        told = f"loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "no loss was printed"
        self.found["trains"] = holds(bool(losses) and losses[-1] < losses[0], told)
        self.found["korean-names"] = holds(bool(files), f"{len(files)} files in {OUTPUT}, by {SCRIPT}")
        for name in ("stop-and-continue", "prediction"):
            self.found[name] = not_applicable(ALONE)


def ctrl_c(pc: OnePc) -> Outcome:
    """Ctrl-C in a console of its own."""
    run = f"{NAME}-ctrl-c"
    go = pc.folder / "go"
    words = pc.command(run, {"steps": 100_000, "checkpoint_every": 0})
    own: dict[str, Any] = {"creationflags": CREATE_NEW_CONSOLE} if os.name == "nt" else {"start_new_session": True}
    process = pc.run(run, [sys.executable, "-m", "winfleet.proofs.ctrl_c", "--go", str(go), "--", *words], **own)
    deadline = time.monotonic() + BEGIN_SECONDS
    while not any(rank.step for status in pc.look(run) for rank in status.ranks) and time.monotonic() < deadline:
        if process.poll() is not None:
            return failed(pc.said(run, process.returncode).last_error)
        time.sleep(0.2)
    ranks = pc.ranks(run)
    go.touch()
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return failed(f"the launcher did not end within {END_SECONDS:.0f} s after Ctrl-C")
    left = wait_until_gone(ranks, "winfleet.runner")
    return holds(
        code == 3 and not left,
        f"exit status {code}, {len(left)} of {len(ranks)} ranks lived on after {GONE_SECONDS:.0f} s",
    )


def out_of_memory(pc: OnePc) -> Outcome:
    """A batch that is too large for the GPUs, halved until it fits."""
    if not gpu_names():
        return not_applicable("no GPU here")
    run = f"{NAME}-oom"
    return judge_large(pc.said(run, pc.run(run, pc.command(run, LARGE)).wait()))


def prove_all(home: Path, wanted: set[str]) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Every claim that this PC can show; facts of it. Raises HostError, OSError."""
    means = {"python": sys.executable, "package": TRAIN, "logon": "interactive", "password": ""}
    try:
        told = prove(home, means)
    except HostError as error:  # who is no administrator may be refused a task; a PC by itself trains without
        refused = not_applicable(f"no task may be started by this account: {error}")
        told = {"outcomes": {"task-runs": refused.told()}, "facts": {"system": platform.platform()}}
    found = read_outcomes(told["outcomes"])
    pc = OnePc(home / NAME)
    found |= Alone(pc, "here", lambda text: print(text, flush=True), wanted=sorted(wanted)).prove()
    if "ctrl-c" in wanted:
        found["ctrl-c"] = ctrl_c(pc)
    if "oom-real" in wanted:
        found["oom-real"] = out_of_memory(pc)
    found |= {name: not_applicable(ALONE) for name in PROVED_BY_PROGRAM if name not in found}
    return {name: one for name, one in found.items() if name in wanted}, told["facts"]


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.prove", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--home", type=Path, required=True, help="folder of winfleet on this PC")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--only", default="", help="names of claims, with commas (default: all)")
    given = parser.parse_args(words)
    try:
        try:
            wanted = chosen(read_names(given.only))
        except ValueError as error:
            raise HostError(str(error)) from None
        if not given.yes and (not sys.stdin.isatty() or input(QUESTION).strip() != "yes"):
            raise HostError("nobody agreed, so nothing was done\nhint: type yes, or give --yes")
        try:
            found, facts = prove_all(given.home, wanted)
        finally:
            undo(given.home)
        path = Path("logs", f"{RUNS}{time.strftime('%Y%m%d-%H%M%S')}.md").resolve()
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, write(found, {platform.node(): facts}, (), accounts_here()))
    except (HostError, OSError) as error:
        text = str(error)
        print(f"error: {text}{'' if 'hint:' in text else advise(text, 'this PC')}", file=sys.stderr)
        return 2
    print(f"Wrote {path}: {summary(found)}")
    return 1 if any(one.state == FAILED for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
