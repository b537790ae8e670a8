"""Digests folders of the controller once for all hosts, winfleet's own package among them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from winfleet.controller.actions import Action
from winfleet.controller.fetching import LOCAL, SLOW
from winfleet.environments.package import keep
from winfleet.transfer.digest_cache import DigestCache
from winfleet.transfer.folders import SHORT, FolderError, digest, list_sent
from winfleet.transfer.including import as_patterns
from winfleet.transfer.names import clashes, explain_unholdable
from winfleet.transfer.receiver import keep_key
from winfleet.transfer.torrents import SwarmError, make_torrent


class ActionModule(Action):
    """winfleet_digest: {"folders": {kind: path or ""}} becomes {"digests": {kind: 64 hex}, "sources": {kind: path}, "bytes"}.

    Folders above `swarm_mb` get a torrent, "torrents" {kind: file}, where a host's own connection is slow for files, or where
    several hosts would each get them over this machine's one link.
    `include` are patterns of files of the code that git ignores. A file name that a Windows host cannot hold is refused here, before anything is sent.
    "key" is the file of this controller's tokens.
    """

    refused = (FolderError, SwarmError, OSError)

    def act(self) -> dict[str, Any]:
        """Digests them."""
        cache, include = self.path("cache"), as_patterns(self.given["include"])
        given = {kind: Path(path).expanduser() for kind, path in self.given["folders"].items() if path}
        sources = {"agent": keep(cache / "agents"), **given}
        names = {kind: list_sent(path, kind, include) for kind, path in sources.items()}
        hosts = {name: self.found_on(name) for name in self.present}
        for kind, path in given.items():
            if why := explain_unholdable(f"{kind} {path}", kind, names[kind], hosts):
                raise FolderError(why)
        refuse_clashes(given, names, fold=any(found.get("os") == "Windows" for found in hosts.values()))
        digests = {kind: known_digest(cache, path, names[kind]) for kind, path in sources.items()}
        sizes = {kind: sum((path / name).stat().st_size for name in names[kind]) for kind, path in sources.items()}
        elsewhere = [link for name in self.present if (link := self.of(name)["ansible_connection"]) != LOCAL]
        shared = len(elsewhere) > 1 or any(link in SLOW for link in elsewhere)
        limit = float(self.given["swarm_mb"]) * 1e6
        big = [kind for kind in given if sizes[kind] > limit and shared]
        keep_key(cache / "transfer.key")
        torrents = {kind: keep_torrent(cache, sources[kind], names[kind], digests[kind]) for kind in big}
        return {
            "digests": digests,
            "key": str(cache / "transfer.key"),
            "sources": {kind: str(p) for kind, p in sources.items()},
            "bytes": sizes,
            "include": include,
            "torrents": {kind: str(p) for kind, p in torrents.items()},
        }

    def tell(self, error: Exception) -> str:
        """With a hint, whatever it is."""
        told = super().tell(error)
        return told if "\n  hint: " in told else f"{told}\n  hint: give a folder that can be read"


def refuse_clashes(given: dict[str, Path], names: dict[str, list[PurePosixPath]], *, fold: bool) -> None:
    """Code may have a data/ of its own beside the data; raises FolderError where both have one file there."""
    data = [PurePosixPath("data", name) for name in names.get("data", ())]
    for own, other in clashes(names.get("code", ()), data, fold=fold):
        raise FolderError(
            f"code and data both have {own}: {given['code'] / own} and {given['data'] / other.relative_to('data')}\n"
            "hint: rename or remove one of the two; in the working folder they would be one file"
        )


def known_digest(cache: Path, source: Path, names: list[PurePosixPath]) -> str:
    """The folder's digest; files that are known to be unchanged since the last time are not read again. Raises OSError."""
    known = DigestCache(cache, source)
    found = digest(source, names, known.content_of)
    known.save()
    return found


def keep_torrent(cache: Path, source: Path, names: list[PurePosixPath], digest: str) -> Path:
    """The folder's torrent, made once for its digest. Raises SwarmError."""
    path = cache / "torrents" / f"{digest[:SHORT]}.torrent"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_torrent(source, names, digest[:SHORT]))
    return path
