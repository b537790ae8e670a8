"""Where a command says how large its micro-batches are and how many make a step, and the same command with other values.

A setting is an option (`--batch_size 8`, `--batch-size=8`, `train.batch_size=8`) or a key of a YAML or JSON file that the
command names. Names are those of Hugging Face's Trainer and examples, DeepSpeed, Megatron, Lightning and timm. Pure
functions, but for reading those files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import yaml

# The more one says that it means one process, the earlier it stands.
BATCH: Final = ("train_micro_batch_size_per_gpu", "per_device_train_batch_size", "micro_batch_size", "train_batch_size", "batch_size")  # fmt: skip
ACCUMULATION: Final = ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum_steps")
# Scripts with the one option have the other too, 1 by default (transformers.TrainingArguments, Accelerate's examples).
ALWAYS_WITH: Final = {"per_device_train_batch_size": ("gradient_accumulation_steps", 1)}
ELSEWHERE: Final = re.compile(r"eval|valid|test|predict|^val$")  # a part of a dotted name: not about training
OPTION: Final = re.compile(r"-{0,2}([A-Za-z][\w.-]*)=(\d+)")
MAX_FILE: Final = 2**20  # bytes; a larger one is no configuration


class SettingsError(ValueError):
    """A file of settings in which a value cannot be put; the text names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A number that the user gave, or that the script took by default, and its place."""

    name: str
    value: int
    word: int  # index in the command: of the word that holds the number or names the file; behind the last one: to be added
    keys: Annotated[tuple[Annotated[str, 100], ...], 10] = ()  # the way to it in that file, () for an option


def find(words: Sequence[str], names: Sequence[str]) -> Setting | None:
    """The setting with the first of these names, options before files; None where nothing says it, or in several places."""
    options = list(_options(words))
    files = [entry for index, path in files_of(words).items() for entry in _entries(index, path)]
    for found in (options, files):
        for name in names:
            same = [setting for setting in found if setting.name == name]
            if found is options and same:
                return same[-1]  # what argparse takes
            if same:
                return same[0] if len(same) == 1 else None
    return None


def find_both(words: Sequence[str], told: Mapping[str, int]) -> tuple[Setting | None, Setting | None]:
    """Batch and accumulation. `told` is what the script said to its trackers: the defaults of keys that a file leaves out."""
    batch, accumulation = find(words, BATCH), find(words, ACCUMULATION)
    if batch is None:
        batch = _left_out(words, BATCH, told, accumulation)
    if accumulation is None and batch is not None:
        accumulation = _left_out(words, ACCUMULATION, told, batch)
    if accumulation is None and batch is not None and not batch.keys and batch.name in ALWAYS_WITH:
        name, value = ALWAYS_WITH[batch.name]
        accumulation = Setting(name=name, value=value, word=len(words))
    return batch, accumulation


def change(words: Sequence[str], values: Sequence[tuple[Setting, int]], folder: Path) -> list[str]:
    """The command with other values; files are not touched but copied into `folder` with them.

    Raises SettingsError where a file cannot take the value, OSError where a copy cannot be written.
    """
    changed = list(words)
    for setting, value in values:
        if setting.word >= len(words):
            changed += [f"--{setting.name}", str(value)]
        elif not setting.keys:
            changed[setting.word] = re.sub(r"\d+$", str(value), changed[setting.word])
        else:
            before, source = _split(changed[setting.word])
            copy = folder / str(setting.word) / source.name  # two files may have one name
            text = put(source.read_text("utf-8"), setting.keys, value)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
            changed[setting.word] = before + str(copy)
    return changed


def put(text: str, keys: Sequence[str], value: int) -> str:
    """A YAML or JSON text in which the key has this value, all else as it was. Raises SettingsError where it cannot."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingsError(f"no YAML: {error}") from None
    for depth, key in enumerate(keys):
        if not isinstance(node, yaml.MappingNode):
            raise SettingsError(f"no mapping {'.'.join(keys[:depth])}")
        found = next((below for name, below in node.value if name.value == key), None)
        if found is None and depth == len(keys) - 1:
            return _insert(text, node, key, value)
        node = found
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"no number {'.'.join(keys)}")
    return f"{text[: node.start_mark.index]}{value}{text[node.end_mark.index :]}"


def _insert(text: str, node: yaml.MappingNode, key: str, value: int) -> str:
    """Puts the key before the mapping's first one."""
    if node.flow_style:
        at, entry = node.start_mark.index + 1, f'"{key}": {value}{", " if node.value else ""}'
    else:
        at, entry = node.start_mark.index, f"{key}: {value}\n{' ' * node.start_mark.column}"
    return f"{text[:at]}{entry}{text[at:]}"


def _left_out(
    words: Sequence[str], names: Sequence[str], told: Mapping[str, int], other: Setting | None
) -> Setting | None:
    """A key that may be added to the one file that the command names, beside the other one or below `training`."""
    files = files_of(words)
    name = next((name for name in names if told.get(name, 0) > 0), None)
    if name is None or len(files) != 1 or (other is not None and not other.keys):
        return None
    word, path = next(iter(files.items()))
    within = other.keys[:-1] if other is not None else ("training",)
    setting = Setting(name=name, value=told[name], word=word, keys=(*within, name))
    try:
        put(path.read_text("utf-8"), setting.keys, setting.value)
    except (SettingsError, OSError, UnicodeDecodeError):
        return None
    return setting


def _options(words: Sequence[str]) -> Iterator[Setting]:
    for index, word in enumerate(words):
        joined = OPTION.fullmatch(word)
        apart = re.fullmatch(r"--?([A-Za-z][\w.-]*)", words[index - 1]) if index and word.isdecimal() else None
        if (match := joined or apart) is None:
            continue
        *parents, name = match[1].replace("-", "_").split(".")
        if not any(map(ELSEWHERE.search, parents)):
            yield Setting(name=name, value=int(joined[2] if joined else word), word=index)


def files_of(words: Sequence[str]) -> dict[int, Path]:
    """The files of settings that the command names, by the index of the word."""
    paths = {
        index: _split(word)[1] for index, word in enumerate(words) if word.lower().endswith((".yaml", ".yml", ".json"))
    }
    return {index: path for index, path in paths.items() if path.is_file() and path.stat().st_size <= MAX_FILE}


def _split(word: str) -> tuple[str, Path]:
    """("--config=", path) or ("", path)."""
    option = re.match(r"--?[\w.-]+=", word)
    return (option[0], Path(word[option.end() :])) if option else ("", Path(word))


def _entries(word: int, path: Path) -> list[Setting]:
    """The whole numbers of a file; none where it is no YAML (of which JSON is a part)."""
    try:
        return list(_below(yaml.compose(path.read_text("utf-8"), yaml.SafeLoader), word, ()))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return []


def _below(node: yaml.Node | None, word: int, keys: tuple[str, ...]) -> Iterator[Setting]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if ELSEWHERE.search(str(key.value)):
            continue
        if isinstance(value, yaml.ScalarNode) and value.tag.endswith(":int") and value.value.isdecimal():
            yield Setting(name=str(key.value), value=int(value.value), word=word, keys=(*keys, str(key.value)))
        else:
            yield from _below(value, word, (*keys, str(key.value)))
