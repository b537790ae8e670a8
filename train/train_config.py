"""The settings of `train.py`: what each means, what it may be, and how they are read from YAML.

It needs the standard library and PyYAML only, so that settings can be checked on a machine without PyTorch.
"""

import contextlib
import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any

import yaml

MIXED_PRECISION = ("no", "bf16", "fp16")


class ConfigError(ValueError):
    """A settings file that cannot be used; the text names file, key, value and what is allowed, then gives a hint."""


def whole(default: int, least: int) -> int:
    """A whole-number field with this default, refused below `least`."""
    return dataclasses.field(default=default, metadata={"least": least})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All settings of one training run.

    Raises:
        ConfigError: a value has the wrong type or lies outside what is allowed.
    """

    batch_size: int = whole(8, least=1)  # windows of text in one micro-batch of one process
    gradient_accumulation_steps: int = whole(2, least=1)  # micro-batches of one process in one optimizer step
    num_workers: int = whole(0, least=0)  # processes that load data, for each training process; 0 = none, load inline
    pin_memory: bool = False  # page-locked memory for faster copies to the GPU; without a GPU it has no effect
    mixed_precision: str = "no"  # one of MIXED_PRECISION; fp16 needs a GPU

    steps: int = whole(300, least=1)  # optimizer steps in the whole run
    learning_rate: float = 2e-3  # highest learning rate of AdamW, above 0
    warmup_steps: int = whole(30, least=0)  # optimizer steps of linear warm-up; 0 = off

    eval_every: int = whole(50, least=0)  # optimizer steps between validations; 0 = off, only at start and end
    eval_batches: int = whole(4, least=1)  # batches of an optimizer step's size read in one validation
    checkpoint_every: int = whole(50, least=0)  # optimizer steps between checkpoints; 0 = off, none at all
    log_every: int = whole(10, least=0)  # optimizer steps between lines with the training loss; 0 = off

    context: int = whole(128, least=1)  # tokens (bytes) the model sees at once
    layers: int = whole(3, least=1)  # transformer blocks
    heads: int = whole(4, least=1)  # attention heads in a block; divides width
    width: int = whole(128, least=1)  # numbers that describe one token inside the model

    seed: int = whole(1337, least=0)  # fixes the first weights and the order of the data
    output_dir: str = "output"  # folder for everything written, relative to the current folder
    wandb: bool = True  # keep a Weights & Biases run for each process, offline without WANDB_API_KEY; false = off

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.width % self.heads:
            raise ConfigError(
                f"`training.width` is {self.width}, but must be a multiple of `heads`, which is {self.heads}\n"
                f"hint: set `width: {math.ceil(self.width / self.heads) * self.heads}`"
            )


def load(path: str | Path) -> TrainConfig:
    """Reads the mapping `training:` of a YAML file; a key that is left out keeps its default.

    Raises:
        ConfigError: the file cannot be read or is no YAML, `training` is missing, a key is unknown or a value refused.
    """
    training = _read_training(Path(path))
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for key in training:
        if key not in fields:
            raise ConfigError(f"`{path}`: {_unknown_key(str(key), list(fields))}")
    try:
        return TrainConfig(**{key: _as_meant(fields[key], value) for key, value in training.items()})
    except ConfigError as error:
        raise ConfigError(f"`{path}`: {error}") from None


def _read_training(path: Path) -> dict[Any, Any]:
    """The mapping `training` of the file, its keys and values unchecked."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"`{path}`: cannot be read: {reason}\nhint: name a settings file, for example `configs/train_config.yaml`"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "a character that YAML does not allow"
        raise ConfigError(
            f"`{path}`: is not valid YAML{place}: {problem}\nhint: write `key: value`, indented by two spaces"
        ) from error
    training = document.get("training") if isinstance(document, dict) else None
    if not isinstance(training, dict):
        raise ConfigError(
            f"`{path}`: has no mapping `training`\nhint: begin with a line `training:` and indent the settings below it"
        )
    return training


def _unknown_key(key: str, known: list[str]) -> str:
    """The problem and hint for a key that is no field of TrainConfig."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"the settings are {', '.join(known)}"
    return f"`training.{key}` is not a setting\nhint: {hint}"


def _as_meant(field: dataclasses.Field[Any], value: Any) -> Any:
    """Undoes what PyYAML makes of some values; anything else is left for the check.

    It reads 3e-4 as text, because YAML 1.1 wants a dot in such a number, and a bare no as false.
    """
    if field.name == "mixed_precision" and value is False:
        return "no"
    if field.type is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return value


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises ConfigError unless `value` is allowed in `field`."""
    if field.type is bool:
        good, allowed, example = isinstance(value, bool), "`true` or `false`", "false"
    elif field.type is int:
        least = field.metadata["least"]
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        allowed, example = f"a whole number, {least} or more", str(field.default)
    elif field.type is float:
        good = isinstance(value, float) and math.isfinite(value) and value > 0
        allowed, example = "a number above 0", str(field.default)
    elif field.name == "mixed_precision":
        good, allowed, example = value in MIXED_PRECISION, "one of " + ", ".join(MIXED_PRECISION), "bf16"
    else:
        good, allowed, example = isinstance(value, str) and value != "", "a text that is not empty", str(field.default)
    if not good:
        raise ConfigError(
            f"`training.{field.name}` is {value!r}, but must be {allowed}\nhint: for example `{field.name}: {example}`"
        )
