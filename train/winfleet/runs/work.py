"""The folder in which a run's command works: a copy of the code with the data in it, made once and written down (record.py)."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from winfleet.core.causes import advise
from winfleet.core.causes_table import MACHINE
from winfleet.core.files import replace
from winfleet.core.plan import Host, Plan, PlanError
from winfleet.runs.record import Record, digests_before, files_below, is_same, read_record, record_of_sent
from winfleet.transfer.folders import content_of
from winfleet.transfer.names import clashes

NO_WORK_HINT: Final = "\nhint: is there room on the disk, and may this user write there?"
COPIED_BYTES: Final = 256 * 2**20  # of code and of data, the smallest files first; larger ones are no second copy
FICLONE: Final = 0x40049409  # linux/fs.h: a copy that shares its blocks until one of the two is written to
SHOWN: Final = 12  # names in one sentence

Say = Callable[[str], None]


def prepare_work(plan: Plan, run_folder: Path, say: Say = lambda _: None) -> Path:
    """Makes runs/<run>/work of the code and, as data/ in it, of the data, once; a later start leaves what the run has touched.

    code/<digest> and data/<digest> keep as they came. Where the project has changed meanwhile, `say` is told what is taken
    over and what is kept. Raises OSError, and PlanError where code and data both have a file.
    """
    work, home = run_folder / "work", run_folder.parent.parent
    sources = sources_of(plan, home)
    if work.is_dir():
        Update(plan, run_folder, sources).do(say)
    else:
        make(plan, run_folder, sources)
    if plan.config is not None:
        (run_folder / "config.yaml").write_text(plan.config, encoding="utf-8")
    return work


def enter_work(plan: Plan, host: Host, run_folder: Path, say: Say) -> None:
    """Makes the folder in which the command runs the current one. Raises PlanError where the disk does not let it."""
    try:
        os.chdir(prepare_work(plan, run_folder, say))
    except OSError as error:
        raise PlanError(f"{host.name}: {error}{advise(str(error), host.name, MACHINE) or NO_WORK_HINT}") from error


def sources_of(plan: Plan, home: Path) -> dict[str, Path]:
    """Path (posix) below work/ -> the file that was sent. Raises OSError where a folder is missing, PlanError where both have it."""
    kinds = {"": plan.code and home / "code" / plan.code, "data/": plan.data and home / "data" / plan.data}
    names: dict[str, dict[str, Path]] = {"": {}, "data/": {}}
    for prefix, folder in kinds.items():
        if folder:
            os.listdir(folder)  # its own words where it is missing
            names[prefix] = {prefix + path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    code, data = names[""], names["data/"]
    for one, other in clashes(map(PurePosixPath, code), map(PurePosixPath, data), fold=sys.platform == "win32"):
        raise PlanError(
            f"code and data both have {one}: {code[str(one)]} and {data[str(other)]}\nhint: rename or remove one of the two"
        )
    return {**code, **data}


def make(plan: Plan, run_folder: Path, sources: dict[str, Path]) -> None:
    """A new work folder with its record; there whole or not at all."""
    fresh = run_folder / "make"  # as long as `work`: paths on Windows may be at their limit
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    copied = small_ones(sources)
    home = run_folder.parent.parent
    files = {name: place(path, fresh / name, home, link=name not in copied) for name, path in sources.items()}
    Record(files, plan.code, plan.data).write(run_folder)
    replace(fresh, run_folder / "work")


def small_ones(sources: dict[str, Path]) -> set[str]:
    """Names of the files to copy, COPIED_BYTES in all; the others are linked."""
    total, copied = 0, set()
    for size, name in sorted((path.stat().st_size, name) for name, path in sources.items()):
        total += size
        if total > COPIED_BYTES:
            break
        copied.add(name)
    return copied


class Update:
    """A later start of the run, perhaps with other code or data than its work folder was made of."""

    def __init__(self, plan: Plan, run_folder: Path, sources: dict[str, Path]) -> None:
        self.plan, self.folder, self.sources = plan, run_folder, sources
        self.work, self.home = run_folder / "work", run_folder.parent.parent
        known = read_record(run_folder)
        self.record = known or record_of_sent(self.home, *digests_before(run_folder, plan.code, plan.data))
        self.is_noted = known is not None
        self.taken: list[str] = []
        self.kept: list[str] = []

    def do(self, say: Say) -> None:
        """Takes over what the run has not touched, writes the record anew, and says both by name."""
        unlink_folder(self.work / "data")
        copied = small_ones(self.sources)
        unchanged = self.is_noted and (self.record.code, self.record.data) == (self.plan.code, self.plan.data)
        for name, source in self.sources.items() if not unchanged else ():
            self.consider(name, source, link=name not in copied)
        gone = [name for name in self.record.files if name not in self.sources and (self.work / name).exists()]
        self.record.code, self.record.data = self.plan.code, self.plan.data
        if not unchanged:
            self.record.write(self.folder)
        if self.taken:
            say(f"The project has changed since this run began; taken over: {named(self.taken)}")
        if self.kept:
            say(f"Kept as this run has them, though the project's are different: {named(self.kept)}")
        if gone and not unchanged:
            say(f"Kept, though the project does not have them any more: {named(gone)}")

    def consider(self, name: str, source: Path, *, link: bool) -> None:
        """One file of the project, as it is now."""
        target = self.work / name
        known = self.record.files.get(name)
        if known is not None and self.came_from(source, known):
            if not target.exists() and "source" in known and not self.is_noted:  # lay behind the link to data
                self.record.files[name] = place(source, target, self.home, link=link)
            return
        if (target.exists() or target.is_symlink() or known is not None) and not self.record.is_untouched(
            self.work, name
        ):
            if not (target.is_file() and content_of(target) == content_of(source)):
                self.kept.append(name)
            return
        if not all(parent.is_dir() for parent in target.parents if self.work in parent.parents and parent.exists()):
            self.kept.append(name)  # the run has a file where the project has a folder
            return
        self.record.files[name] = place(source, target, self.home, link=link)
        self.taken.append(name)

    def came_from(self, source: Path, known: Any) -> bool:
        """Whether the entry is of this very source: the project has not changed here."""
        if "source" in known and self.home / known["source"] == source:
            return True
        return is_same(source, known)


def named(names: Sequence[str]) -> str:
    """a.py, b.py and 30 more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def place(source: Path, target: Path, home: Path, *, link: bool) -> dict[str, Any]:
    """Puts a file that was sent into the work folder, in place of an older one; its entry for the record. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{os.getpid()}.new")
    try:
        if not link:
            shutil.copyfile(source, fresh)
        elif not clone(source, fresh):
            link_file(source, fresh)
        if not link or not is_shared(fresh, source):
            shutil.copystat(source, fresh)
            fresh.chmod(fresh.stat().st_mode | stat.S_IWUSR)
        replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)
    found = target.stat()
    if link:
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "source": source.relative_to(home).as_posix()}
    content, size = content_of(target)
    return {"size": size, "digest": content}


def is_shared(path: Path, source: Path) -> bool:
    """Whether what is written to the one is written to the other."""
    return path.is_symlink() or path.samefile(source)


def clone(source: Path, target: Path) -> bool:
    """A copy that takes no room, where the disk can do it (btrfs, XFS)."""
    if sys.platform == "win32":
        return False
    import fcntl

    with source.open("rb") as read, target.open("wb") as write, contextlib.suppress(OSError):
        fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
        return True
    target.unlink()
    return False


def link_file(source: Path, target: Path) -> None:
    """A hard link; on another disk a symbolic one, or on Windows, where that needs a right, a copy.

    On Linux nobody but root can then write into it; see also winfleet.rank.own_copy.
    """
    try:
        os.link(source, target)
    except OSError:
        if sys.platform == "win32":
            shutil.copyfile(source, target)
            return
        target.symlink_to(source)
    if sys.platform != "win32":  # there nobody could delete or replace it either
        source.chmod(source.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def unlink_folder(path: Path) -> None:
    """Takes away the link to data that earlier versions put there."""
    if path.is_symlink():
        path.unlink()
    elif (
        sys.platform == "win32"
        and path.exists()
        and path.lstat().st_file_attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT
    ):
        path.rmdir()


def changed_sources(run_folder: Path) -> list[str]:
    """Linked files of data/<digest> that were written into all the same; that folder then goes, so that it is sent anew.

    The run keeps the changed ones as its own.
    """
    home, record = run_folder.parent.parent, read_record(run_folder) or Record({})
    found: list[str] = []
    for name, source in record.links().items():
        with contextlib.suppress(OSError):  # it was pruned
            if not is_same(home / source, record.files[name]) and is_shared(run_folder / "work" / name, home / source):
                found.append(name)
                shutil.rmtree(home.joinpath(*source.parts[:2]))
    return found


def fill_in(command: Iterable[str], plan: Plan, run_folder: Path) -> list[str]:
    """The command with {data}, {config} and {run} replaced by paths on this host; other braces stay as they are."""
    data = "" if plan.data is None else str(run_folder / "work" / "data")
    values = {"{data}": data, "{config}": str(run_folder / "config.yaml"), "{run}": str(run_folder)}
    words = list(command)
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return words
