"""The controller's part of environments that hosts make detached (winfleet.environments.making): how far all of them are."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Final

from winfleet.core import serving
from winfleet.core.files import as_object
from winfleet.core.plan import STATUS_PORT
from winfleet.core.reading import Reader
from winfleet.environments.making import PATH, SEEN

LOOK_SECONDS: Final = 1.0
MAX_BYTES: Final = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """What a host says of its environment; as it came from another machine, texts are cut."""

    state: str = ""  # making, made, failed; "": it has not been heard yet
    step: Annotated[str, 40] = ""
    seconds: float = 0.0
    line: Annotated[str, 60] = ""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state in ("made", "failed")

    def __str__(self) -> str:
        if self.state != "making":
            return self.state or "waiting"
        return f"{self.step} {self.seconds:.0f} s" + (f" ({self.line})" if self.line else "")


def parse(text: str | bytes) -> Making:
    """Reads what a host said; what is wrong in it is left out."""
    said = Reader().read(Making, as_object(text))
    return said if said.state == "making" or said.ended else Making()


def ask(address: str, port: int = STATUS_PORT, timeout: float = 5.0) -> Making | None:
    """What the host says at this moment (seconds); None where nobody answers. Once it has ended, it may stop telling so."""
    said = None
    with contextlib.suppress(OSError, http.client.HTTPException):
        code, body = serving.ask(address, port, PATH, timeout, MAX_BYTES)
        said = parse(body) if code == 200 else None
        if said is not None and said.ended:
            serving.ask(address, port, PATH + SEEN, timeout, MAX_BYTES)
    return said


def watch(
    hosts: Mapping[str, str],
    show: Callable[[Mapping[str, Making]], None],
    *,
    interval: float,
    silent_seconds: float = 60.0,
    port: int = STATUS_PORT,
) -> dict[str, Making]:
    """Asks all hosts (name -> address) until each has ended or was silent for so long; what each said last.

    `show` is given all of them every `interval` seconds. Silence is no failure: the host itself is asked afterwards.
    """
    known = {name: Making() for name in hosts}
    heard = dict.fromkeys(hosts, time.monotonic())
    shown = time.monotonic()
    with ThreadPoolExecutor(min(32, len(hosts) or 1)) as pool:
        while waiting := [
            name for name in hosts if not known[name].ended and time.monotonic() - heard[name] < silent_seconds
        ]:
            answers = pool.map(lambda name: ask(hosts[name], port), waiting)
            for name, answer in zip(waiting, answers, strict=True):
                if answer is not None:
                    known[name], heard[name] = answer, time.monotonic()
            if time.monotonic() - shown >= interval:
                shown = time.monotonic()
                show(known)
            time.sleep(LOOK_SECONDS)
    show(known)
    return known
