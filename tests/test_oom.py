"""Out of GPU memory: how it is known, what is made smaller and where, and what is said. Whole runs are in test_train and below."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import pcs
from winfleet.core.causes import advise
from winfleet.core.plan import Plan
from winfleet.core.status import Cause, describe_failure
from winfleet.launcher.proposals import proposal, propose, write_proposal
from winfleet.rank import oom
from winfleet.rank.batch_settings import ACCUMULATION, BATCH, Setting, SettingsError, change, find, find_both, put
from winfleet.rank.oom import Change, KeptError, Note, decide, read_change
from winfleet.transfer.folders import list_files

CONFIG = """\
# Mine.
training:
  batch_size: 8  # as large as it goes
  gradient_accumulation_steps: 2
  mixed_precision: "no"
evaluation: {batch_size: 64}
"""
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free."
)
NOTE = Note(rank=1, generation=1, step=120, text=f"OutOfMemoryError: {CUDA}", sizes=(8,), saved=True)


def raised(*errors: Exception) -> Exception:
    """The last error, raised while the one before it was handled."""
    error, *rest = reversed(errors)
    error.__context__ = raised(*reversed(rest)) if rest else None
    return error


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.OutOfMemoryError("any words"), True),
        (RuntimeError(CUDA), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"), True),
        (raised(torch.OutOfMemoryError(CUDA), ValueError("the step failed")), True),
        (raised(torch.OutOfMemoryError(CUDA), SystemExit(1)), True),  # type: ignore[arg-type]
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."), False),
        (MemoryError(), False),
        (ValueError("the loss is nan"), False),
    ],
)  # fmt: skip
def test_a_gpus_memory_is_told_from_the_hosts(error: BaseException, known: bool) -> None:
    assert oom.is_out_of_memory(error) is known


def test_an_error_that_hides_the_one_before_it_is_not_followed() -> None:
    error = raised(torch.OutOfMemoryError(CUDA), ValueError("none of our business"))
    error.__suppress_context__ = True
    assert not oom.is_out_of_memory(error)
    error.__cause__ = error  # a circle ends
    assert not oom.is_out_of_memory(error)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train_config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def both(words: list[str], told: dict[str, Any] | None = None) -> list[Setting]:
    """Those of batch and accumulation that are found."""
    return [setting for setting in find_both(words, told or {}) if setting]


@pytest.mark.parametrize(
    ("words", "batch", "accumulation"),
    [
        ("t.py --per_device_train_batch_size 8 --gradient_accumulation_steps 2", 8, 2),
        ("t.py --per_device_train_batch_size 8", 8, 1),
        ("t.py --train-batch-size=8 --gradient-accumulation-steps=2 --eval_batch_size=3", 8, 2),
        ("t.py batch_size=4 gradient_accumulation_steps=5", 4, 5),
        ("-m t train.batch_size=4 eval.batch_size=9 trainer.accumulate_grad_batches=2", 4, 2),
        ("t.py --batch_size 8 --batch_size 6", 6, None),
        ("t.py --micro-batch-size 2 --batch_size 64 --grad_accum_steps 4", 2, 4),
        ("t.py --batch_size auto 8", None, None),
        ("t.py 8 16", None, None),
    ],
)
def test_settings_are_found_in_options(words: str, batch: int | None, accumulation: int | None) -> None:
    found = find_both(words.split(), {})
    assert tuple(setting and setting.value for setting in found) == (batch, accumulation)


def test_settings_are_found_in_a_file_that_the_command_names(config: Path) -> None:
    for words in (["t.py", "--config", str(config)], ["t.py", f"--config={config}"]):
        assert [(found.value, found.keys) for found in both(words)] == [
            (8, ("training", "batch_size")), (2, ("training", "gradient_accumulation_steps")),
        ]  # fmt: skip
    assert both([*words, "--batch_size", "3"])[0].value == 3, "an option wins over a file"


@pytest.mark.parametrize(
    "text",
    [
        "a: {batch_size: 8}\nb: {batch_size: 8}",
        "batch_size: [8]",
        "batch_size: auto",
        "a: [",
        "- batch_size",
        "\x00",
        "",
    ],
    ids=["twice", "a list", "a word", "no YAML", "no mapping", "no text", "empty"],
)
def test_a_file_that_does_not_say_it_in_one_place_is_left_alone(config: Path, text: str) -> None:
    config.write_text(text)
    assert find(["t.py", str(config)], BATCH) is None


def test_a_key_that_the_file_leaves_out_is_known_from_what_the_script_told(config: Path) -> None:
    words, told = ["t.py", str(config)], {"batch_size": 8, "gradient_accumulation_steps": 2, "steps": 300}
    config.write_text("training:\n  steps: 300\n")
    batch, accumulation = both(words, told)
    assert batch == Setting(name="batch_size", value=8, word=1, keys=("training", "batch_size"))
    changed = change(words, [(batch, 4), (accumulation, 4)], config.parent / "oom")
    assert yaml.safe_load(Path(changed[1]).read_text("utf-8")) == {
        "training": {"batch_size": 4, "gradient_accumulation_steps": 4, "steps": 300}
    }
    config.write_text("mine:\n  batch_size: 8\n")
    assert both(words, told)[1].keys == ("mine", "gradient_accumulation_steps")
    config.write_text("steps: 300\n")
    assert both(words, told) == []


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        (CONFIG, "training.batch_size", CONFIG.replace("batch_size: 8 ", "batch_size: 4 ")),
        ('{"train": {"batch_size": 8, "x": "8"}}', "train.batch_size", '{"train": {"batch_size": 4, "x": "8"}}'),
        ('{"train": {"x": 1}}', "train.batch_size", '{"train": {"batch_size": 4, "x": 1}}'),
        ("training: {}\n", "training.batch_size", 'training: {"batch_size": 4}\n'),
        ("a: 1\nbatch_size: 8 # 한국어\n", "batch_size", "a: 1\nbatch_size: 4 # 한국어\n"),
    ],
)
def test_a_value_is_put_and_all_else_stays(text: str, keys: str, expected: str) -> None:
    assert put(text, keys.split("."), 4) == expected


@pytest.mark.parametrize("text", ["a: [", "training: 8", "training: {batch_size: [8]}", "other: 1"])
def test_a_value_that_cannot_be_put_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError):
        put(text, ("training", "batch_size"), 4)


def test_files_are_copied_and_never_changed(config: Path) -> None:
    words = ["t.py", f"--config={config}", "--steps", "8"]
    changed = change(words, [(setting, 4) for setting in both(words)], config.parent / "oom")
    assert changed[2:] == words[2:]
    copy = Path(changed[1].removeprefix("--config="))
    assert copy.name == config.name
    assert yaml.safe_load(copy.read_text("utf-8"))["training"]["batch_size"] == 4
    assert config.read_text("utf-8") == CONFIG
    options = ["t.py", "--batch-size=8", "--gradient_accumulation_steps", "2"]
    assert change(options, list(zip(both(options), (4, 16), strict=True)), config) == [
        "t.py", "--batch-size=4", "--gradient_accumulation_steps", "16",
    ]  # fmt: skip
    trainer = ["t.py", "--per_device_train_batch_size", "8"]
    smaller = list(zip(both(trainer), (4, 2), strict=True))
    assert change(trainer, smaller, config)[3:] == ["--gradient_accumulation_steps", "2"]


@pytest.mark.parametrize(("number", "factor"), [(2, 2), (8, 2), (6, 2), (9, 3), (15, 3), (7, 7), (49, 7), (31, 31)])
def test_the_smallest_factor(number: int, factor: int) -> None:
    assert oom.smallest_factor(number) == factor


def course(batch: int) -> list[tuple[int, int]]:
    """Batch and accumulation at each time that memory runs out, from batch x 2 down to the last that there is."""
    words, made = ["t.py", f"--batch_size={batch}", "--gradient_accumulation_steps=2"], None
    found: list[tuple[int, int]] = []
    for _ in range(8):
        note = dataclasses.replace(NOTE, sizes=(found[-1][0] if found else batch,))
        try:
            made = decide(words, note, "pc2", made)
        except KeptError:
            break
        found.append((made.values[0][1], made.values[1][1]))
    return found


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(8, [(4, 4), (2, 8), (1, 16)]), (6, [(3, 4), (1, 12)]), (7, [(1, 14)]), (12, [(6, 4), (3, 8), (1, 24)]), (1, [])],
)
def test_the_effective_batch_stays_down_to_one(batch: int, expected: list[tuple[int, int]]) -> None:
    assert course(batch) == expected
    assert {smaller * larger for smaller, larger in expected} <= {batch * 2}


@pytest.mark.parametrize(
    ("command", "note", "text", "code"),
    [
        ("t.py --batch_size 1 --gradient_accumulation_steps 8", {"sizes": (1,)}, "batch_size is 1 already", "gpu-too-small"),
        ("t.py --batch_size 8 --gradient_accumulation_steps 2", {"sizes": (), "waiting": True},
         "no batch was drawn yet, so the model alone does not fit", "gpu-too-small"),
        ("t.py --batch_size 8", {},
         "batch_size is 8, and nothing says how many batches make a step, so the effective batch would change", "batch-unknown"),
        ("t.py", {}, "the command does not say its batch size in one place", "batch-unknown"),
        ("t.py --batch_size 8 --gradient_accumulation_steps 2", {"sizes": (0, 4, 16)},
         "batch_size is 8, but the script drew batches of 4, 16, so it means something else", "batch-unknown"),
    ],
    ids=["one", "no batch yet", "no accumulation", "nothing", "another meaning"],
)  # fmt: skip
def test_what_cannot_stay_the_same_training_is_refused(
    command: str, note: dict[str, Any], text: str, code: str
) -> None:
    with pytest.raises(KeptError) as refused:
        decide(command.split(), dataclasses.replace(NOTE, **note), "pc2", None)
    assert str(refused.value) == text
    failure = NOTE.failure(text)
    assert failure == f"OutOfMemoryError: {CUDA}\nno smaller batch: {text}"
    assert f"[{code}]\n  hint: " in describe_failure(Cause(host="pc2", rank=1, text=failure))


def made(config: Path) -> Change:
    return decide(["t.py", "--config", str(config)], NOTE, "pc2", None)


def test_the_event_names_rank_host_step_and_values(config: Path) -> None:
    first = made(config)
    assert first.event == (
        "OOM on rank 1 of pc2 at step 120: batch_size 8 -> 4, gradient_accumulation_steps 2 -> 4; "
        "all ranks start again from the newest checkpoint"
    )
    note = dataclasses.replace(NOTE, sizes=(4,), saved=False, step=0)
    assert decide(["t.py", "--config", str(config)], note, "pc1", first).event == (
        "OOM on rank 1 of pc1 at step 0: batch_size 4 -> 2, gradient_accumulation_steps 4 -> 8; "
        "all ranks start again from the beginning, unless the script finds a checkpoint of its own"
    )
    assert dataclasses.replace(first, generation=0).event == (
        "Goes on with a smaller batch, as this run ran out of memory before: "
        "batch_size 8 -> 4, gradient_accumulation_steps 2 -> 4"
    )


def test_a_change_is_read_again_and_nothing_else_is(config: Path) -> None:
    change = made(config)
    assert read_change(change.to_json()) == change
    values = json.loads(change.to_json())
    wrong = ["", "[]", "{}", "[" * 100_000, json.dumps({**values, "factor": 0}), json.dumps({**values, "factor": "2"}),
             json.dumps({**values, "batch": 8}), json.dumps({**values, "batch": {**values["batch"], "keys": 7}}),
             json.dumps({**values, "factor": 9}), json.dumps({**values, "batch": {"name": "x", "keys": []}})]  # fmt: skip
    assert [read_change(text) for text in wrong] == [None] * len(wrong)


def test_the_proposal_is_yaml_that_says_why(config: Path) -> None:
    text = proposal(made(config), "r1", "train_config.yaml")
    assert text.splitlines()[:3] == [
        "# Proposed after run r1: rank 1 of pc2 ran out of memory at step 120.",
        "# The effective batch stays: 8 x 2 = 4 x 4.",
        "# train_config.yaml was not changed; put these values there, or the next run finds them anew.",
    ]
    assert yaml.safe_load(text) == {"training": {"batch_size": 4, "gradient_accumulation_steps": 4}}
    options = decide(["t.py", "--batch-size=8", "--gradient_accumulation_steps=2"], NOTE, "pc2", None)
    assert yaml.safe_load(proposal(options, "r1", "the command")) == {"batch_size": 4, "gradient_accumulation_steps": 4}


def test_a_hostile_change_forges_no_settings(config: Path) -> None:
    values = json.loads(made(config).to_json())
    values["host"] = "pc2\nfleet_command: x\x1b[2J\r\nbatch_size: 1"
    values["batch"]["keys"] = ["training", "batch_size: 1\nfleet_command"]
    change = read_change(json.dumps(values))
    assert change is not None
    text = proposal(change, "r1\nmore: 1", "train_config.yaml")
    assert set(yaml.safe_load(text)) == {"training"}
    assert "fleet_command" not in yaml.safe_load(text)
    assert "\x1b" not in text


def test_a_proposal_goes_where_it_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed" / "x.oom.yaml").mkdir(parents=True)  # even for root
    (tmp_path / "closed" / "x.oom.yaml" / "file").touch()
    assert write_proposal("a: 1\n", "x.oom.yaml", [tmp_path / "closed", tmp_path]) == tmp_path / "x.oom.yaml"
    assert write_proposal("a: 1\n", "x.oom.yaml", [tmp_path / "closed"]) is None


@pytest.fixture
def home(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that came home from two hosts, of which the second one knows the change."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs" / "r1"
    for host in ("pc1", "pc2"):
        (folder / host).mkdir(parents=True)
    (folder / "pc1" / "oom.json").write_text("{}")
    (folder / "pc2" / "oom.json").write_text(made(config).to_json())
    return folder


def plan(config: str | None = CONFIG, command: str = "t.py --config {config}") -> Plan:
    return Plan(run="r1", command=tuple(command.split()), hosts=pcs(1, 1), config=config)


def test_the_controller_proposes_beside_the_settings_and_in_the_runs_folder(home: Path, config: Path) -> None:
    assert propose(home, plan(), config) == ["proposed after its memory ran out: train_config.oom.yaml"]
    text = config.with_name("train_config.oom.yaml").read_text("utf-8")
    assert (home / "train_config.oom.yaml").read_text("utf-8") == text
    assert yaml.safe_load(text) == {"training": {"batch_size": 4, "gradient_accumulation_steps": 4}}
    assert config.read_text("utf-8") == CONFIG


def test_settings_that_cannot_be_written_beside_are_said(home: Path, config: Path) -> None:
    (config.with_name("train_config.oom.yaml") / "in the way").mkdir(parents=True)  # even for root
    assert propose(home, plan(), config) == [
        "proposed after its memory ran out: logs/r1/train_config.oom.yaml", f"{config.parent} cannot be written",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "given"),
    [(plan("training: {}"), True), (plan(command="t.py --config own.yaml"), True), (plan(None), False)],
    ids=["another text", "another file", "none"],
)
def test_settings_of_another_run_get_no_proposal(home: Path, config: Path, run: Plan, given: bool) -> None:
    assert propose(home, run, config if given else None) == [
        "proposed after its memory ran out: logs/r1/command.oom.yaml"
    ]
    assert sorted(path.name for path in config.parent.iterdir()) == ["logs", "train_config.yaml"]


def test_a_run_with_memory_enough_proposes_nothing(home: Path, config: Path) -> None:
    (home / "pc2" / "oom.json").unlink()
    assert propose(home, plan(), config) == []
    assert list(home.glob("*.yaml")) == []


def test_a_proposal_beside_the_code_is_not_sent(config: Path) -> None:
    names = list_files(config.parent, honour_git=False)
    config.with_name("train_config.oom.yaml").write_text("training: {}\n")
    assert list_files(config.parent, honour_git=False) == names


def test_a_note_counts_in_its_own_generation(tmp_path: Path) -> None:
    NOTE.write(tmp_path)
    assert oom.read_note(tmp_path, 1, 1) == NOTE
    assert oom.read_note(tmp_path, 1, 2) is None
    assert oom.read_note(tmp_path, 0, 1) is None
    (tmp_path / "rank1.oom.json").write_text('{"rank": 1')
    assert oom.read_note(tmp_path, 1, 1) is None


def test_a_script_that_takes_other_values_is_ended() -> None:
    expected = {"batch_size": 4, "gradient_accumulation_steps": 4}
    oom.check_taken({}, {"batch_size": 8}, {8})
    oom.check_taken(expected, {**expected, "steps": 3}, {4, 0})
    oom.check_taken(expected, {}, set())
    oom.check_taken(expected, {"batch_size": 4}, {64})
    for told, sizes, text in (
        ({"batch_size": 8}, {8}, "batch_size was made 4, as memory ran out, but the script took 8"),
        ({"gradient_accumulation_steps": 2}, {4}, "gradient_accumulation_steps was made 4, as memory ran out, but the script took 2"),
        ({}, {0, 8}, "batch_size was made 4, as memory ran out, but the script took 8"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError) as refused:
            oom.check_taken(expected, told, sizes)
        assert str(refused.value) == text
        assert "[batch-unknown]" in advise(text)


def test_names_are_no_others() -> None:
    assert set(BATCH).isdisjoint(ACCUMULATION)
