"""Prints names and addresses as a JSON object: each with its IPv4 address, or null where it has none."""

from __future__ import annotations

import json
import socket
import sys


def resolve(name: str) -> str | None:
    """The address by which this machine knows the name."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


if __name__ == "__main__":
    print(json.dumps({name: resolve(name) for name in sys.argv[1:]}))
