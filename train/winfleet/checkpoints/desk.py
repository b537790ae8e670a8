"""How files of a checkpoint go from host to host: over HTTP on port 29503, with a token a transfer, verified by digest.

Only what was agreed on is served, to the address that it was agreed with. Names are checked on both sides, links refused.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final
from urllib.parse import quote, unquote

from winfleet.checkpoints.agreement import ExchangeError, Transfer
from winfleet.core.files import replace
from winfleet.core.serving import SILENT_SECONDS, Handler, Server
from winfleet.transfer.names import trouble_of

BLOCK_BYTES: Final = 2**20
DIGEST_CHARACTERS: Final = 64  # they follow the file's bytes
BEGIN_SECONDS: Final = 60.0  # for the other host to listen
TRIES: Final = 3


class RefusedError(ExchangeError):
    """The other host has it no longer as it was agreed on; it does not help to ask again."""


def checked(work: Path, name: str) -> Path:
    """The file's path on this host. Raises ExchangeError where the name or a link would lead out of the work folder."""
    pure = PurePosixPath(name)
    bad = pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in name or str(pure) != name
    if bad or (os.name == "nt" and any(map(trouble_of, pure.parts))):
        raise ExchangeError(f"no file of a checkpoint can have the name {name!r}")
    path = work / pure
    if os.path.normcase(path.resolve()) != os.path.normcase(work.resolve() / pure):
        raise ExchangeError(f"{name} leads through a link, which is not followed")
    return path


class GivingServer(Server):
    """Hands out the files of these transfers; `addresses` are those of their targets, by machine rank."""

    def __init__(
        self, address: str, port: int, work: Path, given: list[Transfer], addresses: Mapping[int, str]
    ) -> None:
        self.work, self.given, self.addresses = work, given, addresses
        super().__init__(address, port, _Giver, {addresses[one.target] for one in given})


class _Giver(Handler):
    server: GivingServer

    def do_GET(self) -> None:
        token, _, name = self.path[1:].partition("/")
        peer, asked = self.client_address[0], unquote(name)
        for one in self.server.given:
            known = hmac.compare_digest(token.encode("utf-8", "replace"), one.token.encode())
            if known and asked in one.files and peer == self.server.addresses[one.target]:
                self.give(asked, *one.files[asked])
                return
        self.answer(403, "not agreed on")

    def give(self, name: str, size: int, mtime_ns: int) -> None:
        """The file and then its digest."""
        try:
            path = checked(self.server.work, name)
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
                    self.answer(409, "it has changed meanwhile")
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(size + DIGEST_CHARACTERS))
                self.end_headers()
                content = hashlib.sha256()
                while block := file.read(BLOCK_BYTES):
                    content.update(block)
                    self.wfile.write(block)
                self.wfile.write(content.hexdigest().encode())
        except (ExchangeError, FileNotFoundError) as error:
            self.answer(404, str(error))


def write(file: BinaryIO, block: bytes, name: str) -> None:
    """Raises RefusedError where this disk does not take it."""
    try:
        file.write(block)
    except OSError as error:
        raise RefusedError(
            f"{name} cannot be written: {error.strerror}\nhint: make room on the disk, then continue the run"
        ) from None


class Taker:
    """Brings the files of one transfer into the work folder."""

    def __init__(self, one: Transfer, own_address: str, address: str, port: int, name: str) -> None:
        """`address` and `port` are the other host's, `name` is what it is called; it knows this one by `own_address`."""
        self.transfer, self.own_address = one, own_address
        self.address, self.port, self.name = address, port, name
        self.bytes = 0  # so far
        self.over = threading.Event()  # nobody wants it any more

    def take(self, work: Path, scratch: Path, may_replace: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Brings file after file and yields its path and digest. `may_replace` says which files of this host may go for it.

        Raises ExchangeError, and OSError where this disk does not take it.
        """
        scratch.mkdir(exist_ok=True)
        for path, (size, mtime_ns) in self.transfer.files.items():
            target = checked(work, path)
            part = scratch / f"{self.transfer.source}.part"
            content = self.fetch(path, size, part)
            os.utime(part, ns=(mtime_ns, mtime_ns))
            if (target.exists() or target.is_symlink()) and not may_replace(path):
                raise ExchangeError(f"{path} is there already, and is not overwritten")
            target.parent.mkdir(parents=True, exist_ok=True)
            replace(part, target)
            yield path, content

    def fetch(self, path: str, size: int, part: Path) -> str:
        """One file, tried again where the connection breaks off; its digest."""
        before, deadline, tries = self.bytes, time.monotonic() + BEGIN_SECONDS, 0
        while True:
            self.bytes = before
            try:
                return self.ask(path, size, part)
            except RefusedError:
                raise
            except (OSError, http.client.HTTPException, ExchangeError) as error:
                tries += self.bytes > before or not isinstance(error, OSError)
                if self.over.is_set() or tries >= TRIES or time.monotonic() > deadline:
                    raise ExchangeError(
                        f"{path} did not come from {self.name} ({self.address}): {str(error) or type(error).__name__}\n"
                        f"hint: let TCP port {self.port} through between the hosts, then continue the run"
                    ) from None
                time.sleep(0.2)

    def ask(self, path: str, size: int, part: Path) -> str:
        """One request."""
        content = hashlib.sha256()
        connection = http.client.HTTPConnection(
            self.address, self.port, timeout=SILENT_SECONDS, source_address=(self.own_address, 0)
        )
        try:
            connection.request("GET", f"/{self.transfer.token}/{quote(path)}")
            answer = connection.getresponse()
            if answer.status != 200:
                said = answer.read(500).decode("utf-8", "replace")
                raise RefusedError(
                    f"{self.name} does not give {path}: {' '.join(said.split())}\nhint: continue the run again"
                )
            with part.open("wb") as file:
                left = size
                while left and (block := answer.read(min(left, BLOCK_BYTES))):
                    write(file, block, path)
                    content.update(block)
                    left -= len(block)
                    self.bytes += len(block)
                    if self.over.is_set():
                        raise RefusedError("the run has ended")
            told = answer.read(DIGEST_CHARACTERS + 1).decode("ascii", "replace")
        finally:
            connection.close()
        if left or told != content.hexdigest():
            raise ExchangeError(f"it came with another digest, after {size - left} of {size} bytes")
        return told
