"""The file of proofs: what machines these are, and of each claim what was seen. No secrets, no names: a person may send it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import winfleet
from winfleet.core.reading import plain
from winfleet.proofs.outcome import FAILED, NOT_APPLICABLE, PROVED, STATES, Outcome
from winfleet.support.redaction import Redactor

MAX_FACT: Final = 200
HEAD: Final = """# What winfleet proved on these machines

winfleet {version}, {day}. Host names are numbered, addresses, accounts and secrets taken out; look through it before you send it.
The claims stand in docs/claims.md.
"""


def merge(of_hosts: Mapping[str, Outcome]) -> Outcome:
    """One outcome of a claim that several hosts proved: the worst, with what each saw."""
    states = {one.state for one in of_hosts.values()}
    state = next(state for state in (FAILED, PROVED, NOT_APPLICABLE) if state in states)
    said = {name: one.seen for name, one in of_hosts.items() if one.state == state}
    same = len(set(said.values())) == 1 and len(said) == len(of_hosts)
    return Outcome(
        state, next(iter(said.values())) if same else "; ".join(f"{name}: {seen}" for name, seen in said.items())
    )


def write(
    outcomes: Mapping[str, Outcome],
    facts: Mapping[str, Mapping[str, Any]],
    secrets: Iterable[str],
    accounts: Iterable[str],
) -> str:
    """The file's text. `facts` {host: {name: value}}; `secrets` and `accounts` are what must not be in it."""
    numbers = {name: f"host{number}" for number, name in enumerate(facts, 1)}
    lines = [HEAD.format(version=winfleet.__version__, day=time.strftime("%Y-%m-%d"))]
    for name, told in facts.items():
        lines.append(
            f"- {numbers[name]}: " + ", ".join(f"{what} {shown(value)}" for what, value in told.items() if value)
        )
    lines += ["", "| Claim | | Seen |", "|---|---|---|"]
    for name, one in sorted(outcomes.items(), key=lambda item: (item[1].state != FAILED, item[0])):
        lines.append(f"| {name} | {one.state} | {one_line(one.seen).replace('|', '/')} |")
    text = "\n".join([*lines, ""])
    for name in sorted(numbers, key=len, reverse=True):
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", numbers[name], text, flags=re.IGNORECASE)
    return Redactor(secrets, accounts).text(text)


def one_line(text: str) -> str:
    """The text as a line of a table."""
    return " ".join(plain(text).split())


def shown(value: object) -> str:
    """A fact in words."""
    return plain(
        "; ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value, MAX_FACT
    )


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """How many are proved, and each that failed."""
    counted = {state: [name for name, one in outcomes.items() if one.state == state] for state in STATES}
    lines = [", ".join(f"{len(names)} {state}" for state, names in counted.items())]
    return "\n".join([*lines, *(f"  failed: {name}: {one_line(outcomes[name].seen)}" for name in counted[FAILED])])
