"""Whether a checkpoint was written to its end, as far as its formats tell. Reads heads and tails of files, never all of one."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path, PurePosixPath

from .find import Checkpoint, has_weights

MAX_HEADER = 100 * 2**20
MAX_JSON = 64 * 2**20
LAST_WRITTEN = (".metadata", "trainer_state.json")


def trouble_of(path: Path) -> str:
    """Why the file cannot be whole, in a few words; "" where nothing speaks against it."""
    name = path.name.lower()
    try:
        size = path.stat().st_size
        if not size:
            return "is empty" if has_weights(path.name) else ""
        if name.endswith(".safetensors"):
            return safetensors_trouble(path, size)
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PK\3\4":  # torch.save, numpy.savez
            with zipfile.ZipFile(path) as archive:
                archive.infolist()
        elif name.endswith(".json") and size <= MAX_JSON:
            json.loads(path.read_bytes())
        elif head[:1] == b"\x80" and name.endswith((".pkl", ".pickle")):
            with path.open("rb") as file:
                file.seek(-1, 2)
                return "" if file.read(1) == b"." else "ends too soon"  # pickle's STOP
        elif not any(head) and has_weights(path.name):
            return "begins with zeros"  # the disk lost it with the power
    except zipfile.BadZipFile:
        return "ends too soon"
    except ValueError:
        return "is no whole JSON"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def safetensors_trouble(path: Path, size: int) -> str:
    """A header of so many bytes says where the last tensor ends."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 1 < length <= min(size - 8, MAX_HEADER):
            return "ends too soon"
        header = json.loads(file.read(length))
    ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    return "" if size >= 8 + length + max(ends, default=0) else "ends too soon"


def lacking(one: Checkpoint, before: Checkpoint | None) -> str:
    """What the checkpoint lacks, by the names of its files on all hosts: what the one before it had, or its format needs; else ""."""
    names = {PurePosixPath(path).name for path in one.files}
    if before is not None:
        had, has = shapes(before), shapes(one)
        if less := sorted(had - has):
            return f"has no {less[0]}, which {before.place} has"
    if one.is_folder:
        if any(name.endswith(".distcp") for name in names) and ".metadata" not in names:
            return "has no .metadata"
        if (
            names & {"optimizer.pt", "scheduler.pt"}
            and "training_args.bin" in names
            and "trainer_state.json" not in names
        ):  # Trainer writes it last
            return "has no trainer_state.json"
    return ""


def shapes(one: Checkpoint) -> set[str]:
    """Names of its files that hold weights or the like, below its folder, with # for numbers: random_states_#.pkl."""
    base = one.place if one.is_folder else one.place.rpartition("/")[0]
    own = [
        path[len(base) :].lstrip("/")
        for path in one.files
        if has_weights(name := path.rpartition("/")[2]) or name in LAST_WRITTEN
    ]
    return {re.sub(r"\d+(\.\d+)*", "#", name) for name in own}
