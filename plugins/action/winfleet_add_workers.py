"""Reads worker files, or asks PCs for their certificates, and makes or extends a cluster's inventory."""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winfleet.controller.actions import Action
from winfleet.controller.clusters import ClusterError, Worker, add, check_fingerprint, fetch_worker, read_worker


class ActionModule(Action):
    """winfleet_add_workers: folder, files, addresses, fingerprints, replace, look_only.

    With look_only it returns {"found": [{"name", "address", "fingerprint", "certificate"}]} and writes nothing, so
    that a person can compare; `pinned` gives the same back.
    """

    refused = (ClusterError, OSError)

    def act(self) -> Mapping[str, Any]:
        """Looks, or adds."""
        given = self.given
        if given.get("look_only"):
            known = given.get("fingerprints") or {}
            return {"found": [look(address, known) for address in addresses(given.get("addresses"))]}
        workers = [read_worker(path) for path in files(str(given.get("files") or ""))]
        user = os.environ.get("WINFLEET_USER", "")  # a PC that was found by its address names none
        workers += [
            Worker(name=w["name"], address=w["address"], certificate=w["certificate"], user=user)
            for w in given.get("pinned") or []
        ]
        return add(self.path("folder"), workers, replace=bool(given.get("replace")), dry_run=self.check_mode)

    def tell(self, error: Exception) -> str:
        """The error's own words: they name the worker, or its file."""
        return str(error).replace("\nhint:", "\n  hint:")


def files(given: str) -> list[Path]:
    """The *.worker.yml of a folder, or those that a pattern names. Raises ClusterError where there is none."""
    if not given:
        return []
    path = Path(given).expanduser()
    found = (
        sorted(path.glob("*.worker.yml")) if path.is_dir() else [Path(name) for name in sorted(glob.glob(str(path)))]
    )
    if not found:
        raise ClusterError(
            f"no *.worker.yml in {given}\nhint: copy them there from the workers, beside worker_setup.ps1"
        )
    return found


def addresses(given: Any) -> list[str]:
    """Addresses of a list or of a text with commas, names resolved. Raises ClusterError for a name without address."""
    names = given if isinstance(given, list) else [part.strip() for part in str(given or "").split(",") if part.strip()]
    found = []
    for name in names:
        try:
            found.append(socket.gethostbyname(str(name)))
        except OSError:
            raise ClusterError(f"{name} resolves to no address\nhint: give its IPv4 address") from None
    return found


def look(address: str, fingerprints: Any) -> dict[str, Any]:
    """The PC's certificate and its fingerprint, compared with the given one if there is one."""
    worker = fetch_worker(address)
    if address in fingerprints:
        check_fingerprint(worker, str(fingerprints[address]))
    return {
        "name": worker.name, "address": address, "fingerprint": worker.fingerprint, "certificate": worker.certificate,
        "pinned": address in fingerprints,
    }  # fmt: skip
