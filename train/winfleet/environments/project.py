"""The packages of a user's project: of its uv.lock, else resolved for the workers, else winfleet's own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from winfleet.environments.building import build_pure
from winfleet.environments.lock import digest_of, read_lock
from winfleet.environments.resolving import Resolved, Workers, check_gloo, packages_of, resolve

WIDE: Final = 118  # columns of what is shown


def find_packages(
    project: Path,
    ours: Path,
    uv: str,
    workers: Workers,
    torch_backend: str,
    cache: Path,
    say: Callable[[str], object] = str,
    *,
    alone: bool = False,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """What read_lock() gives, with "built": a folder of wheels made here, or "", and "said": lines for the user.

    `say` is told where it takes a while. `alone`: it is for this PC, whose uv builds what is source alone by itself; `options`
    are more words for uv. Raises LockError.
    """
    if (project / "uv.lock").is_file():
        lock = read_lock(project, ours, uv, workers.python_version, torch_backend)
        if workers.windows:
            check_gloo(lock["torch"], [str(project / "uv.lock")])
        beside = (project / "requirements.txt").is_file()
        said = [f"Packages: uv.lock of {project}; the requirements.txt beside it is not read"] if beside else []
        return {**lock, "built": "", "said": said}
    found = resolve(project, ours, uv, workers, cache, say, options)
    lock = read_lock(found.folder if found else ours, ours, uv, workers.python_version, torch_backend)
    if found is None:
        return {**lock, "built": "", "said": []}
    text, built = lock["requirements"], None
    if not alone:
        text, built = build_pure(found, text, workers, cache)
    text = found.head + text
    lock |= {"requirements": text, "digest": digest_of(text, lock["torch"], workers.python_version, torch_backend)}
    return {**lock, "built": str(built or ""), "said": describe(found, lock, workers, torch_backend, built)}


def describe(
    found: Resolved, lock: dict[str, Any], workers: Workers, torch_backend: str, built: Path | None
) -> list[str]:
    """What was read, what it was resolved to, and what was left out of it."""
    wishes = found.wishes
    versions = {name: entry.get("version", "") for name, entry in packages_of(found.folder).items()}
    direct = [
        f"{name} {versions[name]}" for name in dict.fromkeys(wish.name for wish in wishes.wanted) if versions.get(name)
    ]
    build = f"build {torch_backend!r}" if torch_backend else "build as the index has it"
    lines = [
        f"Packages: {', '.join(wishes.files)} resolved for {workers}, torch {lock['torch']} ({build}); lock: {found.folder / 'uv.lock'}"
    ]
    lines += wrap(", ".join(direct))
    if wishes.left:
        lines += wrap("left to torch's build: " + ", ".join(wishes.left))
    if built:
        lines += wrap("built here from source: " + ", ".join(path.name for path in sorted(built.glob("*.whl"))))
    return lines


def wrap(text: str) -> list[str]:
    """Indented lines that are not too wide."""
    return textwrap.wrap(
        text, WIDE, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
