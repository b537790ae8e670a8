"""The controller's side of outputs.hand_over(): fetches an archive from a host by HTTP while a task there offers it."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from winfleet.plan import SWARM_PORT


def fetch_during(
    task: Callable[[Mapping[str, Any]], dict[str, Any]], given: Mapping[str, Any], archive: Path
) -> dict[str, Any]:
    """Runs a task whose arguments are `given`, with a token and a port of this transfer, and fetches what it hands over."""
    token, over = secrets.token_hex(16), threading.Event()
    fetcher = threading.Thread(target=fetch, args=(given["address"], token, archive, over), daemon=True)
    fetcher.start()
    try:
        return task({**given, "token": token, "port": SWARM_PORT})
    finally:
        over.set()
        fetcher.join()


def fetch(address: str, token: str, archive: Path, over: threading.Event) -> None:
    """Asks for the archive until the host hands it over whole, or until its task is over."""
    while not over.wait(0.2):
        connection = http.client.HTTPConnection(address, SWARM_PORT, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", f"/{token}")
            answer = connection.getresponse()
            with archive.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if answer.status == 200 and archive.stat().st_size == int(answer.headers["Content-Length"]):
                return
