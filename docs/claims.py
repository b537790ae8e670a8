"""Writes docs/claims.md from the table of claims: `make docs`.

python docs/claims.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from winfleet.proofs.claims import PLACES, Claim, Place
from winfleet.proofs.claims_table import GROUPS, PROVED_BY_PROGRAM

HERE: Final = Path(__file__).resolve().parent
LABELS: Final[dict[Place, str]] = {"lab": "lab", "linux": "Linux", "windows": "Windows", "gpu": "GPU"}
MADE: Final = (
    "<!-- Made by `make docs` from train/winfleet/proofs/claims_table.py. Change that table, not this file. -->\n"
)
INTRODUCTION: Final = """# What is claimed, and what proves it

A row is one thing that holds, with its name. *Here* is what `make test` proves without a GPU, a real Windows or a second machine, and by
what; [testing](testing.md) says what is real there and what is a double. *On real machines* is what nobody has seen yet, and how you would
see it.

- *Here* begins with the places where a test proves it. Without a place it says how or where it is done, and no test sees it.
- *On real machines* begins with what is needed. `prove.yml` is a program that proves the claim on your own machines. Elsewhere stands
  what you type or do, and what must be seen then. A dash: nothing is unproven.
- A test that takes a minute or more may be one that `make proofs` alone runs (marker `proof`), as all of tests/test_windows_training.py are.
- What is *named* is a warning or an error that tells the fix.
- *In the lab* is a run on two Wine PCs, tests/test_windows_training.py, or by hand `ansible-playbook deploy_and_train.yml -i inventories/lab -e fleet_config=molecule/hosts/train_config.yaml`
  after `make lab-ready`.
- DEPLOY is `ansible-playbook deploy_and_train.yml -i inventories/NAME` with real PCs. `inventories/NAME` and, on this page's right side,
  `inventories/lab` are yours, as in the [README](../README.md). `WINFLEET_INVENTORY=…` is `WINFLEET_INVENTORY=$PWD/inventories/NAME`, before
  `.venv/bin/molecule`.
"""


def page() -> str:
    """The document."""
    places = "\n".join(f"| {LABELS[place]} | {words} |" for place, words in PLACES.items())
    parts = [MADE + INTRODUCTION, f"| Place | What is meant |\n|---|---|\n{places}\n"]
    for title, claims in GROUPS.items():
        rows = "\n".join(row(claim) for claim in claims)
        parts.append(f"## {title}\n\n| Claim | Here | On real machines |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def row(claim: Claim) -> str:
    """A claim's line of its table."""
    real = "`prove.yml`" if claim.name in PROVED_BY_PROGRAM else claim.real
    cells = (f"{claim.text} · `{claim.name}`", cell(claim.proved, claim.here), cell(claim.needs, real))
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


def cell(places: Sequence[Place], text: str) -> str:
    """Places and what is said of them, a dash for nothing."""
    names = ", ".join(LABELS[place] for place in places)
    return (f"*{names}:* {text}" if names else text) or "–"


def main() -> None:
    """Writes the document into the folder that is given, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    (folder / "claims.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
