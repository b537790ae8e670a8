"""Folders to every host of a cluster at once, by BitTorrent: the hosts give each other what they have.

    python -m winfleet.transfer.swarm --job job.json

runs on each host and brings the job's folders there, while `winfleet.transfer.seeding` on the controller offers them. All pieces are
verified, a broken transfer goes on where it stopped, and a target is there whole or not at all. Peers are known by
address alone: no trackers, no discovery, and nobody outside the job's addresses gets in. The controller connects
outward and has no open port. Where a host has no libtorrent, `winfleet.transfer.receiver` takes archives instead.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from winfleet.core.errors import HostError
from winfleet.core.files import held, replace, write_atomic
from winfleet.core.reading import plain
from winfleet.machine.ports import wait_for_port
from winfleet.transfer.folders import FolderError, verify
from winfleet.transfer.job import Folder, Job, Result
from winfleet.transfer.receiver import ReceiverError, Wanted, receive, tell
from winfleet.transfer.torrents import (
    PIECE_BYTES,
    TICK_SECONDS,
    SwarmError,
    allow,
    files_of,
    open_session,
    parameters_of,
)

QUIET_SECONDS: Final = 3.0  # a host leaves where nobody needed anything of it for so long
TELL_SECONDS: Final = 15.0  # then it tells its result to a controller that asks
SPARE_BYTES: Final = 64 * 2**20  # stay free on a disk


def available() -> bool:
    """Whether libtorrent is here; where it is not, archives have to do."""
    try:
        import libtorrent  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def run_job(job: Job) -> Result:
    """Brings the job's folders to this host, writes the result's file, and tells the controller how it went."""
    started = time.monotonic()
    swarm = _Swarm(job)
    try:
        wait_for_port(job.address, job.port)
        if job.token:
            wanted = [
                Wanted(target=Path(folder.target), expected=folder.expected, limit_bytes=folder.limit_bytes)
                for folder in job.folders
            ]
            receive(job.address, job.port, job.token, wanted, job.controllers, job.patience_seconds)
        else:
            swarm.run()
        state, cause = "whole", ""
    except (SwarmError, ReceiverError, FolderError, HostError, OSError) as error:
        state, cause = "failed", str(error)
    result = Result(
        host=job.host, state=state, cause=cause, seconds=round(time.monotonic() - started, 3), **swarm.counted()
    )
    write_atomic(Path(job.result), result.to_json())
    with contextlib.suppress(OSError):  # the file has it too
        tell(job.address, job.port, result.to_json(), job.controllers, TELL_SECONDS)
    return result


def _long(path: str | Path) -> Path:
    """The path in the form that may have more than 260 characters on Windows."""
    text = os.path.abspath(path)
    return Path(f"\\\\?\\{text}" if os.name == "nt" and not text.startswith("\\\\") else text)


class _Part:
    """One folder on its way: beside its target, in a hidden folder whose name stays, so that a restart finds it."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.target = folder, _long(folder.target)
        self.root = self.target.name
        self.home = self.target.parent / f".{self.root}.part"
        self.there = self.target.exists()
        self.torrent = b""
        self.handle: Any = None
        self.flushing = self.flushed = False  # what has arrived is not at once in the files
        self.verified: Future[None] | None = None

    def reuse(self) -> None:
        """Links, or copies, files of the previous folder that have the wanted content."""
        import libtorrent as lt

        (self.home / self.root).mkdir(parents=True, exist_ok=True)
        previous = _long(self.folder.previous) if self.folder.previous else None
        if previous is None or not previous.is_dir():
            return
        info = lt.load_torrent_buffer(self.torrent).ti
        assert info is not None
        storage = info.layout()
        wanted = {path: index for path, index in files_of(info, self.root).items() if storage.file_size(index)}
        sizes = {storage.file_size(index) for index in wanted.values()}
        found = [path for path in previous.rglob("*") if path.is_file() and path.stat().st_size in sizes]
        by_content = _contents(previous, found)
        for name, index in wanted.items():
            source, place = by_content.get(str(storage.root(index))), self.home / name
            if source is None or (place.exists() and place.samefile(source)):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            try:
                os.link(source, place)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, place)

    def move(self) -> None:
        """The last step: the target is there."""
        if not self.there:
            replace(self.home / self.root, self.target)
            shutil.rmtree(self.home, ignore_errors=True)


def _contents(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Root of the content's hash tree, as BitTorrent v2 has it -> file."""
    import libtorrent as lt

    names = [path.relative_to(folder).as_posix() for path in files]
    if not names:
        return {}
    entries = [lt.create_file_entry(f"{folder.name}/{name}", (folder / name).stat().st_size) for name in names]
    torrent = lt.create_torrent(entries, PIECE_BYTES[0], lt.create_torrent.v2_only)
    lt.set_piece_hashes(torrent, os.fspath(folder.parent))
    info = lt.load_torrent_buffer(lt.bencode(torrent.generate())).ti
    assert info is not None
    storage = info.layout()
    known = files_of(info, folder.name)
    return {str(storage.root(index)): folder.parent / name for name, index in known.items()}


class _Swarm:
    """A host's part in the swarm, for all folders of its job in one session."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.names = {address: name for name, address in job.peers.items()}
        self.names.update({address: "the controller" for address in job.controllers if address not in self.names})
        self.down = self.up = self.reused = 0
        self.hash_failures: dict[str, int] = {}  # address of who was banned -> wrong pieces it took part in
        self.suspected: dict[str, int] = {}  # the same of everybody
        self.ready: set[str] = set()  # addresses of peers that were seen with everything
        self.session: Any = None
        self.parts: list[_Part] = []

    def counted(self) -> dict[str, Any]:
        """What the result says of bytes."""
        return {
            "down_bytes": self.down,
            "up_bytes": self.up,
            "reused_bytes": self.reused,
            "hash_failures": dict(self.hash_failures),
        }

    def run(self) -> None:
        """The whole transfer. Raises SwarmError, FolderError or OSError; what is there then stays for the next try."""
        if not available():
            raise SwarmError(f"{self.job.host} has no libtorrent\nhint: deploy again; it takes archives then")
        self.parts = [_Part(folder) for folder in self.job.folders]
        if all(part.there for part in self.parts) and not self.job.peers:
            return
        self.session = open_session(self.job.address, self.job.port, self.names)
        try:
            for part in self.parts:
                self._add(part)
            self._wait_for_check()
            self._download()
            self._give()
        finally:
            for part in self.parts:
                if part.handle is not None:
                    self.session.remove_torrent(part.handle)
            self.session = None  # ends its threads and closes files, so that folders can be renamed
        for part in self.parts:
            part.move()

    def _add(self, part: _Part) -> None:
        import libtorrent as lt

        try:
            part.torrent = Path(part.folder.torrent).read_bytes()
        except OSError as error:
            raise SwarmError(f"{part.folder.torrent}: {error.strerror}\nhint: deploy again") from None
        if part.there:
            parent, flags = part.target.parent, lt.torrent_flags.seed_mode
        else:
            part.reuse()
            parent, flags = part.home, lt.torrent_flags.stop_when_ready
        part.handle = self.session.add_torrent(parameters_of(part.torrent, parent, part.root, flags))

    def _wait_for_check(self) -> None:
        """Until libtorrent has looked at what is there already; then the rest must fit on the disks."""
        checking = ("queued_for_checking", "checking_files", "checking_resume_data", "allocating")
        while any(str(part.handle.status().state) in checking for part in self.parts):
            self._look_at_alerts()
            time.sleep(TICK_SECONDS / 4)
        needed: dict[int, int] = {}
        for part in self.parts:
            status = part.handle.status()
            if part.there:
                continue
            self.reused += status.total_wanted_done
            disk = os.stat(part.home).st_dev
            needed[disk] = needed.get(disk, 0) + status.total_wanted - status.total_wanted_done
            free = shutil.disk_usage(part.home).free
            if needed[disk] and needed[disk] + SPARE_BYTES > free:
                raise SwarmError(
                    f"{self.job.host} needs {needed[disk] / 1e6:.0f} MB more for {part.folder.kind} and "
                    f"{SPARE_BYTES / 1e6:.0f} MB to spare; the disk of {part.target.parent} has {free / 1e6:.0f} MB free\n"
                    "hint: make room there, or set fleet_home to another disk"
                )
        for part in self.parts:
            self._share_out(part)
            part.handle.resume()

    def _share_out(self, part: _Part) -> None:
        """Each host asks for another part first, so that the controller sends each piece about once, not N times."""
        hosts = sorted({self.job.address, *self.job.peers.values()})
        own, pieces = hosts.index(self.job.address), part.handle.torrent_file().num_pieces()
        part.handle.prioritize_pieces([6 if piece % len(hosts) == own else 1 for piece in range(pieces)])

    def _download(self) -> None:
        """Until all folders are here and have their digests."""
        last, progress = time.monotonic(), -1
        with ThreadPoolExecutor(1) as pool:
            while not all(part.there or (part.verified and part.verified.done()) for part in self.parts):
                self._tick()
                for part in self.parts:
                    if part.flushed and part.verified is None:
                        part.verified = pool.submit(verify, part.home / part.root, part.folder.expected)
                    elif not part.flushing and not part.there and part.handle.status().is_seeding:
                        part.flushing = True
                        part.handle.flush_cache()
                verifying = any(part.verified and not part.verified.done() for part in self.parts)
                done = sum(part.handle.status().total_done for part in self.parts)
                if verifying or done != progress:
                    last, progress = time.monotonic(), done
                if time.monotonic() - last > self.job.patience_seconds:
                    raise SwarmError(self._silence())
        for part in self.parts:
            if part.verified is not None:
                part.verified.result()

    def _give(self) -> None:
        """Gives to the others until all have everything, nobody here needed anything for some seconds, or took any for long."""
        needed = given = time.monotonic()
        while not self.ready >= set(self.job.peers.values()):
            up, lacking, now = self.up, self._tick(), time.monotonic()
            needed = now if lacking else needed
            given = now if self.up > up else given
            if now - needed > QUIET_SECONDS or now - given > self.job.patience_seconds:
                return

    def _tick(self) -> bool:
        """Connects, looks at the peers and at what happened; whether a host is connected that lacks something."""
        time.sleep(TICK_SECONDS)
        self._look_at_alerts()
        seen: dict[str, int] = {}
        down = up = 0
        for part in self.parts:
            connected = set()
            for peer in part.handle.get_peer_info():
                address = peer.ip[0]
                connected.add(address)
                if peer.flags & peer.seed:
                    seen[address] = seen.get(address, 0) + 1
                else:
                    seen.setdefault(address, 0)
                # of several who sent parts of a wrong piece one is guilty: which one shows when it is banned
                self.suspected[address] = max(self.suspected.get(address, 1), peer.num_hashfails)
            for address in set(self.job.peers.values()) - connected:
                part.handle.connect_peer((address, self.job.port))
            status = part.handle.status()
            down, up = down + status.total_payload_download, up + status.total_payload_upload
        self.down, self.up = down, up
        self.ready |= {address for address, count in seen.items() if count >= len(self.parts)}
        return any(address in self.names and address not in self.ready for address in seen)

    def _look_at_alerts(self) -> None:
        import libtorrent as lt

        for alert in self.session.pop_alerts():
            if isinstance(alert, lt.peer_ban_alert):
                address = alert.ip[0]
                self.hash_failures[address] = self.suspected.get(address, 1)
                self.names.pop(address, None)
                allow(self.session, self.names)  # from no other port either
            elif isinstance(alert, lt.cache_flushed_alert):
                for part in self.parts:
                    part.flushed = part.flushed or (part.flushing and part.handle == alert.handle)
            elif isinstance(alert, lt.file_error_alert | lt.torrent_error_alert):
                raise SwarmError(
                    f"{self.job.host} cannot write: {plain(alert.message(), 300)}\n"
                    "hint: make room there, or set fleet_home to another disk"
                )
            elif isinstance(alert, lt.listen_failed_alert):
                raise SwarmError(
                    f"{self.job.host} cannot listen on {self.job.address}:{self.job.port}: {plain(alert.error.message(), 200)}\n"
                    "hint: end what uses the port there, or set fleet_address to an address that this host has"
                )

    def _silence(self) -> str:
        here = {peer.ip[0] for part in self.parts for peer in part.handle.get_peer_info()}
        banned = [f"{address} sent wrong content" for address in self.hash_failures]
        missing = [
            f"{name} ({address}) is not connected" for address, name in self.names.items() if address not in here
        ]
        return (
            f"{self.job.host} got nothing for {self.job.patience_seconds:.0f} s: "
            f"{', '.join([*banned, *missing]) or 'those that are connected have no more'}\n"
            f"hint: let the controller and all hosts reach each other's TCP port {self.job.port}"
        )


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Brings the job's folders to this host.")
    parser.add_argument("--job", type=Path, required=True, help="file that the controller wrote")
    job = parser.parse_args().job
    try:
        with held(job.with_suffix(".lock")):  # the preflight sees by it that the port is ours
            result = run_job(Job.load(job))
    except (SwarmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result.state != "whole":
        print(f"error: {result.cause}", file=sys.stderr)
    return 0 if result.state == "whole" else 1


if __name__ == "__main__":
    sys.exit(main())
