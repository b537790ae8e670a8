"""The launcher: starts a host's ranks from the plan, or, alone on one host, from what it finds there.

    python -m winfleet.launch --auto [--processes N] -- train.py --config configs/train_config.yaml
    python -m winfleet.launch --plan runs/RUN/plan.json --machine-rank 1 [--log FILE]

Exit status: 0 finished, 1 failed, 2 nothing was started, 3 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
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
from winfleet.core.reading import plain
from winfleet.core.status import STOP_AT, STOPPING, Cause, describe_failure, read_file
from winfleet.launcher.board import Board
from winfleet.launcher.console import shared_with
from winfleet.machine.hardware import gpu_names
from winfleet.machine.ports import bind_error, owner_of
from winfleet.machine.windows import end_children_with_me, keep_awake
from winfleet.runs.environment import prepare_environment, take_secrets
from winfleet.runs.work import changed_sources, enter_work, fill_in

log = logging.getLogger("winfleet")

EXIT_CODES: Final = {"finished": 0, "failed": 1, "stopped": 3}
FORMAT: Final = "%(asctime)s [%(levelname)s] %(message)s"
TIMES: Final = "%H:%M:%S"


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
    parser.add_argument("--log", type=Path, help="with --plan: a file for all output")
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
        if error := bind_error(host.address, port):
            raise PlanError(
                f"{host.name}: port {port} on {host.address} cannot be had: {error.strerror}; it belongs to "
                f"{owner_of(host.address, port) or 'an unknown process'}\nhint: end that process, or wait for its end"
            )


def launch(plan: Plan, host: Host, folder: Path, ports: Ports, *, console: bool) -> str:
    """Runs this host's part of the plan to its end and returns its state. Raises PlanError before anything is started."""
    check_ports(host, ports)
    left = [folder / name for name in ("stop", STOPPING, STOP_AT)]
    for stale in [*left, *folder.glob("rank*.json"), *folder.glob("rank*.stack.txt")]:
        stale.unlink(missing_ok=True)
    earlier = read_file(folder / "status.json")
    reached = max((rank.reached for rank in earlier.ranks), default=0) if earlier else 0
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


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    found = arguments(words)
    logging.basicConfig(format=FORMAT, datefmt=TIMES)
    log.setLevel(logging.INFO)
    try:
        if found.log:
            send_output_to(found.log)
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
        shared = shared_with(log, logging.Formatter(FORMAT, TIMES)) if found.auto else contextlib.nullcontext()
        with shared:
            return EXIT_CODES[launch(plan, host, folder, ports, console=found.auto)]
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        if found.log:
            (found.plan.parent / "refused").touch()  # for whoever waits in control.launch()
        return 2


if __name__ == "__main__":
    sys.exit(main())
