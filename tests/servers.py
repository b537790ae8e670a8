"""Servers of a test, and ports for them."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of the address that nobody has now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def answering(reply: bytes, address: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[int, list[str]]]:
    """A server that gives every caller the same bytes; yields its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            with contextlib.suppress(OSError):
                self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer((address, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()
