"""The settings of train.py: the shipped file, what is accepted, and each message word for word."""

import dataclasses
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import call
from train_config import ConfigError, TrainConfig, load

TRAIN = Path(__file__).parents[1] / "train"
SHIPPED = TRAIN / "configs" / "train_config.yaml"
NAMES = [field.name for field in dataclasses.fields(TrainConfig)]


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
    assert list(keys) == NAMES


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


FROM_1, FROM_0 = "a whole number, 1 or more", "a whole number, 0 or more"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "value", "wanted", "example"),
    [
        ("batch_size: 0", "0", FROM_1, "8"),
        ("steps: -5", "-5", FROM_1, "300"),
        ("seed: -1", "-1", FROM_0, "1337"),
        ("layers: true", "True", FROM_1, "3"),
        ("layers: 2.0", "2.0", FROM_1, "3"),
        ("layers: two", "'two'", FROM_1, "3"),
        ("layers:", "None", FROM_1, "3"),
        ("learning_rate: -1e-3", "-0.001", "a number above 0", "0.002"),
        ("learning_rate: fast", "'fast'", "a number above 0", "0.002"),
        ("learning_rate: yes", "True", "a number above 0", "0.002"),
        ("learning_rate: .nan", "nan", "a number above 0", "0.002"),
        ("mixed_precision: fp8", "'fp8'", "one of no, bf16, fp16", "bf16"),
        ("wandb: 1", "1", "`true` or `false`", "false"),
        ("output_dir: ''", "''", "a text that is not empty", "output"),
    ],
)
def test_refused_values(text: str, value: str, wanted: str, example: str) -> None:
    name = text.partition(":")[0]
    assert message(f"training:\n  {text}\n") == (
        f"`settings.yaml`: `training.{name}` is {value}, but must be {wanted}\nhint: for example `{name}: {example}`"
    )


NO_MAPPING = "has no mapping `training`\nhint: begin with a line `training:` and indent the settings below it"
AS_YAML = "hint: write `key: value`, indented by two spaces"
NOT_THERE = "hint: name a settings file, for example `configs/train_config.yaml`"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {width: 130}", "`training.width` is 130, but must be a multiple of `heads`, which is 4\nhint: set `width: 132`"),
        ("training: {batchsize: 8}", "`training.batchsize` is not a setting\nhint: did you mean `batch_size`?"),
        ("training: {zzz: 8}", f"`training.zzz` is not a setting\nhint: the settings are {', '.join(NAMES)}"),
        ("", NO_MAPPING),
        ("training:\n", NO_MAPPING),
        ("- 1\n", NO_MAPPING),
        ("training:\n  steps: 1\n   layers: 2\n", f"is not valid YAML in line 3, column 10: mapping values are not allowed here\n{AS_YAML}"),
        (b"training: \x01\n", f"is not valid YAML: a character that YAML does not allow\n{AS_YAML}"),
        (b"training: \xff\n", f"cannot be read: it is not UTF-8 text\n{NOT_THERE}"),
    ],
)  # fmt: skip
def test_refused_files(text: str | bytes, said: str) -> None:
    assert message(text) == f"`settings.yaml`: {said}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("path", "reason"), [("none.yaml", "No such file or directory"), (".", "Is a directory")])
def test_files_that_cannot_be_read(path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"`{path}`: cannot be read: {reason}\n{NOT_THERE}"


def test_settings_made_in_python_are_checked_too() -> None:
    wrong: dict[str, Any] = {"batch_size": 0}
    with pytest.raises(ConfigError, match=r"^`training\.batch_size` is 0, but"):
        TrainConfig(**wrong)


def test_it_needs_no_torch() -> None:
    check = "import sys, train_config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert call(sys.executable, "-c", check, folder=TRAIN).returncode == 0
