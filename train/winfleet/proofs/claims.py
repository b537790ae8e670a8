"""A claim of winfleet's: what holds, on which machines, what proves it here, and what would prove it on theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Place = Literal["lab", "linux", "windows", "gpu"]

PLACES: Final[dict[Place, str]] = {
    "lab": "Windows programs in the lab",
    "linux": "Linux",
    "windows": "a real Windows",
    "gpu": "a GPU with its driver",
}


@dataclass(frozen=True)
class Claim:
    """One row of docs/claims.md.

    `name` is what prove.yml calls it. `proved` says in which places `make test` proves the claim, and `here` by what; without a
    place `here` says how the claim is kept, and no test sees it. `real` is what a person types on real machines and what must be
    seen then; nothing where prove.yml does it (PROVED_BY_PROGRAM), or where nothing is unproven. Texts are Markdown.
    """

    name: str
    text: str
    here: str = ""
    proved: Sequence[Place] = ()
    real: str = ""
    needs: Sequence[Place] = ()  # the places in which it is unproven


def by_name(claims: Sequence[Claim]) -> dict[str, Claim]:
    """The claims by their names. Raises ValueError where two have one name."""
    found = {claim.name: claim for claim in claims}
    if len(found) != len(claims):
        names = [claim.name for claim in claims]
        raise ValueError(f"claims of one name: {sorted({name for name in names if names.count(name) > 1})}")
    return found
