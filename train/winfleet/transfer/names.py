"""File names that Windows cannot hold, found on the controller before anything is sent to a Windows worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from winfleet.transfer.folders import SHORT

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
FORBIDDEN: Final = frozenset('<>:"|?*\\') | {chr(code) for code in range(32)}
DEVICES: Final = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"] + [f"{port}{number}" for port in ("COM", "LPT") for number in "123456789¹²³"]
)  # fmt: skip
LONGEST_NAME: Final = 255  # UTF-16 units
LONGEST_PATH: Final = 259  # the same; MAX_PATH without its closing zero
SHOWN: Final = 5
RUN: Final = "20260101-000000"  # a run's name, where it is not known yet


def explain_unholdable(
    what: str, kind: str, names: Iterable[PurePosixPath], hosts: Mapping[str, Mapping[str, Any]], run: str = ""
) -> str:
    """Why these files of a folder cannot go to the Windows hosts among `hosts` (winfleet_host's facts), with a hint; "" if they can.

    `what` names the folder, `kind` is code, data or another kind of folder below fleet_home.
    """
    windows = {name: found for name, found in hosts.items() if found.get("os") == "Windows"}
    if not windows:
        return ""
    short = {name: str(found["home"]) for name, found in windows.items() if not found.get("long_paths")}
    host, room = min(((name, room_below(home, kind, run)) for name, home in short.items()), key=lambda pair: pair[1],
                     default=("", 32_000))  # fmt: skip
    troubles = find_troubles(names, room)
    if not troubles:
        return ""
    more = f", and {len(troubles) - SHOWN} more" if len(troubles) > SHOWN else ""
    told = "; ".join(f"{name}: {why}" for name, why in list(troubles.items())[:SHOWN])
    hint = "rename them"
    if any("characters too long" in why for why in troubles.values()):
        hint += f"; long paths fit with a shorter fleet_home, or once {host} has LongPathsEnabled (HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem)"
    return f"{what} has names that Windows cannot hold: {told}{more}\nhint: {hint}"


def room_below(home: str, kind: str, run: str) -> int:
    """UTF-16 units that a file's path within the folder may have, so that all places it gets below fleet_home fit."""
    arriving = f"{home}\\{kind}\\.{'0' * SHORT}.abcdefgh\\"  # as folders.unpack() names it
    working = f"{home}\\runs\\{run or RUN}\\work\\" + ("data\\" if kind == "data" else "")
    return LONGEST_PATH - max(units(arriving), units(working))


def find_troubles(names: Iterable[PurePosixPath], room: int) -> dict[PurePosixPath, str]:
    """Name -> why Windows cannot hold it. Folders count: A/x and a/y are no two folders there."""
    spelled: dict[PurePosixPath, PurePosixPath] = {}
    troubles: dict[PurePosixPath, str] = {}
    for name in names:
        why = next(filter(None, map(trouble_of, name.parts)), "")
        if not why and (over := units(str(name)) - room) > 0:
            why = f"{over} characters too long below fleet_home"
        for path in (*list(name.parents)[-2::-1], name):
            other = spelled.setdefault(folded(path), path)
            if other != path:
                why = why or f"{path} and {other} differ by case alone"
                break
        if why:
            troubles[name] = why
    return troubles


def trouble_of(part: str) -> str:
    """Why Windows can have no file or folder of this name; "" if it can."""
    if any("\ud800" <= char <= "\udfff" for char in part):
        return "it is not UTF-8"
    if found := sorted(FORBIDDEN.intersection(part)):
        return f"{part!r} has {found[0]!r}"
    if part[-1] in ". ":
        return f"{part!r} ends with {'a dot' if part[-1] == '.' else 'a space'}"
    if part.partition(".")[0].rstrip(" ").upper() in DEVICES:
        return f"{part!r} is a device there"
    return f"{part[:20]!r}… has more than {LONGEST_NAME} characters" if units(part) > LONGEST_NAME else ""


def folded(path: PurePosixPath) -> PurePosixPath:
    """The path as NTFS compares it: each character by its capital, where that is one character."""
    return PurePosixPath("".join(upper if len(upper := char.upper()) == 1 else char for char in str(path)))


def units(text: str) -> int:
    """Length as Windows counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def clashes(
    code: Iterable[PurePosixPath], data: Iterable[PurePosixPath], *, fold: bool
) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Pairs of files that cannot both lie in one folder: of one name, or the one where the other needs a folder.

    With `fold` names are compared as NTFS does.
    """
    key = folded if fold else lambda path: path
    files = {key(path): path for path in data}
    folders = {key(parent): path for path in files.values() for parent in path.parents}
    for path in code:
        above = (key(each) for each in (path, *path.parents))
        other = folders.get(key(path)) or next((files[each] for each in above if each in files), None)
        if other is not None:
            yield path, other
