"""Wheels of packages that are published as source alone: built once on the controller, where they are pure Python."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.environments.lock import LockError, blocks
from winfleet.environments.resolving import Resolved, Workers, has_wheel, packages_of, quote, who_asks
from winfleet.transfer.folders import content_of

PURE: Final = "-none-any.whl"
LIMIT_SECONDS: Final = 300.0  # pure Python takes seconds; what compiles is not waited for
SAID: Final = 600  # characters
NOT_PURE: Final = "not-pure"  # in the place of a wheel: what is to be said of it


def build_pure(found: Resolved, requirements: str, workers: Workers, cache: Path) -> tuple[str, Path | None]:
    """The requirements with the hashes of wheels that were built here, and the folder of these; None where none had to be.

    Raises LockError where Windows workers would need a compiler. Linux workers build such a package themselves, as ever.
    """
    packages, wheels, texts = packages_of(found.folder), [], blocks(requirements)
    for name, text in texts.items():
        entry = packages.get(name, {})
        if "url" not in entry.get("sdist", {}) or has_wheel(entry, workers.tags):
            continue
        wheel, said = build_once(name, entry, cache / "built")
        if wheel is not None:
            wheels.append(wheel)
            texts[name] = f"{text.partition(chr(92))[0].rstrip()} \\\n    --hash=sha256:{content_of(wheel)[0]}\n"
        elif workers.windows:
            lines = "; ".join(who_asks(name, packages, found.wishes))
            raise LockError(
                f"{lines}: {name} {entry['version']} has no wheel for {workers}, and no pure Python wheel could be made of its source\n{quote(said)}\n"
                "hint: take a version that has one, or mark the line for other systems: NAME; sys_platform == 'linux'"
            )
    return "".join(texts.values()), together(wheels, cache / "built") if wheels else None


def build_once(name: str, entry: Mapping[str, Any], cache: Path) -> tuple[Path | None, str]:
    """(the pure wheel of a package of the lock, or None; what is to be said where there is none)."""
    source = entry["sdist"]
    folder = cache / "each" / source["hash"].rpartition(":")[2][:12]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".winfleet-", dir=cache) as temporary:
            fresh = Path(temporary, "wheel")
            fresh.mkdir()
            said = build(f"{name} @ {source['url']} --hash={source['hash']}", Path(temporary), fresh)
            made = next(fresh.glob("*.whl"), None)
            if made is None and is_out_of_reach(said):
                return None, said  # not kept: the next time it may be within reach
            if made is None or not made.name.endswith(PURE):
                for path in fresh.iterdir():
                    path.unlink()
                (fresh / NOT_PURE).write_text(
                    said or f"built here it becomes {made.name if made else 'nothing'}", "utf-8"
                )
            folder.parent.mkdir(exist_ok=True)
            if not folder.is_dir():
                shutil.move(fresh, folder)
    wheel = next(folder.glob("*.whl"), None)
    return wheel, "" if wheel else (folder / NOT_PURE).read_text("utf-8")


def build(requirement: str, scratch: Path, target: Path) -> str:
    """Has pip build the source; its words where it cannot, or not soon."""
    listed = scratch / "source.txt"
    listed.write_text(requirement + "\n", "utf-8")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--ignore-requires-python", "--require-hashes",
               "--wheel-dir", str(target), "-r", str(listed)]  # fmt: skip
    with (scratch / "said.txt").open("w+b") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the compilers that it started, too
            process.wait()
            return f"it was not built after {LIMIT_SECONDS:.12g} s"
        said.seek(0)
        return last_words(said.read().decode("utf-8", "replace")) if code else ""


def last_words(said: str) -> str:
    """What a build failed of: the last error that is not only that of the program around it."""
    errors = re.findall(r"^\s*(?:[\w.]*(?:Error|Exception)\b|error: (?!subprocess|metadata)).*", said, re.MULTILINE)
    return str(errors[-1]).strip() if errors else said.strip()[-SAID:]


def is_out_of_reach(said: str) -> bool:
    """Whether the source, or what builds it, could not be fetched."""
    return (
        re.search(r"Could not fetch URL|ConnectionError|NewConnectionError|Max retries|No matching distribution", said)
        is not None
    )


def together(wheels: list[Path], cache: Path) -> Path:
    """One folder with these wheels, made once."""
    folder = cache / hashlib.sha256("".join(sorted(content_of(wheel)[0] for wheel in wheels)).encode()).hexdigest()[:12]
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=".winfleet-", dir=cache) as temporary:
            fresh = Path(temporary, "wheels")
            fresh.mkdir()
            for wheel in wheels:
                shutil.copy2(wheel, fresh)
            os.replace(fresh, folder)
    return folder
