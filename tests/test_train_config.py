"""The settings of train.py: the shipped file, what is accepted, and each message word for word."""

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from train_config import ConfigError, TrainConfig, load

TRAIN = Path(__file__).parents[1] / "train"
SHIPPED = TRAIN / "configs" / "train_config.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message(text: str | bytes) -> str:
    """What load() says about a file settings.yaml of this content, below the current folder."""
    Path("settings.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load("settings.yaml")
    return str(caught.value)


def test_shipped_file_says_the_defaults_in_their_order() -> None:
    assert load(SHIPPED) == TrainConfig()
    keys = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["training"]
    assert list(keys) == [field.name for field in dataclasses.fields(TrainConfig)]


def test_shipped_file_has_a_comment_above_each_key() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if re.match(r"  \w+:", line):
            assert above.startswith("  # "), line


def test_keys_left_out_keep_their_defaults(folder: Path) -> None:
    (folder / "settings.yaml").write_text("training:\n  steps: 7\n", encoding="utf-8")
    assert load(folder / "settings.yaml") == TrainConfig(steps=7)
    (folder / "settings.yaml").write_text("training: {}\nother: {}\n", encoding="utf-8")
    assert load(str(folder / "settings.yaml")) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 3e-4", "learning_rate", 3e-4),  # a text to PyYAML
        ("learning_rate: 3.0e-4", "learning_rate", 3e-4),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("mixed_precision: no", "mixed_precision", "no"),  # false to PyYAML
        ("mixed_precision: bf16", "mixed_precision", "bf16"),
        ("checkpoint_every: 0", "checkpoint_every", 0),
        ("wandb: off", "wandb", False),
    ],
)
def test_values_are_taken_as_they_are_meant(folder: Path, text: str, name: str, value: object) -> None:
    (folder / "settings.yaml").write_text(f"training:\n  {text}\n", encoding="utf-8")
    found = getattr(load(folder / "settings.yaml"), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "batch_size: 0",
            "`training.batch_size` is 0, but must be a whole number, 1 or more\nhint: for example `batch_size: 8`",
        ),
        ("steps: -5", "`training.steps` is -5, but must be a whole number, 1 or more\nhint: for example `steps: 300`"),
        ("seed: -1", "`training.seed` is -1, but must be a whole number, 0 or more\nhint: for example `seed: 1337`"),
        (
            "layers: true",
            "`training.layers` is True, but must be a whole number, 1 or more\nhint: for example `layers: 3`",
        ),
        (
            "layers: 2.0",
            "`training.layers` is 2.0, but must be a whole number, 1 or more\nhint: for example `layers: 3`",
        ),
        (
            "layers: two",
            "`training.layers` is 'two', but must be a whole number, 1 or more\nhint: for example `layers: 3`",
        ),
        ("layers:", "`training.layers` is None, but must be a whole number, 1 or more\nhint: for example `layers: 3`"),
        (
            "learning_rate: -1e-3",
            "`training.learning_rate` is -0.001, but must be a number above 0\nhint: for example `learning_rate: 0.002`",
        ),
        (
            "learning_rate: fast",
            "`training.learning_rate` is 'fast', but must be a number above 0\nhint: for example `learning_rate: 0.002`",
        ),
        (
            "learning_rate: yes",
            "`training.learning_rate` is True, but must be a number above 0\nhint: for example `learning_rate: 0.002`",
        ),
        (
            "learning_rate: .nan",
            "`training.learning_rate` is nan, but must be a number above 0\nhint: for example `learning_rate: 0.002`",
        ),
        (
            "mixed_precision: fp8",
            "`training.mixed_precision` is 'fp8', but must be one of no, bf16, fp16\nhint: for example `mixed_precision: bf16`",
        ),
        ("wandb: 1", "`training.wandb` is 1, but must be `true` or `false`\nhint: for example `wandb: false`"),
        (
            "output_dir: ''",
            "`training.output_dir` is '', but must be a text that is not empty\nhint: for example `output_dir: output`",
        ),
        (
            "width: 130",
            "`training.width` is 130, but must be a multiple of `heads`, which is 4\nhint: set `width: 132`",
        ),
        ("batchsize: 8", "`training.batchsize` is not a setting\nhint: did you mean `batch_size`?"),
        (
            "zzz: 8",
            (
                "`training.zzz` is not a setting\nhint: the settings are batch_size, gradient_accumulation_steps, "
                "num_workers, pin_memory, mixed_precision, steps, learning_rate, warmup_steps, eval_every, eval_batches, "
                "checkpoint_every, log_every, context, layers, heads, width, seed, output_dir, wandb"
            ),
        ),
    ],
)
def test_refused_settings(text: str, said: str) -> None:
    assert message(f"training:\n  {text}\n") == f"`settings.yaml`: {said}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no mapping `training`\nhint: begin with a line `training:` and indent the settings below it"),
        (
            "training:\n",
            "has no mapping `training`\nhint: begin with a line `training:` and indent the settings below it",
        ),
        ("- 1\n", "has no mapping `training`\nhint: begin with a line `training:` and indent the settings below it"),
        (
            "training:\n  steps: 1\n   layers: 2\n",
            (
                "is not valid YAML in line 3, column 10: mapping values are not allowed here\n"
                "hint: write `key: value`, indented by two spaces"
            ),
        ),
        (
            b"training: \x01\n",
            "is not valid YAML: a character that YAML does not allow\nhint: write `key: value`, indented by two spaces",
        ),
        (
            b"training: \xff\n",
            "cannot be read: it is not UTF-8 text\nhint: name a settings file, for example `configs/train_config.yaml`",
        ),
    ],
)
def test_refused_files(text: str | bytes, said: str) -> None:
    assert message(text) == f"`settings.yaml`: {said}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("path", "reason"), [("none.yaml", "No such file or directory"), (".", "Is a directory")])
def test_files_that_cannot_be_read(path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path)
    hint = "hint: name a settings file, for example `configs/train_config.yaml`"
    assert str(caught.value) == f"`{path}`: cannot be read: {reason}\n{hint}"


def test_settings_made_in_python_are_checked_too() -> None:
    wrong: dict[str, Any] = {"batch_size": 0}
    with pytest.raises(ConfigError, match=r"^`training\.batch_size` is 0, but"):
        TrainConfig(**wrong)


def test_it_needs_no_torch() -> None:
    check = "import sys, train_config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=TRAIN, check=False).returncode == 0
