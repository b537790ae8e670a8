"""What a host has of what would be sent, from what it told. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from winfleet.preflight.found import Found
from winfleet.transfer.folders import SHORT


def find_lacking(found: Found, wanted: Mapping[str, str], environment: str) -> list[str]:
    """Kinds (code, data, agent, environment) that are not there. `environment` is a digest, "" where an interpreter is given."""
    lacking = [kind for kind, digest in wanted.items() if digest[:SHORT] not in found.there.get(kind, ())]
    if environment and environment[:SHORT] not in found.there.get("env", ()):
        lacking.append("environment")
    return lacking


def interpreter_path(found: Found, environment: str) -> str:
    """Python of the environment with this digest, as the host names it."""
    parts = ("Scripts", "python.exe") if found.os == "Windows" else ("bin", "python")
    return ("\\" if found.os == "Windows" else "/").join((found.home, "env", environment[:SHORT], *parts))
