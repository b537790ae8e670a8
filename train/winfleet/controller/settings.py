"""Which settings there are, and what is wrong with those that a user gave: a name that nobody knows, a type, a range."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from winfleet.core.sending import Sending, SendingError

Option = Mapping[str, Any]  # of an argument_specs.yml: type, and where they are limited elements and choices
Roles = Mapping[str, Mapping[str, Option]]  # owner of a prefix, "fleet" or a role -> name -> option

UNKNOWN: Final = object()  # a value that only a later task can tell
NEAR: Final = 0.6  # of two names' similarity, 0 to 1; below it nothing is proposed
SAME_PREFIX: Final = 0.15  # a name of the same prefix is this much nearer

# What no argument_specs.yml can say. Numbers are not negative but for these.
LEAST: Final[Mapping[str, float]] = {
    "fleet_processes": -math.inf,  # the preflight says it, with the host
    "winrm_setup_renew_days": -1,
    **dict.fromkeys(
        (
            "data_sync_keep", "data_sync_progress_seconds", "launch_progress_seconds", "launch_silent_seconds",
            "accelerate_config_start_timeout_seconds", "uv_env_limit_minutes", "fleet_answer_seconds",
            "winrm_setup_memory_mb", "winrm_setup_processes", "winrm_setup_shells",
        ),
        1,
    ),
}  # fmt: skip
PATTERNS: Final[Mapping[str, tuple[str, str]]] = {
    "uv_env_python_version": (r"3\.(1[1-9]|[2-9]\d)", '"3.11" or newer, in quotes'),
    "uv_env_torch_backend": (r"auto|cpu|xpu|cu\d{2,3}|rocm[\d.]+|", "auto, cpu, or a build as cu130"),
}
SENDING: Final = frozenset(each.name for each in dataclasses.fields(Sending))  # behind the prefix
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a name that each system takes for a variable's
VARIABLES: Final = frozenset(["uv_env_environment", "uv_env_secrets"])  # settings that name variables of a program
TRUTHS: Final = frozenset(
    ["yes", "y", "on", "true", "t", "1", "no", "n", "off", "false", "f", "0"]
)  # texts that Ansible takes for a truth
WANTED: Final[Mapping[str, str]] = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text",
    "list": """a list, as -e '{"NAME": ["a", "b"]}'""", "dict": """names with values, as -e '{"NAME": {"a": "b"}}'""",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A variable as a user set it."""

    name: str
    value: Any
    where: str  # "hosts.yml:8 (workers)", "-e"


def read_options(root: Path) -> Roles:
    """All settings of this repository, by who owns their prefix. Raises OSError."""
    specs = {"fleet": root / "meta" / "argument_specs.yml"}
    specs |= {path.parent.parent.name: path for path in sorted(root.glob("roles/*/meta/argument_specs.yml"))}
    return {
        owner: yaml.safe_load(path.read_text("utf-8"))["argument_specs"]["main"]["options"]
        for owner, path in specs.items()
    }


def owner_of(name: str, roles: Roles) -> str:
    """Whose prefix the name begins with, in whatever case; "" for a variable that is none of our business."""
    return next((owner for owner in roles if name.lower().startswith(f"{owner}_")), "")


def explain_wrong(given: Iterable[Given], roles: Roles) -> list[str]:
    """A paragraph for each setting that is unknown or has a value that it cannot have, in the order given."""
    said = [
        explain_value(each, roles[owner][each.name])
        if each.name in roles[owner]
        else explain_unknown(each, owner, roles)
        for each in given
        if (owner := owner_of(each.name, roles))
    ]
    return list(dict.fromkeys(filter(None, said)))


def explain_unknown(given: Given, owner: str, roles: Roles) -> str:
    """That there is no such setting, where it stands, and the nearest name that there is."""
    place = "group_vars/all.yml" if owner == "fleet" else f"roles/{owner}/defaults/main.yml"
    near = nearest(given.name, owner, roles)
    advice = f"is {near} meant? " if near else "remove it. "
    return f"{given.where}: {given.name} is no setting of winfleet\n  hint: {advice}{place} lists those of {owner}_"


def nearest(name: str, owner: str, roles: Roles) -> str:
    """The setting with the most similar name, its prefix left out, as all of a role begin alike; "" where none is similar."""
    tail = name.lower()[len(owner) + 1 :]
    scores = {
        known: difflib.SequenceMatcher(None, tail, known[len(other) + 1 :]).ratio() + SAME_PREFIX * (other == owner)
        for other, options in roles.items()
        for known in options
    }
    best = max(scores, key=lambda known: scores[known])
    return best if scores[best] >= NEAR + SAME_PREFIX * (owner_of(best, roles) == owner) else ""


def explain_value(given: Given, option: Option) -> str:
    """That the value is none that this setting can have, and what it can have; "" where it is fine."""
    if not (wanted := trouble_with(given.name, given.value, option)):
        return ""
    shown = (
        " has a value that" if option.get("no_log")
        else f" is {'empty' if given.value is None else repr(plain(given.value))}, which"
    )  # fmt: skip
    return f"{given.where}: {given.name}{shown} it cannot be\n  hint: give {wanted}".replace("NAME", given.name)


def plain(value: Any) -> Any:
    """The value without what Ansible hangs on it, so that it is shown as it was written."""
    kind = next((each for each in (bool, int, float, str) if isinstance(value, each)), None)
    return value if kind is None or kind is bool else kind(value)


def trouble_with(name: str, value: Any, option: Option) -> str:
    """What is wanted instead of the value, "" where it is fine."""
    kind, choices = str(option.get("type", "str")), option.get("choices")
    if value is UNKNOWN:
        return ""
    if (part := name.removeprefix("fleet_").removeprefix("accelerate_config_")) in SENDING:
        return trouble_with_sending(part, value)
    if not is_of(kind, value):
        return WANTED[kind]
    if kind == "list" and any(not is_of(str(option.get("elements", "raw")), each) for each in value):
        return WANTED[kind]
    if name in VARIABLES and value and (words := trouble_with_variables(value)):
        return words
    if choices and value not in choices:
        return "one of " + ", ".join(f'"{each}"' if each in TRUTHS else str(each) for each in choices)
    if kind in ("int", "float") and float(value) < (least := LEAST.get(name, 0)):
        return f"{WANTED[kind]} from {least} up"
    pattern, words = PATTERNS.get(name, (".*", ""))
    return words if kind == "str" and not re.fullmatch(pattern, str(value or ""), re.DOTALL) else ""


def trouble_with_sending(part: str, value: Any) -> str:
    """What is wanted instead of one of the settings of what ranks send; "" where it is fine."""
    try:
        Sending.of_settings({**dataclasses.asdict(Sending()), part: plain(value)})
    except SendingError as error:
        return str(error).partition("hint: ")[2]
    return ""


def trouble_with_variables(value: Iterable[Any]) -> str:
    """What is wanted instead of variables' names, or of names with texts; "" where they are fine."""
    for name in value:
        if not VARIABLE.fullmatch(str(name)):
            return f"names of environment variables, as HTTPS_PROXY; {str(name)!r} is none"
        if isinstance(value, Mapping) and (isinstance(value[name], bool | int | float | list | tuple | Mapping | None)):
            return f'the value of {name} as a text in quotes, as {name}: "1"'
    return ""


def is_of(kind: str, value: Any) -> bool:
    """Whether Ansible may take the value for this type. -e gives numbers and truths as texts."""
    if value is None:
        return kind in ("str", "dict", "raw")  # a key without a value: empty
    if kind == "bool":
        return isinstance(value, bool) or str(value).strip().lower() in TRUTHS
    if kind in ("int", "float"):
        return not isinstance(value, bool) and is_number(value, whole=kind == "int")
    wanted: dict[str, Any] = {"list": list | tuple, "dict": Mapping}
    return (
        not isinstance(value, list | tuple | Mapping) if kind == "str" else isinstance(value, wanted.get(kind, object))
    )


def is_number(value: Any, *, whole: bool) -> bool:
    """Whether it is a number that ends somewhere; with `whole` one without a fraction."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return math.isfinite(number) and (not whole or (number.is_integer() and "." not in str(value)))


def as_typed(extra_vars: Iterable[object]) -> str:
    """fleet_command of `-e fleet_command="train.py --epochs 3"`, which Ansible would cut off at the first blank."""
    for text in reversed([str(text) for text in extra_vars]):
        typed = re.search(r"(?:^|\s)fleet_command=(?!['\"])(.*?)(?=\s+fleet_\w+=|$)", text, re.DOTALL)
        if typed:
            return typed[1].strip()
    return ""
