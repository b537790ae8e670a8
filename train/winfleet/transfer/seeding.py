"""The controller's part of a transfer: offers folders to all hosts that run their jobs (`winfleet.transfer.swarm`), and says how far each is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from winfleet.core.plan import SWARM_PORT
from winfleet.core.reading import plain
from winfleet.transfer.job import Result
from winfleet.transfer.receiver import ask
from winfleet.transfer.torrents import TICK_SECONDS, SwarmError, open_session, parameters_of, under_name

if TYPE_CHECKING:
    import libtorrent

VERIFY_BYTES_PER_SECOND: Final = 20e6  # a slow disk, read whole once more for the digests


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One folder that the controller offers."""

    source: Path
    torrent: bytes  # by make_torrent
    root: str  # as given to it


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far one host is."""

    host: str
    state: str  # waiting (not connected yet), receiving, ready (has all pieces), or as in Result
    fraction: float = 0.0
    bytes_per_second: float = 0.0


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What the controller knows of one host."""

    host: str
    address: str
    done: float = 0.0  # bytes of all folders
    shown: float = 0.0  # what the last progress said of done
    connected: bool = False
    met: bool = False
    heard: float = 0.0  # when it was connected last, monotonic
    moved: float = 0.0  # when it got on last
    result: Result | None = None
    question: Future[str | None] | None = None


def seed(
    shares: Sequence[Share],
    hosts: Mapping[str, str],
    *,
    port: int = SWARM_PORT,
    on_progress: Callable[[Sequence[Progress]], None] | None = None,
    interval: float = 1.0,
    start_seconds: float = 60.0,
    lost_seconds: float = 30.0,
    patience_seconds: float = 180.0,
) -> dict[str, Result]:
    """Offers the folders to all hosts (name -> address) that run their jobs, until each has told its result.

    on_progress is called with all hosts every `interval` seconds. A host that does not answer within `start_seconds`,
    or is gone for `lost_seconds`, ends as lost; one that gets nothing more for `patience_seconds`, or has everything and
    does not come to its end, as stalled; both with a cause that names it. Raises SwarmError where a folder cannot be
    read any more.
    """
    return _Seeder(shares, hosts, port, start_seconds, lost_seconds, patience_seconds).run(on_progress, interval)


class _Seeder:
    def __init__(
        self, shares: Sequence[Share], hosts: Mapping[str, str], port: int, start: float, lost: float, patience: float
    ) -> None:
        now = time.monotonic()
        self.port, self.shares = port, shares
        self.start_seconds, self.lost_seconds, self.patience_seconds = start, lost, patience
        self.seen = {
            address: _Seen(host=host, address=address, heard=now, moved=now) for host, address in hosts.items()
        }
        self.handles: list[Any] = []
        self.sizes: list[int] = []

    @property
    def waiting(self) -> list[_Seen]:
        return [seen for seen in self.seen.values() if seen.result is None]

    def run(self, on_progress: Callable[[Sequence[Progress]], None] | None, interval: float) -> dict[str, Result]:
        import libtorrent as lt

        session = open_session("", self.port, self.seen)
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
            for share in self.shares:
                parent = stack.enter_context(under_name(share.source, share.root))
                parameters = parameters_of(share.torrent, parent, share.root, lt.torrent_flags.seed_mode)
                self.handles.append(session.add_torrent(parameters))
                assert parameters.ti is not None
                self.sizes.append(parameters.ti.total_size())
            shown = time.monotonic()
            while self.waiting:
                time.sleep(TICK_SECONDS)
                self._look_at_alerts(session)
                self._look_at_peers()
                for seen in self.waiting:
                    self._ask(seen, pool)
                for seen in self.waiting:
                    self._judge(seen)
                seconds = time.monotonic() - shown
                if on_progress is not None and (seconds >= interval or not self.waiting):
                    shown += seconds
                    on_progress([self._progress(seen, seconds) for seen in self.seen.values()])
            for handle in self.handles:
                session.remove_torrent(handle)
            del session
        return {seen.host: seen.result for seen in self.seen.values() if seen.result is not None}

    def _look_at_alerts(self, session: libtorrent.session) -> None:
        import libtorrent as lt

        for alert in session.pop_alerts():
            if isinstance(alert, lt.file_error_alert | lt.torrent_error_alert | lt.hash_failed_alert):
                raise SwarmError(
                    f"a folder changed or vanished while it was sent: {plain(alert.message(), 300)}\nhint: deploy again"
                )

    def _look_at_peers(self) -> None:
        now = time.monotonic()
        done: dict[str, float] = {}
        for handle, size in zip(self.handles, self.sizes, strict=True):
            connected = set()
            for peer in handle.get_peer_info():
                address = peer.ip[0]
                if peer.flags & (peer.connecting | peer.handshake):
                    connected.add(address)
                    continue
                connected.add(address)
                share = 1.0 if peer.flags & peer.seed else peer.progress
                done[address] = done.get(address, 0.0) + share * size
            for seen in self.waiting:
                if seen.address not in connected:
                    handle.connect_peer((seen.address, self.port))
        for seen in self.waiting:
            seen.connected = seen.address in done
            if not seen.connected:
                continue
            seen.met, seen.heard = True, now
            if done[seen.address] > seen.done:
                seen.done, seen.moved = done[seen.address], now

    def _ask(self, seen: _Seen, pool: ThreadPoolExecutor) -> None:
        """A host that is not in the swarm may have ended, well or not, and tells so on the same port."""
        if seen.question is not None and seen.question.done():
            text, seen.question = seen.question.result(), None
            if text is not None:
                seen.result = Result.parse(text, seen.host)
        elif seen.question is None and not seen.connected:
            seen.question = pool.submit(ask, seen.address, self.port)

    def _judge(self, seen: _Seen) -> None:
        now, who, whole = time.monotonic(), f"{seen.host} ({seen.address})", sum(self.sizes)
        silent, still = now - seen.heard, now - seen.moved
        hint = f"is it switched on, and may this machine reach its TCP port {self.port}?"
        state = cause = ""
        if not seen.met and silent > self.start_seconds:
            state = "lost"
            cause = f"{who} did not answer on TCP port {self.port} for {self.start_seconds:.0f} s\nhint: {hint}"
        elif seen.met and silent > self.lost_seconds:
            state = "lost"
            cause = (
                f"{who} is gone since {self.lost_seconds:.0f} s, with {self._percent(seen)} of its files\nhint: {hint}"
            )
        elif seen.connected and seen.done < whole and still > self.patience_seconds:
            state, hint = "stalled", "look at its disk and its network cable"
            cause = f"{who} got nothing more for {self.patience_seconds:.0f} s, with {self._percent(seen)} of its files\nhint: {hint}"
        elif seen.connected and still > self.patience_seconds + whole / VERIFY_BYTES_PER_SECOND:
            state = "stalled"
            cause = f"{who} has all of its files since {still:.0f} s, and did not say so\nhint: look at its disk"
        if state:
            seen.result = Result(host=seen.host, state=state, cause=cause)

    def _percent(self, seen: _Seen) -> str:
        return f"{100 * seen.done / sum(self.sizes):.0f} %"

    def _progress(self, seen: _Seen, seconds: float) -> Progress:
        rate, seen.shown = (seen.done - seen.shown) / seconds, seen.done
        fraction = min(1.0, seen.done / sum(self.sizes))
        if seen.result is not None:
            whole = seen.result.state == "whole"
            return Progress(host=seen.host, state=seen.result.state, fraction=1.0 if whole else fraction)
        state = "waiting" if not seen.met else "ready" if fraction >= 1 else "receiving"
        return Progress(host=seen.host, state=state, fraction=fraction, bytes_per_second=rate)
