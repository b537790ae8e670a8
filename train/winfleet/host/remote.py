"""What the controller asks of a host, one operation a task: folders, environment, files, launch, stop, collect, remove.

Ansible's module winfleet_host calls perform() on Linux. On Windows it starts this file by the agent's Python, with the
call as JSON on standard input and the answer as the last line of standard output. Standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core import serving
from ..core.causes import advise
from ..core.errors import HostError
from ..environments import environment
from ..machine import detached
from ..machine.ports import wait_for_port
from ..proofs import on_host
from ..runs import control
from ..runs.state import GOING_ON, going_on, state_of
from ..support import gather
from ..transfer.folders import SHORT, FolderError, free_bytes, missing, prune, unpack
from . import outputs, swarming

FETCH_SECONDS = 60.0
# Folders of ours below home.
OURS = ("agent", "code", "data", "wheels", "env", "runs", "swarm", "rehearsal", "proof", "temp", "huggingface")


def perform(operation: str, home: Path, given: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Does it, or with `check` says what would change; {"changed": bool, …}. Raises HostError, a sentence and a hint."""
    return OPERATIONS[operation](home, given, check)


def folders(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`wanted` {kind: 64 hex}; with `kind` and `archive` that one is unpacked; {"missing", "free_bytes", "home"}."""
    wanted, changed = given["wanted"], False
    if given.get("archive") and not check:
        kind = given["kind"]
        target = home / kind / wanted[kind][:SHORT]
        try:
            unpack(Path(given["archive"]), target, wanted[kind])
        except (FolderError, OSError) as error:
            raise HostError(f"{kind} did not arrive: {error}\nhint: run again; what arrived whole stays") from None
        changed = True
        prune(target.parent, given["keep"], target.name)
    lacking = missing(home, wanted, check=check)
    return {"changed": changed, "home": str(home), "missing": lacking, "free_bytes": free_bytes(home)}


def swarm(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Starts the transfer of `folders` [{"kind", "expected", "torrent" (base64), "limit_bytes"}], detached; of none it ends one.

    {"torrent": whether it is by BitTorrent}; where a Windows agent's Python has no libtorrent, archives are taken instead. On
    Linux Ansible's Python hands it on to one that has `versions` of packages, of which it then knows the folder, `wheels`.
    """
    if check:
        return {"changed": True, "torrent": True}
    if "versions" in given:
        return swarming.by_wheels(home, given)
    from winfleet.core.plan import SWARM_PORT
    from winfleet.transfer.job import Folder, Job
    from winfleet.transfer.swarm import available

    here, by_torrent = home / "swarm", available()
    here.mkdir(parents=True, exist_ok=True)
    end_transfer(here / "job.json")
    if not given["folders"]:
        return {"changed": False, "torrent": False}
    if given.get("wheels") and not by_torrent:
        return {"changed": False, "torrent": False, "why": "libtorrent does not run there"}
    wanted = []
    for folder in given["folders"]:
        target = home / folder["kind"] / folder["expected"][:SHORT]
        target.parent.mkdir(parents=True, exist_ok=True)
        prune(target.parent, given["keep"], target.name)
        others = sorted(target.parent.glob("[0-9a-f]" * SHORT), key=lambda path: path.stat().st_mtime)
        torrent = here / f"{target.name}.torrent"
        torrent.write_bytes(base64.b64decode(folder["torrent"]))
        wanted.append(
            Folder(
                kind=folder["kind"], target=str(target), expected=folder["expected"],
                torrent=str(torrent) if by_torrent else "", previous=str(others[-1]) if others else "",
                limit_bytes=int(folder["limit_bytes"]),
            )
        )  # fmt: skip
    job = Job(
        host=given["host"], address=given["address"], peers=given["peers"], controllers=tuple(given["controllers"]),
        result=str(here / "result.json"), folders=tuple(wanted), port=SWARM_PORT,
        token="" if by_torrent else given["secrets"]["token"],
    )  # fmt: skip
    (here / "job.json").write_text(job.to_json(), encoding="utf-8")
    start("swarm", "winfleet.transfer.swarm", here / "job.json", {"logon": "", **given})
    return {"changed": True, "torrent": by_torrent}


def end_transfer(job: Path) -> None:
    """Ends who is still at an earlier transfer, of a controller that has gone: what it has is gone on with."""
    import psutil  # of the agent's Python, and of the controller's

    found = [
        process for process in psutil.process_iter(["cmdline"])
        if {"winfleet.transfer.swarm", str(job)} <= set(process.info["cmdline"] or ())
    ]  # fmt: skip
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, 10)


def make_environment(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """See environment.ensure(). On Windows it is made detached: {"making": True} until a call with `finish` finds its end."""
    folder = home / "env" / str(given["digest"])[:SHORT]
    there = given["python"] or given["refuse"] or environment.is_whole(folder, given)
    if os.name != "nt" or check or there:
        answer = environment.ensure(home, given, check=check)
        if given.get("finish"):
            wait_for_the_teller(given["address"])
        return answer
    from winfleet.environments import making

    if given.get("finish"):
        raise HostError(making.explain(home, given))
    making.begin(home, given, lambda job: start("environment", "winfleet.environments.making", job, given))
    return {"changed": True, "making": True, "python": str(environment.interpreter(folder)), "versions": {}}


def wait_for_the_teller(address: str) -> None:
    """Until who made the environment has left the launcher's status port: it stays where nobody has seen its end."""
    from winfleet.core.plan import STATUS_PORT

    with contextlib.suppress(HostError):  # the launcher names who has it
        wait_for_port(address, STATUS_PORT)


def start(name: str, module: str, job: Path, given: Mapping[str, Any]) -> None:
    """Starts a module of ours with its job's file, detached. Raises HostError."""
    password = str(given.get("secrets", {}).get("task_password", ""))
    detached.start(
        name, module, ["--job", str(job)], job.with_suffix(".log"), logon=given["logon"], password=password,
        beside=given.get("wheels", ""),
    )  # fmt: skip


def write_files(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`run` and `files` {name: text}, written into the run's folder."""
    different = control.write_files(home / "runs" / given["run"], given["files"], check=check)
    return {"changed": bool(different), "different": different}


def launch(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`run`, `machine_rank`, `python`, `agent`, `logon` and `secrets`; nothing where the run is going on or has finished."""
    folder = home / "runs" / given["run"]
    state = state_of(folder)
    settled = state in (*GOING_ON, "finished")
    if not settled and not check:
        secrets = given["secrets"]
        control.launch(folder, given, secrets["ranks"], secrets["task_password"])
    return {"changed": not settled, "state": state}


def rehearse(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`host`, `plan` (text), `python`, `agent`, `logon`, `controllers`, and `secrets`: starts this host's part of a rehearsal."""
    if not check:
        control.rehearse(home, given, given["secrets"]["token"], given["secrets"]["task_password"])
    return {"changed": False}  # nothing of it is left once it is over


def stop(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`grace_seconds`; {"stopped": [{"run", "state", "step", "text"}]}."""
    found = going_on(home)
    stopped: list[dict[str, object]]
    if check:
        stopped = [{"run": folder.name, "text": f"run {folder.name} would be stopped"} for folder in found]
    else:
        stopped = [control.stop(folder, int(given["grace_seconds"])) for folder in found]
    return {"changed": bool(found), "stopped": stopped}


def collect(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """See outputs.pack(); with `token` the archive is handed over at `address` and `port`, then deleted."""
    del check  # packs into a temporary file alone
    packed = outputs.pack(
        home, given["run"], code=given["code"], data=given["data"], all_outputs=given["all_outputs"],
        limit_mb=float(given["limit_mb"]) if float(given["limit_mb"]) >= 0 else None,
    )  # fmt: skip
    hand_over(packed, given)
    return packed


def support(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """See gather.pack(), `run` and `python`; handed over as by collect()."""
    del check  # the same
    packed = gather.pack(home, given["run"], given["python"])
    hand_over(packed, given)
    return packed


def hand_over(packed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Where a `token` is given, lets the archive be fetched once, and deletes it. Raises HostError where nobody fetched it."""
    if not given.get("token"):
        return
    archive = Path(packed["archive"])
    try:
        fetched = serving.hand_over(archive, given["address"], int(given["port"]), f"/{given['token']}", FETCH_SECONDS)
    except OSError as error:
        raise HostError(
            f"port {given['port']} at {given['address']} cannot be had: {error}{advise(str(error))}"
        ) from None
    finally:
        shutil.rmtree(archive.parent)
    if not fetched:
        raise HostError(
            f"nobody fetched the results at {given['address']}:{given['port']} within {FETCH_SECONDS:.0f} s\n"
            "hint: worker_setup.yml opens that port for the controller; the results stay on the host, so run again"
        )


def prove(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`what`: `host` (with `python`, `agent`, `logon`, `others` {name: address}, `secrets`), `undo`, or a `run`'s `launcher` or `rank`."""
    if check:
        return {"changed": False, "outcomes": {}, "facts": {}, "left": []}
    if given["what"] == "undo":
        return {"changed": False, "undone": on_host.undo(home)}  # nothing of a proof is left once it is over
    if given["what"] != "host":
        return {"changed": True, "left": on_host.end(home, given["run"], given["what"])}
    told = on_host.prove(home, control.means(home, given, str(given.get("secrets", {}).get("task_password", ""))))
    scanned = {name: one.told() for name, one in on_host.scan(given["others"]).items()} if given["others"] else {}
    return {"changed": False, "facts": told["facts"], "outcomes": {**told["outcomes"], **scanned}}


def remove(home: Path, given: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Removes what is ours below home, then home itself if nothing else is in it."""
    del given
    if found := going_on(home):
        raise HostError(f"run {found[0].name} is going on\nhint: stop it first: ansible-playbook stop.yml")
    ours = [home / name for name in OURS if (home / name).is_dir()]
    if os.name == "nt":
        from winfleet.environments.making import being_made

        if being_made(home):
            raise HostError("an environment is being made here\nhint: run again once it is done")
        ours = [
            folder for folder in ours if folder.name != "agent"
        ]  # in use by this very program: who called it does it
    if not check:
        for folder in ours:
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # something of the user's is in it, or it is not there
            home.rmdir()
    return {"changed": bool(ours), "removed": [str(folder) for folder in ours]}


OPERATIONS: dict[str, Callable[[Path, Mapping[str, Any], bool], dict[str, Any]]] = {
    "folders": folders, "swarm": swarm, "environment": make_environment, "files": write_files, "launch": launch, "rehearse": rehearse, "stop": stop,
    "collect": collect, "support": support, "prove": prove, "remove": remove,
}  # fmt: skip


def main() -> None:
    """`python -m winfleet.host.remote`: {"operation", "home", "arguments", "check"} in, the answer or {"failed", "msg"} out."""
    call = json.loads(sys.stdin.buffer.read().decode("utf-8-sig"))
    try:
        answer = perform(call["operation"], Path(call["home"]), call["arguments"], check=call["check"])
    except HostError as error:
        answer = {"failed": True, "msg": str(error)}
    print(json.dumps(answer))  # ASCII, whatever the console's code page is


if __name__ == "__main__":
    main()
