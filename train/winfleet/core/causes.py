"""What the words of a failure mean: looks them up in causes_table.py. Every command that shows a failure asks here.

Addresses and line numbers in the words vary, so a symptom is matched by the part that does not. Standard library alone,
for Ansible's modules too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from .causes_table import CONNECTION, END, FAILURE, MACHINE, START, Row

ROWS: Final = {row.code: row for row in (*CONNECTION, *FAILURE)}
DROPPED: Final = ROWS["dropped"]
# The words of WinRM's connection in a task that failed: it had reached the host before. Programs on a host have such words too.
BROKEN: Final = re.compile(
    r"HTTPS?ConnectionPool\([^\n]*(port=598[56]\b|url: /wsman)|winrm (connection error|send_input failed)"
    r"|'Connection aborted|shell was not found on the server"
)
# What stops the task of a playbook, whoever wrote its module. "Access is denied" alone says too little there.
TASK: Final = tuple(
    ROWS[code]
    for code in (
        "virus-remote", "virus-script", "app-control-script", "virus-compiler", "app-control", "virus", "shared-memory",
        "paging-file", "disk-quota", "disk-full", "memory", "task-password", "task-batch", "task-waits", "task-refused",
    )
)  # fmt: skip
# What a rank says that ends because another one did; it is never the first failure while others say more.
ECHO: Final = re.compile(rf"{ROWS['peer-gone'].symptom}|DistNetworkError|SIGTERM")
# What Ansible says where a host's Python gave no module's answer.
NO_PYTHON: Final = "its Python"
UNREAD: Final = re.compile(
    r"Module result deserialization failed|The module interpreter .* was not found|ansible-core requires a minimum of Python"
)
NTSTATUS: Final = 0x40000000  # from here on an exit code of Windows is a status of the system, not the program's own
LAUNCHER: Final = (*START, *MACHINE, *END)  # what can go wrong outside of a script
MAX_SAID: Final = 600  # characters of an interpreter's own words
MAX_SEARCHED: Final = 20_000  # characters


class Explanation(NamedTuple):
    """Cause and fix of one failure, filled in for its host."""

    code: str
    cause: str
    fix: str


def explain(text: str, host: str = "the host", rows: Sequence[Row] = FAILURE, around: str = "") -> Explanation | None:
    """The first row whose symptom is in the text, its words about this host; None where nobody knows it yet.

    `around` is what stands around the text in a log: it has the frames of an exception.
    """
    text, frames = text[:MAX_SEARCHED], f"{text[:MAX_SEARCHED]}\n{around[:MAX_SEARCHED]}".rstrip()
    for row in rows:
        if (found := re.search(row.symptom, text)) and re.search(row.frames, frames):
            names = {"host": host, **{name: value or "" for name, value in found.groupdict().items()}}
            return Explanation(code=row.code, cause=fill_in(row.cause, names), fix=fill_in(row.fix, names))
    return None


def fill_in(text: str, names: dict[str, str]) -> str:
    """The text with {name} replaced; a name without a value leaves no gap."""
    for name, value in names.items():
        text = text.replace(f" {{{name}}}" if not value else f"{{{name}}}", value).replace(f"{{{name}}}", value)
    return text


def advise(text: str, host: str = "the host", rows: Sequence[Row] = FAILURE, around: str = "") -> str:
    """Two lines, cause and hint, to stand below a failure's own words; "" where nobody knows it yet. `around` as in explain()."""
    known = explain(text, host, rows, around)
    return "" if known is None else f"\n  cause: {known.cause} [{known.code}]\n  hint: {known.fix}"


def advise_on_rank(text: str, host: str, exit_code: int | None, lines: Sequence[str] = ()) -> str:
    """The same for a rank: its exception decides, with its frames. The end of its log and its exit code do where it wrote none."""
    if not re.match(r"ended |Signal \d", text):  # agent.py's words, or torch's
        return advise(text, host, around="\n".join(lines))
    words = "" if re.search("SIGKILL|SIGTERM", text) else "\n".join(lines)  # who is killed has no last words
    code = "" if exit_code is None else f"exit code {name_exit_code(exit_code)}"
    return next(filter(None, (advise(part, host) for part in (words, code, text))), "")


def name_exit_code(code: int) -> str:
    """A process's exit code as it is looked up: Windows' own above 0x40000000 in hexadecimal, others as they are."""
    return str(code) if -256 < code < NTSTATUS else f"0x{code % 2**32:08X}"


def describe_unreachable(host: str, text: str) -> str:
    """Why Ansible could not reach the host, with the fix; the connection's own words where nobody knows them yet."""
    known = explain(text, host, CONNECTION)
    if known is None:
        return f"did not answer: {text.strip()}\n  hint: try `ansible {host} -m ping`"
    return f"did not answer: {known.cause} [{known.code}]\n  hint: {known.fix}"


def describe_failed(host: str, text: str, said: str = "") -> str:
    """What a task failed of: its own words, with cause and hint where they are known and it has none of its own.

    In place of a connection's words stands that the connection broke off. `said` is what its program printed besides.
    """
    if not BROKEN.search(text):
        return text if "hint: " in text else text.rstrip() + advise(f"{text}\n{said}", host, TASK)
    row = ROWS["proxy"] if re.search(ROWS["proxy"].symptom, text) else DROPPED
    return f"did not answer: {row.cause} [{row.code}]\n  hint: {row.fix}".replace("{host}", host)


def describe_interpreter(host: str, result: Mapping[str, Any], python: str = "", others: Sequence[str] = ()) -> str:
    """Which Python of a Linux host does not run, in its own words, and the fix; "" where a task's result has another reason.

    `others` are interpreters of the host that do run.
    """
    if not UNREAD.search(str(result.get("msg"))):
        return ""
    python = python or str((result.get("ansible_facts") or {}).get("discovered_interpreter_python", ""))
    said = str(result.get("module_stderr") or result.get("module_stdout") or result["msg"]).strip()[-MAX_SAID:]
    words = textwrap.indent("\n".join(line for line in said.splitlines() if line.strip()), "  | ")
    fix = f"{host}: {{ansible_python_interpreter: {next(iter(others), '/usr/bin/python3')}}}"
    return f"{NO_PYTHON}{' ' * bool(python)}{python} does not run winfleet's modules:\n{words}\n  hint: name one that runs and is 3.8 or newer, in the inventory: {fix}"
