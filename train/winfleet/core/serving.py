"""What every small HTTP server of ours has in common, and how one is asked. Standard library alone, as it is for hosts with nothing installed."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import io
import os
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

SILENT_SECONDS: Final = 30.0  # a peer that stops in the middle is dropped
POLL_SECONDS: Final = 0.05
BLOCK_BYTES: Final = 2**20


class Server(ThreadingHTTPServer):
    """Listens on one address; where `allowed` is given it serves these addresses alone. Raises OSError where it cannot be had."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows another process could take the port over

    def __init__(
        self, address: str, port: int, handler: type[BaseHTTPRequestHandler], allowed: Collection[str] | None = None
    ) -> None:
        self.allowed = None if allowed is None else frozenset(allowed)
        super().__init__((address, port), handler)

    def server_bind(self) -> None:
        """Binds the address."""
        # HTTPServer's own asks the name server for this host's name, which takes seconds where there is none
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (socketserver's)
        """Whether the peer may speak at all."""
        return self.allowed is None or client_address[0] in self.allowed

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who goes away is no news here; who served tells what is missing."""


class Handler(BaseHTTPRequestHandler):
    """Answers in one piece and says nothing on the console."""

    timeout = SILENT_SECONDS

    def answer(self, status: int, text: str | bytes, kind: str = "text/plain; charset=utf-8") -> None:
        """The whole answer; the connection ends with it."""
        body = text.encode("utf-8", "replace") if isinstance(text, str) else text
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def admits(self, token: str) -> bool:
        """Whether who asks knows the token; if not, this is the answer."""
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if hmac.compare_digest(given, f"Bearer {token}".encode()):
            return True
        self.answer(403, "wrong token")
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class calls it so)
        """Nothing."""


@contextlib.contextmanager
def serving(server: Server) -> Iterator[None]:
    """Serves from a thread meanwhile; the port is free afterwards."""
    with server:
        threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True, name="winfleet-http").start()
        try:
            yield
        finally:
            server.shutdown()


def hand_over(
    content: Path | bytes, address: str, port: int, path: str, seconds: float, allowed: Collection[str] | None = None
) -> bool:
    """Listens until the content was fetched once at that path; False where nobody begins within `seconds`, or stops for so long.

    For results, and for archives of hosts whose connection is slow for files: WinRM reads half a megabyte a PowerShell start.
    Raises OSError.
    """
    fetched, moved = threading.Event(), threading.Event()

    class Desk(Handler):
        def do_GET(self) -> None:
            if not hmac.compare_digest(self.path.encode(), path.encode()):  # it may be a token
                self.answer(404, "nothing of that name is here")
                return
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                self.send_response(200)
                self.send_header("Content-Length", str(file.seek(0, os.SEEK_END)))
                self.end_headers()
                file.seek(0)
                while block := file.read(BLOCK_BYTES):
                    self.wfile.write(block)
                    moved.set()
            fetched.set()
            moved.set()

    with serving(Server(address, port, Desk, allowed)):
        while moved.wait(seconds):
            moved.clear()
            if fetched.is_set():
                return True
    return False


def ask(
    address: str, port: int, path: str, seconds: float, most: int, *, method: str = "GET", body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:  # fmt: skip
    """One request, through no proxy: the answer's status, and its body, of which `most` bytes and one are read at the most.

    Raises OSError where nobody answers within `seconds`, HTTPException where what answers speaks no HTTP.
    """
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(most + 1)
