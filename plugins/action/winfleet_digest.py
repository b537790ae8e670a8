"""Digests folders of the controller once for all hosts, winfleet's own package among them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from winfleet.environments.package import stage
from winfleet.transfer.digest_cache import DigestCache
from winfleet.transfer.folders import SHORT, FolderError, digest, list_files
from winfleet.transfer.names import clashes, explain_unholdable
from winfleet.transfer.receiver import keep_key
from winfleet.transfer.torrents import SwarmError, make_torrent


class ActionModule(ActionBase):
    """winfleet_digest: {"folders": {kind: path or ""}} becomes {"digests": {kind: 64 hex}, "sources": {kind: path}, "bytes"}.

    Where a host's own connection is slow for files, folders above `swarm_mb` get a torrent: "torrents" {kind: file}.
    A file name that a Windows host cannot hold is refused here, before anything is sent.
    "key" is the file of this controller's tokens.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        cache = Path(self._task.args["cache"]).expanduser()
        given = {kind: Path(path).expanduser() for kind, path in self._task.args["folders"].items() if path}
        hostvars, present = task_vars["hostvars"], task_vars["ansible_play_hosts"]
        hosts = {name: (hostvars[name].get("fleet_host") or {}).get("host", {}) for name in present}
        try:
            sources = {"agent": stage(cache / "agent"), **given}
            names = {kind: list_files(path, honour_git=kind == "code") for kind, path in sources.items()}
            for kind, path in given.items():
                if why := explain_unholdable(f"{kind} {path}", kind, names[kind], hosts):
                    raise FolderError(why)
            refuse_clashes(given, names, fold=any(found.get("os") == "Windows" for found in hosts.values()))
            digests = {kind: known_digest(cache, path, names[kind]) for kind, path in sources.items()}
            sizes = {kind: sum((path / name).stat().st_size for name in names[kind]) for kind, path in sources.items()}
            connections = {hostvars[name]["ansible_connection"] for name in present}
            limit = float(self._task.args["swarm_mb"]) * 1e6
            big = [kind for kind, size in sizes.items() if size > limit and connections & {"winrm", "psrp"}]
            keep_key(cache / "transfer.key")
            torrents = {kind: keep_torrent(cache, sources[kind], names[kind], digests[kind]) for kind in big}
        except (FolderError, SwarmError, OSError) as error:
            what, _, hint = str(error).partition("\nhint: ")
            raise AnsibleActionFail(f"controller: {what}\n  hint: {hint or 'give a folder that can be read'}") from None
        return {
            **result,
            "changed": False,
            "digests": digests,
            "key": str(cache / "transfer.key"),
            "sources": {kind: str(p) for kind, p in sources.items()},
            "bytes": sizes,
            "torrents": {kind: str(p) for kind, p in torrents.items()},
        }


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
