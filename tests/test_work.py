"""A run's work folder: made once and written down, what a later start takes over and keeps, and data that nobody changes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from conftest import ENVIRONMENT
from winfleet.core.plan import Plan, PlanError, lay_out_hosts
from winfleet.runs import work
from winfleet.runs.control import write_files
from winfleet.runs.record import outputs, read_record
from winfleet.runs.work import changed_sources, fill_in, prepare_work
from winfleet.transfer.names import clashes

OLD, NEW, DATA = "a" * 12, "b" * 12, "d" * 12
HOSTS = lay_out_hosts([{"name": "pc1", "address": "127.0.0.1", "processes": 1}])


def fill(folder: Path, **files: str) -> None:
    """Files by name; `__` stands for a folder, `_` for the dot of the suffix."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def plan(code: str | None = OLD, data: str | None = None) -> Plan:
    return Plan(run="r", command=("train.py",), hosts=HOSTS, code=code, data=data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose home has two states of a project."""
    fill(
        tmp_path / "code" / OLD,
        train_py="1",
        results_csv="old",
        out__ckpt_pt="old",
        same_txt="s",
        gone_txt="g",
        util__a_py="1",
    )
    fill(tmp_path / "code" / NEW, train_py="2", results_csv="new", out__ckpt_pt="old", same_txt="s", more_py="m", made_txt="theirs", util__a_py="2")  # fmt: skip
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    return folder


def test_it_is_written_down_with_path_size_and_digest(run: Path) -> None:
    prepare_work(plan(), run)
    record = json.loads((run / "work.json").read_text())
    assert record["code"] == OLD
    assert record["files"]["out/ckpt.pt"] == {"size": 3, "digest": hashlib.sha256(b"old").hexdigest()}
    assert sorted(record["files"]) == ["gone.txt", "out/ckpt.pt", "results.csv", "same.txt", "train.py", "util/a.py"]


def test_a_later_start_replaces_only_what_the_run_has_not_touched_and_says_both(run: Path) -> None:
    folder = prepare_work(plan(), run)
    fill(folder, results_csv="of the run", out__ckpt_pt="new", made_txt="mine", out__model_pt="m")
    said: list[str] = []
    prepare_work(plan(), run, said.append)
    assert said == [], "the project is the same"
    assert texts(folder)["out/ckpt.pt"] == "new"

    prepare_work(plan(NEW), run, said.append)
    assert said == [
        "The project has changed since this run began; taken over: more.py, train.py, util/a.py",
        "Kept as this run has them, though the project's are different: made.txt, results.csv",
        "Kept, though the project does not have them any more: gone.txt",
    ]
    assert texts(folder) == {
        "train.py": "2", "util/a.py": "2", "more.py": "m", "same.txt": "s", "gone.txt": "g", "results.csv": "of the run",
        "out/ckpt.pt": "new", "made.txt": "mine", "out/model.pt": "m",
    }  # fmt: skip
    written = [path.relative_to(folder).as_posix() for path in outputs(run.parent.parent, run, NEW, None)]
    assert sorted(written) == ["made.txt", "out/ckpt.pt", "out/model.pt", "results.csv"]


def test_what_the_run_took_away_does_not_come_back_and_a_folder_may_have_become_a_file(run: Path) -> None:
    folder = prepare_work(plan(), run)
    (folder / "results.csv").unlink()
    (folder / "util" / "a.py").unlink()
    (folder / "util").rmdir()
    (folder / "util").write_text("a file now")
    prepare_work(plan(NEW), run)
    assert "results.csv" not in texts(folder)
    assert texts(folder)["util"] == "a file now"


def test_a_run_from_before_there_were_records_has_the_code_of_its_plan_as_its_record(run: Path) -> None:
    home, folder = run.parent.parent, run / "work"
    fill(folder, train_py="1", results_csv="of the run", out__ckpt_pt="new", same_txt="s", gone_txt="g", util__a_py="1")
    write_files(run, {"plan.json": plan().to_json()}, check=False)
    assert {path.name for path in outputs(home, run, OLD, None)} == {"results.csv", "ckpt.pt"}
    write_files(run, {"plan.json": plan(NEW).to_json()}, check=False)  # a new deployment
    said: list[str] = []
    prepare_work(plan(NEW), run, said.append)
    assert said[0] == "The project has changed since this run began; taken over: made.txt, more.py, train.py, util/a.py"
    assert texts(folder)["out/ckpt.pt"] == "new"
    assert {path.name for path in outputs(home, run, NEW, None)} == {"results.csv", "ckpt.pt"}
    assert read_record(run) is not None


def test_the_same_with_the_plan_of_today_alone(run: Path) -> None:
    fill(run / "work", train_py="1", out__ckpt_pt="new", out__model_pt="m")
    said: list[str] = []
    prepare_work(plan(), run, said.append)
    assert texts(run / "work")["out/ckpt.pt"] == "new"
    assert said == [], "and what is missing was taken away by the run"


def test_one_that_was_not_made_to_its_end_is_made_anew(run: Path) -> None:
    fill(run / "make", half_txt="x")
    assert "half.txt" not in texts(prepare_work(plan(), run))


# -- data


@pytest.fixture
def data(run: Path) -> Path:
    """data/<digest>, with a file beside which code has another."""
    folder = run.parent.parent / "data" / DATA
    fill(folder, corpus__train_bin="0123456789" * 50, meta_txt="meta")
    fill(run.parent.parent / "code" / OLD, data__prepare_py="prepare")
    return folder


def test_code_and_data_both_have_a_data_folder_and_both_are_there(run: Path, data: Path) -> None:
    folder = prepare_work(plan(data=DATA), run)
    assert {name for name in texts(folder) if name.startswith("data/")} == {
        "data/prepare.py",
        "data/meta.txt",
        "data/corpus/train.bin",
    }
    assert fill_in(["--data", "{data}"], plan(data=DATA), run) == ["--data", str(folder / "data")]
    fill(folder, data__meta_txt="changed", data__new_txt="n")
    assert texts(data)["meta.txt"] == "meta"
    assert {path.name for path in outputs(run.parent.parent, run, OLD, DATA)} == {"meta.txt", "new.txt"}


def test_a_file_that_both_have_is_an_error_with_both_paths(run: Path, data: Path) -> None:
    fill(data, prepare_py="another")
    with pytest.raises(
        PlanError,
        match=rf"code and data both have data/prepare\.py: .*/code/{OLD}/data/prepare\.py and .*/data/{DATA}/prepare\.py",
    ):
        prepare_work(plan(data=DATA), run)
    assert not (run / "work").exists()


@pytest.mark.parametrize(
    ("code", "data", "fold", "pairs"),
    [
        (["data/a", "b"], ["data/a", "data/c"], False, [("data/a", "data/a")]),
        (["Data/A.txt"], ["data/a.txt"], False, []),
        (["Data/A.txt"], ["data/a.txt"], True, [("Data/A.txt", "data/a.txt")]),
        (["data"], ["data/a"], False, [("data", "data/a")]),
        (["data/a/b"], ["data/a"], False, [("data/a/b", "data/a")]),
        ([], ["data/a"], False, []),
    ],
)
def test_files_that_cannot_lie_in_one_folder(
    code: list[str], data: list[str], fold: bool, pairs: list[tuple[str, str]]
) -> None:
    found = clashes(map(PurePosixPath, code), map(PurePosixPath, data), fold=fold)
    assert [(str(one), str(other)) for one, other in found] == pairs


WRITES = {  # FILE is a large file of data/
    "append": "open(FILE, 'a').write('more')",
    "anew": "open(FILE, 'w').write('anew')",
    "resolved": "Path(FILE).resolve().write_text('anew')",
    "memmap": "numpy.memmap(FILE, mode='r+')[:3] = 7",
    "torch": "torch.save([1], FILE)",
    "torch_by_name": "save([1], FILE)",
    "replaced": "open('x', 'w').write('x'); os.replace('x', FILE)",
    "deleted": "os.unlink(FILE)",
    "beside": "open(FILE + '.cache', 'w').write('c')",
    "renamed": "os.rename(os.path.dirname(FILE), 'data/other')",
    "tree_gone": "shutil.rmtree(os.path.dirname(FILE))",
}


def test_large_data_is_no_second_copy_and_what_a_script_writes_never_changes_it(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "COPIED_BYTES", 100)
    fill(data, **{f"{way.replace('_', '-')}__train_bin": "0123456789" * 50 for way in WRITES})
    before = texts(data)
    folder = prepare_work(plan(data=DATA), run)
    large = folder / "data" / "append" / "train.bin"
    assert large.samefile(data / "append" / "train.bin") or work.clone(data / "append" / "train.bin", run / "copy")
    assert outputs(run.parent.parent, run, OLD, DATA) == []
    lines = ["import os, shutil", "from pathlib import Path", "import numpy, torch", "from torch import save"]
    for way, line in WRITES.items():
        lines += [f"FILE = 'data/{way.replace('_', '-')}/train.bin'", line]
    (run / "script.py").write_text("\n".join([*lines, "print('written')"]))
    environment = {**ENVIRONMENT, "WINFLEET_RUN_FOLDER": str(run), "RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-m", "winfleet.runner", str(run / "script.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "written" in done.stdout, done.stderr
    assert texts(data) == before
    kept = {path.relative_to(folder / "data").as_posix() for path in outputs(run.parent.parent, run, OLD, DATA)}
    gone = {"deleted", "tree_gone", "renamed", "beside"}
    changed = {f"{way.replace('_', '-')}/train.bin" for way in WRITES.keys() - gone}
    assert kept == changed | {"beside/train.bin.cache", "other/train.bin"}


def test_several_ranks_that_write_at_once_get_one_copy(run: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "COPIED_BYTES", 100)
    folder = prepare_work(plan(data=DATA), run)
    (run / "script.py").write_text("import os\nopen('data/corpus/train.bin', 'a').write(os.environ['RANK'])\n")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "winfleet.runner", str(run / "script.py")], cwd=folder, stdout=subprocess.DEVNULL,
            env={**ENVIRONMENT, "WINFLEET_RUN_FOLDER": str(run), "RANK": str(rank), "WORLD_SIZE": "1"},
        )
        for rank in range(3)
    ]  # fmt: skip
    assert [rank.wait(60) for rank in ranks] == [0, 0, 0]
    assert sorted((folder / "data" / "corpus" / "train.bin").read_text()[500:]) == ["0", "1", "2"]
    assert len((data / "corpus" / "train.bin").read_text()) == 500


def test_what_another_program_writes_into_linked_data_is_noticed_and_sent_anew(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "COPIED_BYTES", 100)
    large = prepare_work(plan(data=DATA), run) / "data" / "corpus" / "train.bin"
    assert not large.stat().st_mode & 0o222, "on Linux nobody but root can"
    if large.samefile(data / "corpus" / "train.bin"):
        os.chmod(large, 0o644)
        subprocess.run(["bash", "-c", f"echo changed >> {large}"], check=True)
        assert changed_sources(run) == ["data/corpus/train.bin"]
        assert not data.exists(), "its name would say what it no longer is"
        assert large.read_text().endswith("changed\n")
        assert changed_sources(run) == []


def test_a_project_that_leads_to_data_by_an_older_version_s_link_gets_a_folder(run: Path, data: Path) -> None:
    (run / "work").mkdir()
    (run / "work" / "data").symlink_to(data)
    (run.parent.parent / "code" / OLD / "data" / "prepare.py").unlink()
    folder = prepare_work(plan(data=DATA), run)
    assert not (folder / "data").is_symlink()
    assert texts(folder)["data/meta.txt"] == "meta"
