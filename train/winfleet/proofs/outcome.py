"""What came of a proof. Standard library alone, for Ansible's module too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PROVED: Final = "proved"
FAILED: Final = "failed"
NOT_APPLICABLE: Final = "not applicable"
STATES: Final = (PROVED, FAILED, NOT_APPLICABLE)
MAX_SEEN: Final = 600  # characters


@dataclass(frozen=True)
class Outcome:
    """Whether a claim holds on a machine, and what was seen there."""

    state: str
    seen: str

    def told(self) -> dict[str, str]:
        """As a host tells it."""
        return {"state": self.state, "seen": self.seen}


def proved(seen: str) -> Outcome:
    """It was seen."""
    return Outcome(PROVED, seen)


def failed(seen: str) -> Outcome:
    """Something else was seen."""
    return Outcome(FAILED, seen)


def not_applicable(why: str) -> Outcome:
    """There is nothing on this machine of which it could be seen."""
    return Outcome(NOT_APPLICABLE, why)


def holds(is_so: bool, seen: str) -> Outcome:
    """Proved or failed, by what was seen."""
    return proved(seen) if is_so else failed(seen)


def read_outcomes(told: object) -> dict[str, Outcome]:
    """What a host told, as data: what is no outcome is left out, texts are cut."""
    if not isinstance(told, Mapping):
        return {}
    found: dict[str, Outcome] = {}
    for name, each in told.items():
        values: Mapping[str, Any] = each if isinstance(each, Mapping) else {}
        if values.get("state") in STATES:
            found[str(name)[:40]] = Outcome(str(values["state"]), str(values.get("seen", ""))[:MAX_SEEN])
    return found
