"""Files that git ignores and a training needs: they are named before anything is sent, and sent by fleet_include."""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from conftest import ENVIRONMENT, Fleet
from swarm_hosts import clusters
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.preflight.ignored import check_ignored
from winfleet.runs import work
from winfleet.runs.record import outputs
from winfleet.transfer.folders import SHORT, FolderError, digest, list_files, list_sent
from winfleet.transfer.including import as_patterns, expression, is_secret
from winfleet.transfer.job import Folder
from winfleet.transfer.seeding import Share
from winfleet.transfer.torrents import make_torrent

IGNORED = "*.bin\n*.pkl\n*.pt\n.env\n*.pem\ninput.txt\nvenv/\nout-*/\nbig/\n__pycache__/\n"
TRAIN = """\
out_dir = 'out'
dataset = 'openwebtext'
init_from = 'scratch'
data_dir = os.path.join('data', dataset)
data = np.memmap(os.path.join(data_dir, 'train.bin'))
checkpoint = torch.load(os.path.join(out_dir, 'ckpt.pt'))
"""
CONFIG = "out_dir = 'out-shakespeare-char'\ndataset = 'shakespeare_char'\nbatch_size = 64\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """nanoGPT's layout, with keys and results of earlier runs beside it."""
    folder = tmp_path / "project"
    files = {
        ".gitignore": IGNORED, "train.py": TRAIN, "config/train_shakespeare_char.py": CONFIG, "data/openwebtext/prepare.py": "",
        "data/shakespeare_char/prepare.py": "", "data/shakespeare_char/train.bin": "1" * 2_000_000, "data/shakespeare_char/val.bin": "1",
        "data/shakespeare_char/meta.pkl": "1", "data/shakespeare_char/.env": "KEY=1", "data/openwebtext/train.bin": "1",
        "out-shakespeare-char/ckpt.pt": "1", "out/ckpt.pt": "1", "venv/lib/x.bin": "1", ".env": "KEY=1", "deploy.pem": "k",
        "big/model.safetensors": "1", "configs/run.yaml": "output_dir: results\nmodel:\n  path: big/model.safetensors\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def said(project: Path, command: str, *include: str, config: Path | None = None, data: Path | None = None) -> str:
    return "\n".join(map(str, check_ignored(project, command.split(), config, data, include)))


def test_what_a_configuration_names_is_said_with_the_setting_that_sends_it(project: Path) -> None:
    assert said(project, "train.py config/train_shakespeare_char.py") == (
        "controller: git ignores files that config/train_shakespeare_char.py names, so they are not sent: "
        "data/shakespeare_char/meta.pkl (0.0 kB), data/shakespeare_char/train.bin (2.0 MB), data/shakespeare_char/val.bin (0.0 kB)\n"
        "  hint: to send them: -e 'fleet_include=data/shakespeare_char/'"
    )


@pytest.mark.parametrize(
    ("command", "named", "proposed"),
    [
        ("train.py", "data/openwebtext/train.bin", "data/openwebtext/"),  # the script itself
        ("train.py --dataset=shakespeare_char", "meta.pkl", "data/shakespeare_char/"),
        ("train.py --data_dir data/shakespeare_char/", "meta.pkl", "data/shakespeare_char/"),
        ("train.py --val ./data/shakespeare_char/val.bin", "val.bin (0.0 kB)\n", "data/shakespeare_char/val.bin"),
        ("train.py --files data/shakespeare_char/*.bin", "val.bin", "data/shakespeare_char/*.bin"),
        ("train.py --config configs/run.yaml", "big/model.safetensors", "big/"),
        ("train.py --resume_from_checkpoint out/ckpt.pt", "out/ckpt.pt", "out/"),
        ("train.py --out_dir=out --resume_from_checkpoint out/ckpt.pt", "out/ckpt.pt", "out/"),
    ],
)
def test_what_a_command_names_is_said(project: Path, command: str, named: str, proposed: str) -> None:
    text = said(project, command)
    assert named in text
    assert text.endswith(f"-e 'fleet_include={proposed}'")
    assert said(project, command, proposed) == ""


def test_keys_results_and_what_is_sent_otherwise_are_not_proposed(project: Path) -> None:
    for command in (
        "train.py --env .env --key deploy.pem --dataset=none config/train_shakespeare_char.py", "train.py --output_dir big",
        "train.py config/train_shakespeare_char.py --venv venv",
    ):  # fmt: skip
        text = said(project, command)
        assert not [
            word for word in (".env", ".pem", "venv/", "ckpt", "big") if word in text.partition("names, so")[2]
        ], text
    assert said(project, "train.py config/train_shakespeare_char.py", data=project / "data") == ""
    assert " out/ckpt.pt" not in said(project, "train.py --out_dir out --weights ckpt.pt")
    assert "big/" in said(project, "train.py", config=project / "configs" / "run.yaml")
    assert said(project.parent, "train.py") == "", "no checkout, nothing is ignored"


def names(project: Path, *include: str) -> set[str]:
    return {str(name) for name in list_files(project, honour_git=True, include=include)}


def test_patterns_send_what_git_ignores(project: Path) -> None:
    plain = names(project)
    assert "data/shakespeare_char/train.bin" not in plain
    folder = {f"data/shakespeare_char/{name}" for name in ("train.bin", "val.bin", "meta.pkl")}
    assert names(project, "data/shakespeare_char/") == plain | folder
    assert names(project, "data/shakespeare_char/*.bin", "/out/*") == plain | {*folder, "out/ckpt.pt"} - {
        "data/shakespeare_char/meta.pkl"
    }
    everything = names(project, "**")
    assert "venv/lib/x.bin" in everything
    assert not everything & {".env", "deploy.pem", "data/shakespeare_char/.env"}, "a key goes by its very name alone"
    assert names(project, ".env") == plain | {".env", "data/shakespeare_char/.env"}
    assert names(project, "/.env", "deploy.pem") == plain | {".env", "deploy.pem"}


def test_a_pattern_that_matches_nothing_is_an_error(project: Path) -> None:
    with pytest.raises(
        FolderError, match=r"fleet_include: data/\*\.bim, \*\.env matches no file of .*project\nhint: a pattern"
    ):
        list_files(project, honour_git=True, include=["data/*.bim", "train.py", "*.env"])
    text = said(project, "train.py", "data/*.bim")
    assert text.startswith("controller: fleet_include: data/*.bim matches no file of ")
    assert "\n  hint: a pattern is a path below fleet_project" in text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.bin", "a/b/c.bin", "a/c.bin2"), ("data/*.bin", "data/x.bin", "data/a/x.bin"), ("data/**/*.bin", "data/x.bin", "x.bin"),
        ("data/", "data/a/b", "old/data"), ("/top", "top", "a/top"), ("./a/b", "a/b", "c/a/b"), ("a?c", "abc", "abbc"),
        ("data\\x.bin", "data/x.bin", "x.bin"), ("데이터", "데이터/가.bin", "데이"), ("a.b", "a.b", "aXb"),
    ],
)  # fmt: skip
def test_patterns_mean_what_they_mean_in_gitignore(pattern: str, yes: str, no: str) -> None:
    assert expression(pattern).fullmatch(yes)
    assert not expression(pattern).fullmatch(no)


def test_names_of_secrets_are_known() -> None:
    for name in (
        "a/.env",
        ".env.local",
        "id_rsa",
        "x.pem",
        "aws_credentials.json",
        ".ssh/config",
        "my-secret.yaml",
        "hf_token",
    ):
        assert is_secret(PurePosixPath(name)), name
    for name in ("tokenizer.json", "train.bin", "environment.yml", "keys.npy", "monkey.txt"):
        assert not is_secret(PurePosixPath(name)), name
    assert as_patterns("a, b/*.bin,") == as_patterns(["a", "b/*.bin"]) == ["a", "b/*.bin"]
    assert as_patterns("") == as_patterns(None) == []


WRITES = """
import numpy
numpy.memmap("data/shakespeare_char/train.bin", mode="r+")[:3] = 7
open("big/model.safetensors", "a").write("more")
"""


def test_large_ones_come_by_the_swarm_and_are_no_second_copy_that_a_script_could_change(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libtorrent")
    monkeypatch.setattr(work, "COPIED_BYTES", 1_000)
    (project / "train.py").write_text(WRITES)
    (project / "big" / "model.safetensors").write_bytes(bytes(3_000_000))
    names = list_sent(project, "code", ["data/shakespeare_char/", "big/"])
    whole = digest(project, names)
    root = whole[:SHORT]
    sent = Share(source=project, torrent=make_torrent(project, names, root), root=root)
    with clusters(tmp_path) as make:
        host = make(1)
        home = host.folder / "pc1"
        code, torrent = home / "code" / root, tmp_path / "torrent"
        code.parent.mkdir(parents=True)
        torrent.write_bytes(sent.torrent)
        host.start("pc1", folders=(Folder(kind="code", target=str(code), expected=whole, torrent=str(torrent)),))
        assert host.seed(sent)["pc1"].state == "whole"
    large = ("data/shakespeare_char/train.bin", "big/model.safetensors")
    hosts = lay_out_hosts([{"name": "pc1", "address": "127.0.0.1", "processes": 1}])
    run = home / "runs" / "r"
    run.mkdir(parents=True)
    folder = work.prepare_work(Plan(run="r", command=("train.py",), hosts=hosts, code=root), run)
    for name in large:
        assert (folder / name).samefile(code / name) or work.clone(code / name, tmp_path / "copy")
    assert not (folder / "train.py").samefile(code / "train.py")
    environment = {**ENVIRONMENT, "WINFLEET_RUN_FOLDER": str(run), "RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-m", "winfleet.runner", "train.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(code, list_files(code, honour_git=False)) == whole
    assert {path.relative_to(folder).as_posix() for path in outputs(home, run, root, None)} == {*large}


@pytest.mark.proof
def test_a_deployment_names_them_and_sends_what_is_asked_for(fleet: Fleet, project: Path) -> None:
    (project / "train.py").write_text(
        "import pathlib\nprint(len(pathlib.Path('data/shakespeare_char/train.bin').read_text()))\n"
    )
    fleet.variables |= {"fleet_project": str(project), "fleet_command": "train.py config/train_shakespeare_char.py"}
    done = fleet.play("preflight.yml")
    assert (
        "warning: controller: git ignores files that config/train_shakespeare_char.py names, so they are not sent"
        in done.stdout
    )
    assert "-e 'fleet_include=data/shakespeare_char/'" in done.stdout
    done = fleet.play("deploy_and_train.yml", "fleet_include=data/shakespeare_char/,nothing/")
    assert done.returncode != 0
    assert "error: controller: fleet_include: nothing/ matches no file of" in done.stdout
    assert not fleet.home("worker1").exists()
    done = fleet.play("deploy_and_train.yml", "fleet_include=data/shakespeare_char/", "fleet_run=bins")
    assert "git ignores" not in done.stdout
    assert (
        fleet.home("worker2") / "runs" / "bins" / "work" / "data" / "shakespeare_char" / "val.bin"
    ).read_text() == "1"
    assert not list(fleet.folder.glob("worker*/code/*/.env"))
    assert done.returncode == 0, done.stdout
