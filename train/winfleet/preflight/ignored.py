"""Which files that git ignores a command or its configuration names: they would be missing on the workers. Proposes fleet_include."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from winfleet.preflight.problems import Problem
from winfleet.transfer.folders import FolderError, ignored_files, list_files
from winfleet.transfer.including import chosen, expression, is_secret

LONGEST: Final = 2**20  # bytes of a text that is read
SHOWN: Final = 6
TEXTS: Final = frozenset({".py", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt", ".sh"})
# Folders that a run writes or a tool makes: a word that is only their name does not ask for them.
JUNK: Final = frozenset({
    "venv", "env", "node_modules", "wandb", "mlruns", "lightning_logs", "runs", "outputs", "output", "logs", "log", "checkpoints", "build",
    "dist", ".idea", ".vscode", ".ipynb_checkpoints", "site-packages", "tmp", "cache",
})  # fmt: skip
WRITTEN: Final = re.compile(
    r"(^|[_.-])(out|output|save|saved|log|logs|logging|ckpt|checkpoints?|results?|export|cache)([_.-]|$)"
)
READ: Final = re.compile(r"resume|load|init|from|pretrained")
KEY: Final = re.compile(r"""^\s*-{0,2}["']?([A-Za-z_][\w.-]*)["']?\s*(?::[^=\n]*)?[:=]\s*(?=\S)""")
WORD: Final = re.compile(r"""[^\s'"=,;()\[\]#]+""")
QUOTED: Final = re.compile(r"""['"]([^'"\n]{1,300})['"]""")


@dataclass(kw_only=True, slots=True)
class Named:
    """Words of texts, as keys with values where they are: those that are read from, and those that are written to."""

    read: dict[str, str] = field(default_factory=dict)  # word -> the text it stands in
    written: set[str] = field(default_factory=set)

    def take(self, text: str, where: str, *, quoted: bool) -> None:
        """Adds a text's words; of Python only what stands in quotes."""
        for line in text.splitlines():
            key = found[1].lower() if (found := KEY.match(line)) else ""
            rest = line[found.end() :] if found else line
            self.add(key, (QUOTED if quoted else WORD).findall(rest), where)

    def add(self, key: str, words: Iterable[str], where: str) -> None:
        """Adds words that are the value of a key."""
        for word in words:
            bare = word.strip("\"'").removeprefix("./").rstrip("/")
            if WRITTEN.search(key) and not READ.search(key):
                self.written.add(bare)
            elif len(bare) > 2:
                self.read.setdefault(bare, where)


def check_ignored(
    project: Path, words: Sequence[str], config: Path | None, data: Path | None, include: Sequence[str]
) -> list[Problem]:
    """A warning where ignored files are named, an error where fleet_include matches nothing. `words` are the command's."""
    try:
        list_files(project, honour_git=True, include=include)
    except FolderError as error:
        what, _, hint = str(error).partition("\nhint: ")
        return [Problem(where="controller", check="settings", what=what, hint=hint)] if "fleet_include" in what else []
    ignored = [path for path in ignored_files(project) if not is_secret(path) and path.suffix != ".pyc"]
    if data is not None:  # those are sent as data/
        ignored = [path for path in ignored if not (project / path).resolve().is_relative_to(data.resolve())]
    named = find_named(ignored, project, words, config) if ignored else {}
    sent = set(chosen(ignored, include))
    missing = {path: where for path, where in sorted(named.items()) if path not in sent}
    return [say(missing, [path for path in ignored if path not in sent], project, include)] if missing else []


def find_named(
    ignored: Sequence[PurePosixPath], project: Path, words: Sequence[str], config: Path | None
) -> dict[PurePosixPath, str]:
    """Ignored file -> what names it: the command and its configuration; where they name none, the script."""
    named, script = Named(), script_of(project, words)
    for key, word in options(words):
        named.add(key, [word], "fleet_command")
        if (
            (path := project / word) != script
            and path.is_file()
            and path.suffix in TEXTS
            and path.stat().st_size < LONGEST
        ):
            named.take(path.read_text("utf-8", "replace"), word, quoted=path.suffix == ".py")
    if config is not None and config.is_file() and config.stat().st_size < LONGEST:
        named.take(config.read_text("utf-8", "replace"), config.name, quoted=False)
    found = {path: where for path in ignored if (where := who_names(path, named, project))}
    if found or script is None or script.stat().st_size > LONGEST:
        return found
    return named_in_parts(ignored, script.read_text("utf-8", "replace"), script.relative_to(project).as_posix())


def script_of(project: Path, words: Sequence[str]) -> Path | None:
    """The file that the command runs; None for a module that is not the project's."""
    if not words:
        return None
    path = project / (words[0] if words[0] != "-m" else "/".join(words[1:2]).replace(".", "/") + ".py")
    return path if path.is_file() else None


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, word) of a command line: --key word, --key=word, key=word, word."""
    key = ""
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if equals:
            yield name.lower(), value
            key = ""
        elif word.startswith("-"):
            key = name.lower()
        else:
            yield key, word
            key = ""


def who_names(path: PurePosixPath, named: Named, project: Path) -> str:
    """What names a file by its path, its own name, or a folder that it is in; "" for nothing.

    What the run writes is named by its whole path alone, as a checkpoint to go on from.
    """
    words = {word.removeprefix(f"{project}/"): where for word, where in named.read.items()}
    whole = next((where for word, where in words.items() if "/" in word and f"/{path}".endswith(f"/{word}")), "")
    if whole or below(path, named.written):
        return whole
    folders = [folder for folder in list(path.parents)[:-1] if folder.name not in JUNK]
    for word, where in words.items():
        if path.name == word or any(word in (str(folder), folder.name) for folder in folders):
            return where
        if any(sign in word for sign in "*?") and expression(word).fullmatch(str(path)):
            return where
    return ""


def below(path: PurePosixPath, written: Iterable[str]) -> bool:
    """Whether a file lies in a folder that the run writes, or is such a file."""
    return any(str(each) in written or each.name in written for each in [path, *list(path.parents)[:-1]])


def named_in_parts(ignored: Sequence[PurePosixPath], text: str, script: str) -> dict[PurePosixPath, str]:
    """Files of whose path a script has every part in quotes, as os.path.join('data', dataset, 'train.bin') does."""
    named = Named()
    named.take(text, script, quoted=True)
    parts = {part for word in QUOTED.findall(text) for part in PurePosixPath(word).parts}
    shapes = [
        re.compile(re.sub(r"\\\{.*?\\\}", ".*", re.escape(part)))
        for part in parts
        if "{" in part and len(re.sub(r"{.*?}", "", part)) > 2
    ]
    return {
        path: script for path in ignored
        if not JUNK.intersection(path.parts[:-1]) and not below(path, named.written)
        and all(part in parts or any(shape.fullmatch(part) for shape in shapes) for part in path.parts)
    }  # fmt: skip


def say(
    named: Mapping[PurePosixPath, str], ignored: Sequence[PurePosixPath], project: Path, include: Sequence[str]
) -> Problem:
    """The warning: which files, what names them, and the setting that sends them."""
    sizes = {path: (project / path).stat().st_size for path in named}
    shown = ", ".join(f"{path} ({megabytes(sizes[path])})" for path in list(named)[:SHOWN])
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    by = ", ".join(dict.fromkeys(named.values()))
    patterns = ",".join([*include, *propose(list(named), ignored)])
    one = len(named) == 1
    return Problem(
        where="controller", check="settings", warning=True,
        what=f"git ignores {'a file' if one else 'files'} that {by} names, so {'it is' if one else 'they are'} not sent: {shown}{more}",
        hint=f"to send {'it' if one else 'them'}: -e 'fleet_include={patterns}'",
    )  # fmt: skip


def propose(named: Sequence[PurePosixPath], ignored: Sequence[PurePosixPath]) -> list[str]:
    """Few patterns for these files: a folder where all that is ignored in it is meant, else its files of one kind."""
    found: list[str] = []
    for folder in dict.fromkeys(path.parent for path in named):
        inside = [path for path in ignored if folder in path.parents]
        if folder.parts and set(inside) <= set(named):
            found.append(f"{folder}/")
            continue
        mine = [path for path in named if path.parent == folder]
        for ending in dict.fromkeys(path.suffix for path in mine):
            alike = [path for path in ignored if path.parent == folder and path.suffix == ending]
            kind = f"{folder}/*{ending}" if folder.parts else f"/*{ending}"
            found += (
                [kind]
                if ending and set(alike) <= set(mine) and len(alike) > 1
                else [str(path) for path in mine if path.suffix == ending]
            )
    return [
        pattern
        for pattern in found
        if not any(other != pattern and other.endswith("/") and pattern.startswith(other) for other in found)
    ]


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
