"""Folders named by their content: what is sent, what a digest stands for, and archives that may not be what they seem."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from winfleet.environments.package import keep
from winfleet.runs import state as runs
from winfleet.transfer.folders import FolderError, digest, list_files, pack, unpack, verify

LONG = "길다" * 40  # 240 bytes, more than a tar header's own 100


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def names(folder: Path, *, honour_git: bool = False) -> list[str]:
    return [str(name) for name in list_files(folder, honour_git=honour_git)]


def whole(folder: Path) -> str:
    return digest(folder, list_files(folder, honour_git=False))


def test_a_digest_stands_for_names_and_content_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "1", a="x", b__c="y")
    same = write(tmp_path / "2", b__c="y", a="x")
    os.utime(same / "a", (1, 1))
    (same / "a").chmod(0o600)
    (same / "empty" / "deeper").mkdir(parents=True)
    write(same, __pycache____a="never sent", b__x="").joinpath("b", "x").unlink()
    assert whole(same) == whole(first)
    assert digest(first, list_files(first, honour_git=False)[::-1]) == whole(first)
    others = [write(tmp_path / "3", a="X", b__c="y"), write(tmp_path / "4", a="x", b__d="y"),
              write(tmp_path / "5", a="y", b__c="x"), write(tmp_path / "6", a="xy", b__c=""),
              write(tmp_path / "7", a="x", b__c="y", d="")]  # fmt: skip
    assert len({whole(first), *map(whole, others)}) == 6


def test_what_git_ignores_is_not_sent_and_what_is_new_is(tmp_path: Path) -> None:
    write(tmp_path, gone="", kept="", new="", sub__new="", sub__a_tmp="", out__model="").joinpath(
        ".gitignore"
    ).write_text("out/\n*_tmp\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "kept", "gone"], check=True)
    (tmp_path / "gone").unlink()
    assert names(tmp_path, honour_git=True) == [".gitignore", "kept", "new", "sub/new"]
    assert names(tmp_path / "sub", honour_git=True) == ["new"]
    assert names(tmp_path) == [".gitignore", "kept", "new", "out/model", "sub/a_tmp", "sub/new"]


def test_without_a_checkout_everything_is_sent(tmp_path: Path) -> None:
    write(tmp_path, a="", b__c="").joinpath(".gitignore").write_text("a")
    assert names(tmp_path, honour_git=True) == [".gitignore", "a", "b/c"]


@pytest.mark.parametrize("honour_git", [False, True])
@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("link", "../outside/secret", "link is a link that leads out of "),
        ("sub/link", "../../outside", "sub/link is a link that leads out of "),
        ("link", "sub", "link is a link to a folder; only links to files are sent"),
        ("link", ".", "link is a link to a folder; only links to files are sent"),
    ],
    ids=["file outside", "folder outside", "folder inside", "itself"],
)
def test_links_that_cannot_be_sent_are_refused(
    tmp_path: Path, link: str, target: str, message: str, *, honour_git: bool
) -> None:
    write(tmp_path / "outside", secret="s")
    folder = write(tmp_path / "in", a="", sub__b="")
    (folder / link).symlink_to(target)
    if honour_git:
        subprocess.run(["git", "init", "-q", folder], check=True)
    with pytest.raises(FolderError, match=message):
        list_files(folder, honour_git=honour_git)


def test_links_that_nobody_sends_are_no_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a="")
    for name in (".venv", "ignored", "broken"):
        (folder / name).symlink_to("/usr" if name != "broken" else "absent")
    (folder / ".gitignore").write_text("ignored")
    subprocess.run(["git", "init", "-q", folder], check=True)
    assert names(folder, honour_git=True) == [".gitignore", "a"]


@pytest.mark.parametrize(
    ("what", "message"), [("absent", "no folder .*absent"), ("empty", "empty has no files to send")]
)
def test_a_folder_without_files_is_refused(tmp_path: Path, what: str, message: str) -> None:
    write(tmp_path / "empty" / ".git", HEAD="")
    with pytest.raises(FolderError, match=message):
        list_files(tmp_path / what, honour_git=False)


def test_korean_and_long_names_and_links_arrive_as_content(tmp_path: Path) -> None:
    folder = write(tmp_path / "from", 모델__학습="손실", **{f"{LONG}__{LONG}__{LONG}": "deep"}, empty="")
    (folder / "link").symlink_to("모델/학습")
    os.link(folder / "empty", folder / "hard")
    found = list_files(folder, honour_git=False)
    pack(folder, found, tmp_path / "a.tar")
    target = tmp_path / "new" / "to"
    unpack(tmp_path / "a.tar", target, digest(folder, found))
    assert list_files(target, honour_git=False) == found
    assert (target / "link").read_text("utf-8") == "손실"
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert target.stat().st_mode & 0o777 == 0o755

    (target / "mine").write_text("stays")
    unpack(tmp_path / "a.tar", target, digest(folder, found)[:12])
    assert (target / "mine").read_text() == "stays"
    assert [path.name for path in target.parent.iterdir()] == ["to"]


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd", 4 if kind == tarfile.REGTYPE else 0
    return info


BAD = {
    "climbs": member("../x"), "climbs later": member("a/../../x"), "symlink": member("x", tarfile.SYMTYPE),
    "hard link": member("x", tarfile.LNKTYPE), "folder": member("x", tarfile.DIRTYPE), "pipe": member("x", tarfile.FIFOTYPE),
}  # fmt: skip


@pytest.mark.parametrize("bad", [*BAD.values(), None], ids=[*BAD.keys(), "absolute"])
def test_an_archive_with_a_bad_member_leaves_nothing(tmp_path: Path, bad: tarfile.TarInfo | None) -> None:
    bad = bad or member(str(tmp_path / "x"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member("good"), io.BytesIO(b"good"))
        tar.addfile(bad, io.BytesIO(b"evil"))
    with pytest.raises(FolderError, match=r"the archive has a member '.*x' that is no plain file of the folder"):
        unpack(tmp_path / "a.tar", tmp_path / "home" / "to", "")
    assert list((tmp_path / "home").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "home"]


@pytest.mark.parametrize(
    "damage", [lambda a: a.write_bytes(a.read_bytes().replace(b"text", b"TEXT")), lambda a: a.write_bytes(a.read_bytes()[:700])],
    ids=["other content", "half"],
)  # fmt: skip
def test_an_archive_that_was_damaged_leaves_nothing(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = write(tmp_path / "from", a="text", b="more")
    pack(folder, list_files(folder, honour_git=False), tmp_path / "a.tar")
    damage(tmp_path / "a.tar")
    with pytest.raises(FolderError, match=r"has the digest \w{12}, expected \w{12}|the archive is no whole tar file"):
        unpack(tmp_path / "a.tar", tmp_path / "home" / "to", whole(folder))
    assert list((tmp_path / "home").iterdir()) == []


def test_verify_takes_a_short_digest_and_sees_an_added_file(tmp_path: Path) -> None:
    expected = whole(write(tmp_path, a="x"))[:12]
    verify(tmp_path, expected)
    write(tmp_path, b="")
    with pytest.raises(FolderError, match=f"expected {expected}"):
        verify(tmp_path, expected)


@pytest.fixture
def launcher() -> Iterator[int]:
    """Process id of something that looks like a launcher, and lives."""
    command = [sys.executable, "-c", "print(flush=True); input()", "winfleet.launch"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # now it has its own command line
    yield process.pid
    process.communicate(b"\n")


def test_a_run_whose_launcher_lives_is_going_on(tmp_path: Path, launcher: int) -> None:
    pids: dict[str, object] = {"lives": launcher, "given to another program": os.getpid(), "text": str(launcher)}
    for name, pid in pids.items():
        path = tmp_path / "runs" / name / "status.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"state": "running", "launcher_pid": pid}))
    assert runs.going_on(tmp_path) == [tmp_path / "runs" / "lives"]
    assert [runs.state_of(tmp_path / "runs" / name) for name in pids] == ["running", "lost", "lost"]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('{"state": "running", "launcher_pid": 4194305}', "lost"), ('{"state": "starting"}', "lost"),
        ('{"state": "running", "launcher_pid": "1/../self"}', "lost"), ('{"state": "finished"}', "finished"),
        ('{"state": "stopped", "launcher_pid": 4194305}', "stopped"), ("{", "none"), ("[1]", "none"), ("{}", "none"),
        ("", "none"), (None, "none"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_by_its_files(tmp_path: Path, text: str | None, state: str) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert runs.state_of(tmp_path) == state


def test_deployments_of_one_moment_send_one_whole_package(tmp_path: Path) -> None:
    """Each would otherwise lay it out anew while another one sends it."""
    old = tmp_path / "0123456789ab"
    old.mkdir()
    os.utime(old, (0, 0))
    with ThreadPoolExecutor(4) as pool:
        kept = set(pool.map(lambda _: keep(tmp_path), range(8)))
    assert len(kept) == 1
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in kept], "and nothing else stays"
    (folder,) = kept
    assert digest(folder, list_files(folder, honour_git=False)).startswith(folder.name)
    assert (folder / "winfleet" / "launcher" / "agent.py").is_file()
