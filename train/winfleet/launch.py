"""The launcher: starts a host's ranks from the plan, or, alone on one host, from what it finds there.

    python -m winfleet.launch --auto [--processes N] -- train.py --config configs/train_config.yaml
    python -m winfleet.launch --plan runs/RUN/plan.json --machine-rank 1 [--detach]

Exit status: 0 finished, 1 failed, 2 nothing was started, 3 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from winfleet.checkpoints.exchange import Exchange
from winfleet.core.causes import LAUNCHER, advise
from winfleet.core.files import send_output_to
from winfleet.core.plan import (
    AGENTS_PORT,
    HOST_NAME,
    RANKS_PORT,
    STATUS_PORT,
    Host,
    Plan,
    PlanError,
    check_script,
    choose_backend,
)
from winfleet.core.status import STOP_AT, STOPPING, Cause, StatusError, describe_failure, parse, plain
from winfleet.launcher.board import Board
from winfleet.machine.hardware import gpu_names, owner_of_port
from winfleet.runs.environment import prepare_environment, take_secrets
from winfleet.runs.state import step_of
from winfleet.runs.work import changed_sources, enter_work, fill_in

log = logging.getLogger("winfleet")

EXIT_CODES: Final = {"finished": 0, "failed": 1, "stopped": 3}
DETACH_SECONDS: Final = 60.0  # a PC that is busy, or slow to import


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where this host's part of the run listens or connects."""

    ranks: int = RANKS_PORT
    agents: int = AGENTS_PORT
    status: int = STATUS_PORT


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m winfleet.launch", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--auto", action="store_true", help="this host alone, as many processes as it has GPUs")
    parser.add_argument("--processes", type=int, default=0, help="with --auto: how many (default: its GPUs, else 1)")
    parser.add_argument("--restarts", type=int, default=0, help="with --auto: new attempts after a rank has failed")
    parser.add_argument(
        "--apart", action="store_true", help="with --auto: the command runs in a new folder, logs/RUN/work"
    )
    parser.add_argument("--plan", type=Path, help="plan.json; its folder is the run's folder")
    parser.add_argument("--machine-rank", type=int, help="with --plan: which of its hosts this one is")
    parser.add_argument("--detach", action="store_true", help="with --plan: return once the launcher has started")
    parser.add_argument("--log", type=Path, help="with --plan: a file for all output")
    parser.add_argument(
        "--logon", choices=("s4u", "interactive", "password"), default="s4u",
        help="with --detach on Windows: how the launcher's scheduled task signs in; a password comes in WINFLEET_TASK_PASSWORD",
    )  # fmt: skip
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="with --auto: -- script.py args, or -- -m module args"
    )
    found = parser.parse_args(words)
    found.command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if found.auto == bool(found.plan):
        parser.error("give either --auto or --plan")
    if found.auto and not found.command:
        parser.error("no command\nhint: python -m winfleet.launch --auto -- train.py")
    if found.plan and found.machine_rank is None:
        parser.error("--plan needs --machine-rank")
    if found.processes < 0 or found.restarts < 0:
        parser.error(f"--processes {found.processes} --restarts {found.restarts}: give numbers from 0 on")
    return found


def plan_for_this_host(command: Sequence[str], processes: int, restarts: int) -> Plan:
    """--auto's plan. Raises PlanError where the script is not there."""
    check_script(command)
    gpus = gpu_names()
    name = socket.gethostname()
    host = Host(
        name=name if HOST_NAME.fullmatch(name) else "localhost", address="127.0.0.1", machine_rank=0, first_rank=0,
        processes=processes or len(gpus) or 1, gpus=gpus, os="Windows" if os.name == "nt" else "Linux",
    )  # fmt: skip
    return Plan(
        run=time.strftime("%Y%m%d-%H%M%S"), command=tuple(command), hosts=(host,), max_restarts=restarts,
        backend=choose_backend([host]),
    )  # fmt: skip


def free_ports(address: str) -> Ports:
    """The usual ports where they are free, others where a second run on this host has them."""
    found: list[int] = []
    with contextlib.ExitStack() as sockets:
        for port in (RANKS_PORT, AGENTS_PORT, STATUS_PORT):
            bound = sockets.enter_context(socket.socket())
            try:
                bound.bind((address, port))
            except OSError:
                bound.bind((address, 0))
            found.append(bound.getsockname()[1])
    return Ports(ranks=found[0], agents=found[1], status=found[2])


def check_ports(host: Host, ports: Ports) -> None:
    """Raises PlanError naming who holds a port that this host is to listen on."""
    needed = [ports.status, *([ports.ranks, ports.agents] if host.machine_rank == 0 else [])]
    for port in needed:
        with socket.socket() as probe:
            if os.name != "nt":  # connections of an earlier run that still fade away are no one's
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.address, port))
            except OSError as error:
                raise PlanError(
                    f"{host.name}: port {port} on {host.address} cannot be had: {error.strerror}; "
                    f"it belongs to {owner_of_port(host.address, port)}\nhint: end that process, or wait for its end"
                ) from None


def launch(plan: Plan, host: Host, folder: Path, ports: Ports, *, console: bool) -> str:
    """Runs this host's part of the plan to its end and returns its state. Raises PlanError before anything is started."""
    check_ports(host, ports)
    left = [folder / name for name in ("stop", STOPPING, STOP_AT)]
    for stale in [*left, *folder.glob("rank*.json"), *folder.glob("rank*.stack.txt")]:
        stale.unlink(missing_ok=True)
    reached = step_of(folder)
    board = Board(plan, host, folder, console=console)

    def say(text: str) -> None:
        board.say(text, event=True)

    board.serve(ports.status)
    board.say("Initializing distributed training...")
    board.start()
    try:
        prepare_environment(plan, host, folder, console=console)
        take_secrets(folder)
        exchange = None
        if not console:
            exchange = Exchange(plan, host, folder, say, is_new=not (folder / "work").exists(), reached=reached)
            enter_work(plan, host, folder, say)
        from winfleet.launcher.agent import run_ranks  # torch: seconds, in which the status is there already

        command = fill_in(plan.command, plan, folder)
        outcome = run_ranks(plan, host, folder, command, board, (ports.ranks, ports.agents), exchange)
    except BaseException as error:  # before the ranks: no room for the work folder, a torch that cannot be imported
        text = f"{type(error).__name__}: {plain(error)}"
        if not isinstance(error, PlanError) and (known := advise(text, host.name, LAUNCHER)):
            print(f"error: {text}{known}", file=sys.stderr)
        board.end("failed", Cause(host=host.name, text=text, time=time.time()), {})
        raise
    for name in changed_sources(folder):
        say(f"{name} was written into, where data was only lent to this run; the next deployment sends that data anew")
    if outcome.cause is not None:
        log.error("%s", describe_failure(outcome.cause))
    board.end(outcome.state, outcome.cause, outcome.exit_codes)
    return outcome.state


def detach(plan_file: Path, machine_rank: int, logon: str) -> int:
    """Starts the launcher so that it outlives whoever started it; returns an exit status once it lives or has ended."""
    folder, package = plan_file.parent, Path(__file__).resolve().parent.parent
    log_file, refused = folder / "launcher.log", folder / "refused"
    refused.unlink(missing_ok=True)
    begin, before = log_file.stat().st_size if log_file.exists() else 0, time.time()
    words = ["-m", "winfleet.launch", "--plan", str(plan_file), "--machine-rank", str(machine_rank),
             "--log", str(log_file)]  # fmt: skip
    password = os.environ.pop("WINFLEET_TASK_PASSWORD", "")  # nobody may inherit it
    process = None
    if os.name == "nt":
        from winfleet.machine.windows import start_task

        start_task("launcher", words, package, logon, password)
    else:
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(package)},
        )  # fmt: skip
    while time.time() - before < DETACH_SECONDS and not refused.exists():
        with contextlib.suppress(OSError, StatusError):
            if parse((folder / "status.json").read_text("utf-8")).started >= before:
                return 0
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    said = log_file.read_bytes()[begin:].decode("utf-8", "replace") if log_file.exists() else ""
    print(said[-2_000:] or f"the launcher said nothing within {DETACH_SECONDS:.0f} s", file=sys.stderr)
    return 2


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    found = arguments(words)
    logging.basicConfig(format="%(asctime)s [%(levelname)s] %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    try:
        if found.plan and found.detach:
            return detach(found.plan.resolve(), found.machine_rank, found.logon)
        if found.log:
            send_output_to(found.log)
        if os.name == "nt":
            from winfleet.machine.windows import end_children_with_me, keep_awake

            end_children_with_me()
            keep_awake()
        if found.plan:
            plan = Plan.load(found.plan)
            host, folder, ports = plan.host(found.machine_rank), found.plan.resolve().parent, Ports()
        else:
            plan = plan_for_this_host(found.command, found.processes, found.restarts)
            host, ports = plan.host(0), free_ports(plan.host(0).address)
            folder = Path("logs", plan.run, host.name).resolve()
            folder.mkdir(parents=True)
            (folder.parent / "plan.json").write_text(plan.to_json(), encoding="utf-8")
            if found.apart:
                (folder.parent / "work").mkdir()
                os.chdir(folder.parent / "work")
        return EXIT_CODES[launch(plan, host, folder, ports, console=found.auto)]
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        if found.log:
            (found.plan.parent / "refused").touch()  # for whoever waits in detach()
        return 2


if __name__ == "__main__":
    sys.exit(main())
