"""How the controller of a rehearsal speaks to the hosts: over HTTP on port 29504, outward only, and what it hears is data."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from winfleet.core import serving
from winfleet.core.files import as_object
from winfleet.core.plan import PROBE_PORT, Plan
from winfleet.core.reading import plain

MOST_BYTES: Final = 1_000_000
CALL_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.05
BEAT_SECONDS: Final = 3.0  # a host ends its part where it hears nothing for 15 s


class PeerError(RuntimeError):
    """Why a host gave no answer; a few words about that host."""


class RefusedError(PeerError):
    """The host answered that it could not do it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One host of the rehearsal."""

    name: str
    address: str
    token: str
    port: int = PROBE_PORT

    def call(self, method: str, path: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request. Raises PeerError."""
        body = None if given is None else json.dumps(given).encode()
        bearer = {"Authorization": f"Bearer {self.token}"}
        try:
            status, text = serving.ask(
                self.address, self.port, path, CALL_SECONDS, MOST_BYTES, method=method, body=body, headers=bearer
            )
        except TimeoutError:
            raise PeerError(f"no answer on TCP port {self.port} within {CALL_SECONDS:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise PeerError(f"no answer on TCP port {self.port}: {plain(error, 200).lower()}") from None
        if status not in (200, 202) or len(text) > MOST_BYTES:
            raise PeerError(f"something else answers on TCP port {self.port} ({status}, {len(text)} bytes)")
        return as_object(text)

    def ask(self, operation: str, given: Mapping[str, Any], deadline: float) -> Any:
        """Has the host do something and returns its value, which is not checked yet. Raises PeerError."""
        number = self.call("POST", f"/{operation}", given).get("number")
        if not isinstance(number, int):
            raise PeerError("an answer that is no number")
        while time.monotonic() < deadline:
            found = self.call("GET", f"/{number}")
            if found.get("state") == "done":
                return found.get("value")
            if found.get("state") != "running":
                raise RefusedError(" ".join(plain(found.get("cause", "no cause given"), 500).split()))
            time.sleep(LOOK_SECONDS)
        raise PeerError(f"it had not done `{operation}` in time")


def peers_of(plan: Plan, token: str) -> dict[str, Peer]:
    """Name -> peer of every host of the plan."""
    return {host.name: Peer(name=host.name, address=host.address, token=token) for host in plan.hosts}


def ask_all(
    peers: Mapping[str, Peer], operation: str, given: Mapping[str, Mapping[str, Any]], seconds: float
) -> tuple[dict[str, Any], dict[str, PeerError]]:
    """Asks the hosts of `given` (name -> arguments) at once: what each answered, and why others did not.

    A host that is slow, or drips bytes, is given up after `seconds`; it keeps no other one waiting for longer.
    """
    deadline, answers, troubles = time.monotonic() + seconds, dict[str, Any](), dict[str, PeerError]()

    def ask(name: str) -> None:
        try:
            answers[name] = peers[name].ask(operation, given[name], deadline)
        except PeerError as error:
            troubles[name] = error

    asking = {name: threading.Thread(target=ask, args=(name,), daemon=True) for name in given}
    for thread in asking.values():
        thread.start()
    for name, thread in asking.items():
        thread.join(max(0.0, deadline + 2 * CALL_SECONDS - time.monotonic()))
        if thread.is_alive():
            troubles[name] = PeerError(f"it had not answered `{operation}` after {seconds:.0f} s")
    return {name: answers[name] for name in given if name in answers and name not in troubles}, dict(troubles)


@contextlib.contextmanager
def kept_awake(peers: Iterable[Peer]) -> Any:
    """Lets the hosts know, within, that their controller is still there; tells them the end after it."""
    over = threading.Event()

    def beat(peer: Peer) -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(PeerError):
                peer.call("GET", "/clock")

    def end(peer: Peer) -> None:
        with contextlib.suppress(PeerError):
            peer.call("POST", "/end", {})

    everyone = list(peers)
    for peer in everyone:
        threading.Thread(target=beat, args=(peer,), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        ending = [threading.Thread(target=end, args=(peer,), daemon=True) for peer in everyone]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join(CALL_SECONDS)
