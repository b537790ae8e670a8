"""An environment that is made detached (Windows): it takes minutes, and goes on whatever happens to the connection.

    python -m winfleet.environments.making --job env/<digest>.job.json

is started as a scheduled task. One at a time makes an environment of a host; how far it is can be read at
http://ADDRESS:29502/environment.json until somebody says that he has seen the end. What counts is the environment itself, or
`<digest>.result.json` beside it. The controller's part is winfleet.environments.making_watch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.core.errors import HostError
from winfleet.core.files import held, read_object, send_output_to, write_atomic
from winfleet.core.plan import STATUS_PORT
from winfleet.core.serving import Handler, Server, serving
from winfleet.environments.environment import last_words, make, secrets_of
from winfleet.machine.detached import why_silent
from winfleet.machine.windows import end_children_with_me
from winfleet.runs.control import write_secrets
from winfleet.transfer.folders import SHORT

PATH: Final = "/environment.json"
SEEN: Final = "?seen"  # behind it: who asks has read the end
TELL_SECONDS: Final = 15.0  # the end is told so long, to who asks
SECRET: Final = ("secrets", "finish")  # what a job does not need


def folder_of(home: Path, given: Mapping[str, Any]) -> Path:
    """Where the environment is or will be."""
    return home / "env" / str(given["digest"])[:SHORT]


def begin(home: Path, given: Mapping[str, Any], start: Callable[[Path], None]) -> None:
    """Has the environment made, by a process that `start` starts for the job's file; nothing where one is at it.

    Raises HostError where another environment is being made.
    """
    folder = folder_of(home, given)
    folder.parent.mkdir(parents=True, exist_ok=True)
    at_it = being_made(home)
    if folder.name in at_it:
        return
    if at_it:
        raise HostError(f"another environment, {at_it[0]}, is being made here\nhint: run again once it is done")
    _file(folder, "result").unlink(missing_ok=True)
    secret = _file(folder, "secrets")
    if found := secrets_of(given):
        write_secrets(secret, found)
    job = {key: value for key, value in given.items() if key not in SECRET}
    write_atomic(_file(folder, "job"), json.dumps({"home": str(home), "given": job}))
    try:
        start(_file(folder, "job"))
    except BaseException:
        secret.unlink(missing_ok=True)
        raise


def explain(home: Path, given: Mapping[str, Any]) -> str:
    """Why the environment is not there, with a hint. Secrets that nobody came to read are taken away."""
    folder = folder_of(home, given)
    if cause := read_object(_file(folder, "result")).get("cause"):
        return str(cause)
    if folder.name in being_made(home):
        return (
            "its environment is still being made\nhint: run again: it goes on meanwhile, and is followed or found then"
        )
    _file(folder, "secrets").unlink(missing_ok=True)
    said = f"making {folder} ended without a word{why_silent('environment')}:\n{last_words(folder)}"
    return f"{said}\nhint: run again; what was downloaded is kept"


def being_made(home: Path) -> list[str]:
    """Names of the environments that a process makes below home at this moment."""
    found = []
    for lock in sorted((home / "env").glob("*.lock")):
        with held(lock) as ours:
            if not ours:
                found.append(lock.stem)
    return found


def _file(folder: Path, kind: str) -> Path:
    return folder.with_name(f"{folder.name}.{kind}.json")


class Teller:
    """Answers who asks how far the environment is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun, self.title = folder, time.monotonic(), ""
        self.state = "making"  # making, made, failed
        self.told = threading.Event()

    def say(self, title: str) -> None:
        """A step begins."""
        self.title = title

    def to_json(self) -> str:
        """How far it is; the last line is uv's own."""
        lines = last_words(self.folder).splitlines()
        return json.dumps(
            {
                "environment": self.folder.name, "state": self.state, "step": self.title,
                "seconds": round(time.monotonic() - self.begun, 1), "line": lines[-1].strip() if lines else "",
            }
        )  # fmt: skip

    @contextlib.contextmanager
    def serving(self, address: str, port: int) -> Iterator[None]:
        """Answers while something is done; at the end, until the end was told. Without the port it is done all the same."""
        teller = self

        class Asked(Handler):
            def do_GET(self) -> None:
                if self.path not in (PATH, PATH + SEEN):
                    self.answer(404, f"only {PATH} is here")
                    return
                self.answer(200, teller.to_json())
                if self.path.endswith(SEEN):
                    teller.told.set()

        try:
            server = Server(address, port, Asked)
        except OSError as error:
            print(f"nobody can ask how far it is: {address}:{port}: {error}", file=sys.stderr, flush=True)
            yield
            return
        with serving(server):
            yield
            self.told.wait(TELL_SECONDS)


def run_job(job: Path, port: int = STATUS_PORT) -> int:
    """Makes the job's environment, unless somebody is at it; the exit status."""
    values = json.loads(job.read_text("utf-8"))
    home, given = Path(values["home"]), values["given"]
    folder = folder_of(home, given)
    teller = Teller(folder)
    lock = folder.with_name(f"{folder.name}.lock")
    with contextlib.ExitStack() as stack, held(lock) as ours:
        if not ours:
            return 0
        stack.enter_context(teller.serving(str(given["address"]), port))  # left after the lock
        cause, secret = "", _file(folder, "secrets")
        secrets = read_object(secret)
        secret.unlink(missing_ok=True)
        try:
            make(home, {**given, "secrets": {"uv": secrets}}, folder, teller.say)
        except HostError as error:
            cause = str(error)
        except Exception:  # noqa: BLE001 (whatever it is, the controller must be told)
            cause = f"making {folder} failed: {traceback.format_exc()[-1_000:]}\nhint: run again"
        if cause:
            write_atomic(_file(folder, "result"), json.dumps({"cause": cause}))
        secret.unlink(missing_ok=True)  # of who began meanwhile
        teller.state = "failed" if cause else "made"
    return 1 if cause else 0


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Makes the job's environment.")
    parser.add_argument("--job", type=Path, required=True, help="file that begin() wrote")
    parser.add_argument("--port", type=int, default=STATUS_PORT, help="where it tells how far it is")
    found = parser.parse_args()
    send_output_to(found.job.with_suffix(".out"))
    end_children_with_me()  # uv, too
    return run_job(found.job, found.port)


if __name__ == "__main__":
    sys.exit(main())
