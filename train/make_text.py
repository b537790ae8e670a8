"""Make a text to train on, out of the sources and text files of this Python's standard library.

Usage:   python make_text.py data

Writes data/train.txt (about 4 MB) and data/validation.txt (about 200 KB), UTF-8. No file of the library goes into both.
The same Python version makes the same bytes. If both files are there already, nothing is changed.
"""

import argparse
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

TRAIN_BYTES = 4_000_000
VALIDATION_BYTES = 200_000
NAMES = ("train.txt", "validation.txt")
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


class TextError(Exception):
    """The text cannot be made; what failed, then a hint."""


def library_texts(library: Path) -> Iterator[str]:
    """Yields the text of each *.py and *.txt file below `library`, in the order of the paths, tests left out."""
    paths = (path for path in library.rglob("*") if path.suffix in {".py", ".txt"})
    for path in sorted(paths, key=lambda path: path.relative_to(library).as_posix()):
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(library).parts):
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue  # a few sources are in another encoding on purpose


def split(texts: Iterator[str]) -> tuple[bytes, bytes]:
    """Takes whole files, one in twenty for validation, as long as they fit: (train, validation)."""
    train, validation = bytearray(), bytearray()
    for number, text in enumerate(texts, start=1):
        data = text.encode()
        if number % 20 == 0 and len(validation) + len(data) <= VALIDATION_BYTES:
            validation += data
        elif len(train) + len(data) <= TRAIN_BYTES:
            train += data
    return bytes(train), bytes(validation)


def make(folder: Path, library: Path) -> None:
    """Makes `folder` with both texts in one move, so that it is never seen half written.

    Raises:
        TextError: `library` holds too few sources, or `folder` holds other files.
        OSError: `folder` cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise TextError(
            f"`{folder}` has files in it, but not both of {' and '.join(NAMES)}\n"
            "hint: name a folder that does not exist yet, or empty this one"
        )
    train, validation = split(library_texts(library))
    if len(train) < TRAIN_BYTES // 2 or len(validation) < VALIDATION_BYTES // 4:
        raise TextError(
            f"found only {len(train) + len(validation)} bytes of Python's standard library in `{library}`\n"
            "hint: use a Python that is installed with its sources (*.py files)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name + ".") as temporary:
        finished = Path(temporary, "finished")
        finished.mkdir()
        for name, text in zip(NAMES, (train, validation), strict=True):
            (finished / name).write_bytes(text)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows renames onto no folder at all
        finished.replace(folder)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes train.txt and validation.txt out of Python's standard library.")
    parser.add_argument("out", type=Path, help="folder to make, for example data")
    folder: Path = parser.parse_args().out
    if all((folder / name).is_file() for name in NAMES):
        print(f"`{folder}` has {' and '.join(NAMES)} already")
        return 0
    try:
        make(folder, Path(sysconfig.get_paths()["stdlib"]))
    except (TextError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"`{folder / name}` {(folder / name).stat().st_size:,} bytes" for name in NAMES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
