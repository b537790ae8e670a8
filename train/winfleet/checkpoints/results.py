"""What of a run's outputs matters most: its final model and its newest checkpoint. Standard library alone, for Ansible's module too."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from .find import CALLED_CHECKPOINT, find, has_weights, to_resume

# What save_pretrained() of transformers, peft and diffusers and save_model() of Accelerate write.
MODEL = re.compile(
    r"((diffusion_)?(pytorch_)?model|adapter_model|pytorch_lora_weights)(\.\w+)?(-\d+-of-\d+)?\.(safetensors|bin|pt|h5)"
)
PIPELINE = "model_index.json"  # of diffusers; its folders belong together


class Results(NamedTuple):
    """Paths (posix) below the working folder."""

    model: str  # a folder or a file; "" where none was found
    model_files: tuple[str, ...]
    checkpoint: str  # the same
    checkpoint_files: tuple[str, ...]
    older: frozenset[str]  # files of older checkpoints


def find_results(times: Mapping[str, float]) -> Results:
    """Among a run's outputs, path -> time of change."""
    found = find(times)
    named = [one for one in found if one.family or CALLED_CHECKPOINT.search(one.place) or one.place.endswith(".ckpt")]
    members = {path for one in found if one.family for path in one.files}
    rest = [path for path in times if path not in members]
    model, model_files = find_model(rest, {one.place for one in named}, times)
    newest = to_resume([one for one in named if one.place not in model_files], times)
    latest = {one.family: one for one in found if one.family}
    older = {path for one in found if one.family and latest[one.family] is not one for path in one.files}
    place, files = (newest.place, newest.files) if newest else ("", ())
    return Results(model, model_files, place, files, frozenset(older))


def find_model(
    paths: Collection[str], checkpoints: Collection[str], times: Mapping[str, float]
) -> tuple[str, tuple[str, ...]]:
    """The folder of a saved model, or a lone file of weights; of several the one written last."""
    folders = {path.rpartition("/")[0] for path in paths if MODEL.fullmatch(path.rpartition("/")[2])}
    roots = {path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] == PIPELINE}
    folders = {next((root for root in sorted(roots) if is_below(folder, root)), folder) for folder in folders}
    if folders:
        last = {folder: max(times[path] for path in paths if belongs(path, folder, roots)) for folder in folders}
        folder = max(last, key=lambda each: (last[each], each))
        return folder or ".", tuple(sorted(path for path in paths if belongs(path, folder, roots)))
    alone = [path for path in paths if has_weights(path.rpartition("/")[2]) and path not in checkpoints]
    file = max(alone, key=lambda path: (times[path], path), default="")
    return file, (file,) if file else ()


def is_below(folder: str, root: str) -> bool:
    """Whether it is that folder or in it."""
    return not root or folder == root or folder.startswith(f"{root}/")


def belongs(path: str, folder: str, roots: Collection[str]) -> bool:
    """Whether a file is part of the model in the folder: of a pipeline all below it, else what lies in it; at the top weights alone."""
    parent, _, name = path.rpartition("/")
    if folder in roots:
        return is_below(parent, folder)
    return parent == folder and (bool(folder) or has_weights(name))
