"""What is known of a folder's files: unchanged ones are not read again, and what may have changed is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from winfleet.transfer import digest_cache
from winfleet.transfer.digest_cache import YOUNG_NS, DigestCache
from winfleet.transfer.folders import content_of, digest, list_files


class Known:
    """A folder with files, its digest by the cache, and which files were read for it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cache, self.read = folder / "data", folder / "cache", list[str]()
        monkeypatch.setattr(digest_cache, "content_of", self._note)
        for name in ("a", "sub/b", "한글 \udcff"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))

    def _note(self, path: Path) -> tuple[str, int]:
        self.read.append(path.name)
        return content_of(path)

    def digest(self) -> str:
        """By the cache; the same as without it."""
        self.read.clear()
        known = DigestCache(self.cache, self.folder)
        found = digest(self.folder, list_files(self.folder, honour_git=False), known.content_of)
        known.save()
        assert found == digest(self.folder, list_files(self.folder, honour_git=False))
        return found


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """A folder whose files were digested once, as if they had been old then."""
    made = Known(tmp_path, monkeypatch)
    time.sleep(0.05)  # a tick of the disk's clock
    monkeypatch.setattr(digest_cache, "YOUNG_NS", 0)
    made.digest()
    assert len(made.read) == 3
    monkeypatch.setattr(digest_cache, "YOUNG_NS", YOUNG_NS)
    return made


def test_an_unchanged_folder_is_not_read_again(known: Known) -> None:
    first = known.digest()
    assert known.read == []
    (known.folder / "a").rename(known.folder / "renamed")
    assert known.digest() != first
    assert known.read == ["renamed"]


def put_back(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(path: Path) -> None:
    path.write_bytes(b"X")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"X")
    put_back(path.with_name("new"), path.stat())
    path.with_name("new").rename(path)


def overwrite_and_put_the_time_back(path: Path) -> None:
    before = path.stat()
    overwrite(path)
    put_back(path, before)


@pytest.mark.parametrize("change", [overwrite, replace, overwrite_and_put_the_time_back])
def test_a_changed_byte_of_a_file_of_the_same_size_is_found(known: Known, change: Callable[[Path], None]) -> None:
    first = known.digest()
    change(known.folder / "a")
    assert known.digest() != first
    assert known.read == ["a"]
    known.digest()
    assert known.read == ["a"], "what changed within the last seconds may change again within the same tick"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"/x": 1}'])
def test_a_cache_that_cannot_be_read_is_none(known: Known, text: str) -> None:
    (path,) = (known.cache / "digests").iterdir()
    path.write_text(text)
    known.digest()
    assert len(known.read) == 3
