"""What BitTorrent needs on both sides of a transfer: a folder's torrent, and a session that knows the cluster alone."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from winfleet.core.reading import plain

if TYPE_CHECKING:
    import libtorrent

TICK_SECONDS: Final = 0.05  # a transfer has some ten steps that wait for one
PIECE_BYTES: Final = (2**16, 2**22)  # a small piece is passed on sooner, a big one costs less to announce


class SwarmError(RuntimeError):
    """A transfer that cannot be done; the text names the host, the value and the fix."""


def make_torrent(source: Path, names: Sequence[PurePosixPath], root: str) -> bytes:
    """The torrent (v2) of these files of the folder; the same files give the same bytes.

    `root` is the name that the folder will have on the hosts, its digest's first 12 hex digits.
    Raises SwarmError where a name cannot be sent, or where no file has content.
    """
    import libtorrent as lt

    files, total = [], 0
    for name in sorted(names):
        found = (source / name).stat()
        runs = lt.file_storage.flag_executable if found.st_mode & stat.S_IXUSR else 0
        try:
            files.append(lt.create_file_entry(f"{root}/{name}", found.st_size, runs))
        except UnicodeEncodeError:
            raise SwarmError(f"{source / name!s}: its name is not UTF-8\nhint: rename the file") from None
        total += found.st_size
    if not total:
        raise SwarmError(
            f"folder {source} has only empty files\nhint: leave it out, or put a file with content into it"
        )
    piece = PIECE_BYTES[0]
    while piece < PIECE_BYTES[1] and total // piece > 8_000:
        piece *= 2
    torrent = lt.create_torrent(files, piece, lt.create_torrent.v2_only)
    torrent.set_creation_date(0)
    torrent.set_creator("winfleet")
    with under_name(source, root) as parent:
        try:
            lt.set_piece_hashes(torrent, str(parent))
        except RuntimeError as error:
            raise SwarmError(f"folder {source} cannot be read: {error}\nhint: does something write into it?") from None
    made: bytes = lt.bencode(torrent.generate())
    sent = {str(PurePosixPath(root, name)) for name in names}
    info = lt.load_torrent_buffer(made).ti
    assert info is not None
    if odd := sorted(sent - set(files_of(info, root))):
        raise SwarmError(f"{odd[0]!r} is a file name that not every host can have\nhint: rename the file")
    return made


@contextlib.contextmanager
def under_name(source: Path, root: str) -> Iterator[Path]:
    """A folder in which the source has the torrent's name: a link, nothing is copied."""
    with tempfile.TemporaryDirectory(prefix="winfleet-") as parent:
        os.symlink(source.resolve(), Path(parent, root), target_is_directory=True)
        yield Path(parent)


def files_of(info: libtorrent.torrent_info, root: str) -> dict[str, int]:
    """Path below the folder's parent -> index, in a torrent; without its padding."""
    storage = info.layout()
    paths = {
        Path(storage.file_path(index)).as_posix(): index  # it has backslashes on Windows
        for index in range(storage.num_files())
        if not storage.file_flags(index) & storage.flag_pad_file
    }
    lone = is_lone(info, root)
    return {f"{root}/{path}" if lone else path: index for path, index in paths.items()}


def is_lone(info: libtorrent.torrent_info, root: str) -> bool:
    """Whether it is of one file directly in its folder: it has no folder then, BitTorrent names it after the file."""
    return Path(info.layout().file_path(0)).parts[0] != root


def parameters_of(torrent: bytes, parent: Path, root: str, flags: int) -> libtorrent.add_torrent_params:
    """What adds the torrent to a session, with its files below parent/root. Raises SwarmError where it is none."""
    import libtorrent as lt

    try:
        parameters = lt.load_torrent_buffer(torrent)
        info = parameters.ti
        assert info is not None
        names = files_of(info, root)
    except (RuntimeError, AssertionError) as error:
        raise SwarmError(f"the torrent of {root} cannot be read: {plain(error, 200)}\nhint: deploy again") from None
    if not all(name.startswith(f"{root}/") for name in names):
        raise SwarmError(f"the torrent is not that of {root}\nhint: deploy again")
    parameters.save_path = str(parent / root if is_lone(info, root) else parent)
    parameters.storage_mode = lt.storage_mode_t.storage_mode_sparse
    quiet = lt.torrent_flags.disable_dht | lt.torrent_flags.disable_lsd | lt.torrent_flags.disable_pex
    parameters.flags = flags | quiet | lt.torrent_flags.apply_ip_filter
    return parameters


def open_session(address: str, port: int, allowed: Collection[str]) -> libtorrent.session:
    """A session that listens on the address alone (nowhere for ""), and knows nobody but the allowed addresses."""
    import libtorrent as lt

    settings: dict[str, Any] = {
        "user_agent": "winfleet",
        "listen_interfaces": f"{address}:{port}" if address else "",
        "outgoing_interfaces": address,
        "max_retry_port_bind": 0,
        "listen_system_port_fallback": False,
        **dict.fromkeys(
            ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_utp", "enable_incoming_utp"),
            False,
        ),
        "out_enc_policy": 2,  # off: all content is verified, and none is secret inside the cluster
        "in_enc_policy": 2,
        "allow_multiple_connections_per_ip": True,  # the controller's PC may be a worker too
        "close_redundant_connections": False,  # who is ready stays in sight
        "min_reconnect_time": 1,
        "max_failcount": 1_000_000,  # a host may start late
        "peer_connect_timeout": 5,
        "connections_limit": 10_000,
        "connection_speed": 200,
        "listen_queue_size": 128,
        # The next pieces are chosen late, and by their rarity from the first one on: what two hosts ask the controller
        # for at the same time crosses its link twice.
        "initial_picker_threshold": 0,
        "auto_sequential": False,
        "whole_pieces_threshold": 0,
        "request_queue_time": 1,
        "max_out_request_queue": max(16, 256 // max(1, len(allowed))),
        "unchoke_slots_limit": -1,  # everybody at once: the hosts' own cards share their links out
        "disk_write_mode": int(lt.mmap_write_mode_t.always_pwrite),  # a full disk is an error, not a crash
        "alert_mask": lt.alert_category.error | lt.alert_category.status | lt.alert_category.peer
        | lt.alert_category.storage | lt.alert_category.ip_block,
    }  # fmt: skip
    session: libtorrent.session = lt.session(
        cast(Any, settings), 0
    )  # without its plugins: no exchange of peers, no metadata for those who lack it
    session.add_extension("smart_ban")  # finds who of several sent the wrong part of a piece
    allow(session, allowed)
    return session


def allow(session: libtorrent.session, allowed: Iterable[str]) -> None:
    """From now on the session knows nobody but these addresses."""
    import libtorrent as lt

    rules = lt.ip_filter()
    rules.add_rule("0.0.0.0", "255.255.255.255", 1)  # noqa: S104 (a range, nothing is bound)
    rules.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1)
    for address in allowed:
        rules.add_rule(address, address, 0)
    session.set_ip_filter(rules)
