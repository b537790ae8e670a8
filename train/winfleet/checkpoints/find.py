"""Finds checkpoints among the files that a run wrote, by their names alone. Standard library alone, for Ansible's module too.

checkpoint-500/, step_000136/, epoch_3.pt and epoch=3-step=400.ckpt are members of a family, of which the highest number is the
newest; files of one number that always come together (model_500.pt, optim_500.pt) are one member. ckpt.pt is a single file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".distcp", ".msgpack")
SOMETIMES = re.compile(
    r"(model|optim|sched|scaler|state|adapter|weights|lora|ckpt|checkpoint|training_args)[\w.-]*\.(bin|pkl|pickle|h5|npz|tar)$",
    re.IGNORECASE,
)
BESIDE = (".json", ".txt", ".yaml", ".yml", ".bin", ".pkl", ".npz")  # what a number may have beside its weights
POINTER = re.compile(
    r"(latest|last|checkpoint|best)[\w-]*(\.(txt|json|ya?ml))?$", re.IGNORECASE
)  # names the newest one
NOWHERE = frozenset({"wandb", "cache", "mlruns", "__pycache__"})  # datasets and logs also lie in files of these kinds
INCOMPLETE = ".incomplete"

NUMBER = re.compile(r"\d+(?:\.\d+)*")
STEP, MARK = frozenset(["step", "steps", "globalstep", "iter", "iters", "iteration", "update"]), frozenset(["checkpoint", "ckpt", "save", "snapshot", "epoch", "ep", "round"])  # fmt: skip
PART = frozenset(
    ["rank", "of", "shard", "part", "worker", "gpu", "host", "node", "process", "tp", "pp", "dp"]
)  # of one checkpoint
PART_FIRST, OF_RANK = re.compile(r"-of-\d", re.IGNORECASE), ("random_states_", "rng_state_", "rng_states_")
OTHER = frozenset(
    ["fold", "seed", "split", "layer", "version", "v", "run", "exp", "trial", "top", "world"]
)  # things that are not newer or older
CALLED_CHECKPOINT = re.compile(r"ckpt|checkpoint|last|latest|resume|snapshot|state", re.IGNORECASE)
FOLDERS_OF_NUMBERS = re.compile(r"checkpoints?|ckpts?|snapshots?|saves?", re.IGNORECASE)


class Name(NamedTuple):
    """A file's or folder's name with a number in it that tells which is newer."""

    family: str  # the name with # for its numbers
    number: tuple[int, ...]  # the one that counts first
    digits: str  # that one as it is written
    strength: int  # 3 a step, 2 a checkpoint or an epoch, 1 a number that may mean anything


class Checkpoint(NamedTuple):
    """What is saved and loaded as one."""

    place: str  # path (posix) of its folder, or of the file that a script would load
    family: str  # path with # for numbers; "" of a single file
    number: tuple[int, ...]
    files: tuple[str, ...]
    is_folder: bool


def read_name(name: str) -> Name | None:
    """The name's number, None where it has none that could count steps."""
    stem = name
    while (suffix := PurePosixPath(stem).suffix) and not NUMBER.search(suffix):
        stem = stem[: -len(suffix)]
    best: tuple[int, str] = (0, "")
    others: list[int] = []
    pieces, end = [], 0
    for found in NUMBER.finditer(stem):
        before, after = stem[: found.start()], stem[found.end() :]
        worded = re.search(r"([A-Za-z]+)([-_=. ]?)$", before)
        word, attached = (worded[1].lower(), not worded[2]) if worded else ("", False)
        word = "globalstep" if before.lower().rstrip("-_=. ").endswith("global_step") else word
        strength = 3 if word in STEP else 2 if word in MARK else 1
        shown = "#"
        if word in PART or "." in found[0] or PART_FIRST.match(after) or before.lower().endswith(OF_RANK):
            shown, strength = "*", 0
        elif word in OTHER or (strength == 1 and (attached or after[:1].isalpha())):
            shown, strength = found[0], 0
        elif strength > best[0]:
            others += [int(best[1])] if best[1] else []
            best = strength, found[0]
        else:
            others.append(int(found[0]))
        pieces += [stem[end : found.start()], shown]
        end = found.end()
    if not best[0] or len(best[1]) > 18:
        return None
    family = "".join([*pieces, stem[end:], name[len(stem) :]])
    return Name(family, (int(best[1]), *others), best[1], best[0])


def has_weights(name: str) -> bool:
    """Whether a file of this name holds weights or the like."""
    return name.lower().endswith(WEIGHTS) or SOMETIMES.search(name) is not None


def may_count(path: str) -> bool:
    """Whether a file of this path can belong to a checkpoint at all."""
    parts = path.split("/")
    hidden = any(part.startswith(".") for part in parts[:-1])
    return not (
        hidden
        or (parts[0] == "data" and len(parts) > 1)
        or NOWHERE.intersection(parts[:-1])
        or any(part.endswith((INCOMPLETE, ".tmp")) for part in parts)
    )


def find(paths: Iterable[str]) -> list[Checkpoint]:
    """Every checkpoint among the files, whole or not: members of families from the oldest on, then single files."""
    given = sorted(filter(may_count, paths))
    members: dict[tuple[str, str], dict[tuple[int, ...], list[str]]] = {}  # (parent, family) -> number -> files
    folders: dict[str, list[str]] = {}
    for path in given:
        if folder := folder_of(path):
            folders.setdefault(folder, []).append(path)
    kinds = {
        family_of(folder)
        for folder, files in folders.items()
        if any(has_weights(PurePosixPath(name).name) for name in files)
    }
    found = [
        Checkpoint(folder, "/".join(family_of(folder)).lstrip("/"), read_number(folder), tuple(files), is_folder=True)
        for folder, files in folders.items() if family_of(folder) in kinds
    ]  # fmt: skip
    inside = {path for one in found for path in one.files}
    rest = [path for path in given if path not in inside]
    for path in rest:
        pure = PurePosixPath(path)
        name = read_name(pure.name)
        if name is not None and (has_weights(pure.name) or pure.suffix in BESIDE):
            members.setdefault((str(pure.parent), name.family), {}).setdefault(name.number, []).append(path)
    found += join(members)
    taken = {path for one in found for path in one.files}
    found.sort(key=lambda one: (one.family, one.number))
    return [*found, *(Checkpoint(path, "", (), (path,), is_folder=False) for path in rest if path not in taken and has_weights(path.rpartition("/")[2]))]  # fmt: skip


def folder_of(path: str) -> str:
    """The outermost folder above the file that is named like a checkpoint; "" where none is."""
    parts = path.split("/")[:-1]
    for depth, part in enumerate(parts):
        name = read_name(part)
        alone = part.isdecimal() and depth and FOLDERS_OF_NUMBERS.fullmatch(parts[depth - 1])
        if name is not None and (name.strength > 1 or alone):
            return "/".join(parts[: depth + 1])
    return ""


def family_of(folder: str) -> tuple[str, str]:
    """Parent and family of a checkpoint's folder."""
    parent, _, own = folder.rpartition("/")
    name = read_name(own)
    return parent, name.family if name else own


def read_number(folder: str) -> tuple[int, ...]:
    """Its number."""
    name = read_name(folder.rpartition("/")[2])
    return name.number if name else ()


def join(members: Mapping[tuple[str, str], Mapping[tuple[int, ...], list[str]]]) -> list[Checkpoint]:
    """Members of families of files; families of one folder whose numbers go together are one."""
    groups: list[tuple[str, str, dict[tuple[int, ...], list[str]]]] = []
    for (parent, family), numbers in sorted(members.items()):
        for other, _, known in groups:
            shared = len(known.keys() & numbers.keys())
            if other == parent and 2 * shared > min(len(known), len(numbers)):
                for number, paths in numbers.items():
                    known.setdefault(number, []).extend(paths)
                break
        else:
            groups.append((parent, family, dict(numbers)))
    found = []
    for parent, family, numbers in groups:
        names = [path.rpartition("/")[2] for paths in numbers.values() for path in paths]
        strong = any((name := read_name(each)) is not None and name.strength > 1 for each in names)
        if not any(map(has_weights, names)) or not (strong or len(numbers) > 2 or max(numbers)[0] >= 10):
            continue  # net_1.pt and net_2.pt may be two networks
        for number, paths in numbers.items():
            first = min(paths, key=lambda path: (not has_weights(path), "model" not in path.rpartition("/")[2], path))
            found.append(Checkpoint(first, f"{parent}/{family}", number, tuple(sorted(paths)), is_folder=False))
    return found


def pointers(paths: Iterable[str], found: Iterable[Checkpoint]) -> list[str]:
    """Small files beside checkpoints that say which one is the newest, as `latest` of DeepSpeed does."""
    places = {one.place.rpartition("/")[0] for one in found}
    inside = {path for one in found for path in one.files}
    return [path for path in paths if path.rpartition("/")[0] in places and path not in inside and POINTER.fullmatch(path.rpartition("/")[2])]  # fmt: skip


def newest_of_each(found: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The newest member of each family, and all single files."""
    newest: dict[str, Checkpoint] = {}
    for one in found:
        newest[one.family or one.place] = one  # they come from the oldest on
    return list(newest.values())


def to_resume(found: Iterable[Checkpoint], times: Mapping[str, float]) -> Checkpoint | None:
    """The one that a continued run would load: of a family before a single file, of these the one written last."""

    def weight(one: Checkpoint) -> tuple[bool, bool, float]:
        called = CALLED_CHECKPOINT.search(one.place.rpartition("/")[2]) or one.place.endswith(".ckpt")
        return bool(one.family), bool(called), max(times.get(path, 0.0) for path in one.files)

    return max(newest_of_each(found), key=weight, default=None)
