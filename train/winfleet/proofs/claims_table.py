"""The table of claims, in groups. docs/claims.md is made of it (`make docs`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .claims import Claim
from .claims_of_deploying import FILES, PACKAGES, PREFLIGHT
from .claims_of_setup import DOOR, FIREWALL, MASTER, POWER, SCRIPTS
from .claims_of_surroundings import SURROUNDINGS
from .claims_of_training import GPU, TASKS, TRAINING

GROUPS: Final[dict[str, tuple[Claim, ...]]] = {
    "Scripts, and the words that they are given": SCRIPTS,
    "The door that worker_setup opens": DOOR,
    "The firewall": FIREWALL,
    "Staying awake": POWER,
    "What stands around a PC": SURROUNDINGS,
    "The master, and WSL": MASTER,
    "What is named before a training": PREFLIGHT,
    "Python and packages": PACKAGES,
    "Files, and how they get there": FILES,
    "Tasks, processes, and their ends": TASKS,
    "Training": TRAINING,
    "GPUs": GPU,
}
CLAIMS: Final[tuple[Claim, ...]] = tuple(claim for group in GROUPS.values() for claim in group)

# What prove.yml proves on the user's own machines.
PROVED_BY_PROGRAM: Final = (
    "task-settings",
    "task-runs",
    "task-cuda",
    "nvml-agrees",
    "oom-real",
    "keeps-awake",
    "port-scan",
    "launcher-killed",
    "rank-killed",
    "ctrl-c",
    "certificate-renewal",
    "long-paths",
    "korean-names",
    "trains",
    "stop-and-continue",
    "prediction",
)


def chosen(names: Sequence[str]) -> set[str]:
    """Those of PROVED_BY_PROGRAM that somebody names, all where he names none. Raises ValueError, with a hint."""
    if unknown := [name for name in names if name not in PROVED_BY_PROGRAM]:
        raise ValueError(
            f"{', '.join(unknown)} is no claim that a program proves\nhint: these are: {', '.join(PROVED_BY_PROGRAM)}"
        )
    return set(names or PROVED_BY_PROGRAM)
