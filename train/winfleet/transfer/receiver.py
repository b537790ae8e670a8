"""One host's small HTTP listener: it tells the result of a transfer, and takes archives where libtorrent is missing.

It lives only while a transfer runs, on the host's own cluster address, and answers the controller alone. Standard
library alone, as it is for hosts where nothing could be installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from winfleet.core import serving
from winfleet.core.serving import SILENT_SECONDS, Handler, Server
from winfleet.transfer.folders import FolderError, unpack

BLOCK_BYTES: Final = 2**20
MAX_ANSWER: Final = 100_000


class ReceiverError(RuntimeError):
    """What the other side refused, or that it is not there; the text is one sentence with a hint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One folder that may arrive as an archive."""

    target: Path  # there whole or not at all
    expected: str  # its digest, 64 hex digits
    limit_bytes: int  # of the archive


def tell(address: str, port: int, text: str, allowed: Collection[str], seconds: float) -> bool:
    """Answers GET /result with the text until one of `allowed` has asked or the seconds are over; says which."""
    return serving.hand_over(text.encode("utf-8", "replace"), address, port, "/result", seconds, allowed)


def ask(address: str, port: int, timeout: float = 1.0) -> str | None:
    """The text that `tell` serves there, None where nobody tells anything (yet); seconds."""
    try:
        status, body = serving.ask(address, port, "/result", timeout, MAX_ANSWER)
    except (OSError, http.client.HTTPException):
        return None
    return body.decode("utf-8", "replace") if status == 200 and len(body) <= MAX_ANSWER else None


class _TakingServer(Server):
    """Takes archives of the folders that are still missing."""

    def __init__(
        self, address: str, port: int, allowed: Collection[str], token: str, wanted: Collection[Wanted]
    ) -> None:
        self.token, self.missing = token, {folder.expected: folder for folder in wanted if not folder.target.exists()}
        self.lock = threading.Lock()  # one archive at a time
        self.last = time.monotonic()  # when something arrived
        super().__init__(address, port, _Taker, allowed)


class _Taker(Handler):
    server: _TakingServer

    def do_PUT(self) -> None:
        if not self.admits(self.server.token):
            return
        with self.server.lock:
            folder = self.server.missing.get(self.path[1:])
            status, text = (404, "nobody waits for this folder") if folder is None else self.take(folder)
            self.answer(status, text)  # before the last folder ends the server
            if folder is not None and status == 201:
                del self.server.missing[folder.expected]

    def take(self, folder: Wanted) -> tuple[int, str]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, "no Content-Length"
        if int(length) > folder.limit_bytes:
            return 413, f"{length} bytes, allowed are {folder.limit_bytes}"
        folder.target.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{folder.target.name}.", suffix=".tar", dir=folder.target.parent)
        try:
            with os.fdopen(number, "wb") as file:
                left = self.copy(file, int(length))
            if left:
                return 400, f"the sender stopped {left} bytes before the end"
            unpack(Path(name), folder.target, folder.expected)
        except (FolderError, OSError) as error:
            return 422, str(error)
        finally:
            os.unlink(name)
        self.server.last = time.monotonic()
        return 201, "whole"

    def copy(self, file: BinaryIO, length: int) -> int:
        """Writes what arrives; the number of bytes that did not."""
        while length and (block := self.rfile.read(min(length, BLOCK_BYTES))):
            file.write(block)
            length -= len(block)
            self.server.last = time.monotonic()
        return length


def receive(
    address: str, port: int, token: str, wanted: Collection[Wanted], allowed: Collection[str], patience_seconds: float
) -> None:
    """Takes one archive for each wanted folder by PUT /<digest> and unpacks it; returns when all are there.

    Only who comes from an allowed address and knows the token may send, only what is wanted, and no more bytes than
    its limit. Raises ReceiverError where nothing that was good arrived for `patience_seconds`.
    """
    server = _TakingServer(address, port, allowed, token, wanted)
    with serving.serving(server):
        while server.missing:
            if time.monotonic() - server.last > patience_seconds:
                raise ReceiverError(
                    f"nothing came to {address}:{port} for {patience_seconds:.0f} s\n"
                    f"hint: let the controller reach TCP port {port} of this host"
                )
            time.sleep(0.05)


def send(address: str, port: int, token: str, expected: str, archive: Path) -> None:
    """Sends a folder's tar archive to a host that runs `receive`.

    Raises ReceiverError with the host's own words where it refuses, or where it cannot be reached.
    """
    size, sent = archive.stat().st_size, 0
    connection = http.client.HTTPConnection(address, port, timeout=SILENT_SECONDS)
    try:
        connection.putrequest("PUT", f"/{expected}")
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        with archive.open("rb") as file, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while block := file.read(BLOCK_BYTES):  # a host that refuses closes in the middle; its answer says why
                connection.send(block)
                sent += len(block)
        connection.sock.settimeout(600.0)  # unpacking and digesting take their time
        answer = connection.getresponse()
        text = answer.read(2_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ReceiverError(
            f"{address}:{port} took {sent} of {size} bytes: {str(error) or type(error).__name__}\n"
            f"hint: let this machine reach TCP port {port} of that host"
        ) from None
    finally:
        connection.close()
    if answer.status != 201:
        raise ReceiverError(
            f"{address}:{port} refused the archive ({answer.status}): {' '.join(text.split())}\nhint: deploy again"
        )


def keep_key(path: Path) -> None:
    """Makes the key of the controller's tokens, once, readable by its owner alone."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))


def token_for(host: str, key: Path) -> str:
    """What lets this controller send archives to the host; by the key of keep_key(), so that nothing has to remember it."""
    return hmac.new(key.read_bytes(), host.encode(), hashlib.sha256).hexdigest()
