"""A host's transfer as data: what it is asked for, and how it ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from winfleet.core.files import as_object
from winfleet.core.plan import SWARM_PORT
from winfleet.core.reading import Paragraph, Reader
from winfleet.transfer.torrents import SwarmError


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One folder that the host shall have."""

    kind: str  # code, data, wheels: for messages
    target: str  # …/data/<12 hex>; its last part is the torrent's root
    expected: str  # its digest, 64 hex digits
    torrent: str = ""  # file with the torrent; "" where an archive comes instead
    previous: str = ""  # an older folder of the kind, whose equal files are reused; "": none
    limit_bytes: int = 0  # of an archive


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a host's transfer is given: job.json."""

    host: str  # its name in the inventory
    address: str  # its own, to listen on
    result: str  # file that gets the result
    folders: tuple[Folder, ...]
    peers: Mapping[str, str] = field(default_factory=dict)  # the other hosts: name -> address
    controllers: tuple[str, ...] = ()  # addresses from which the controller comes
    port: int = SWARM_PORT  # the same on all hosts
    token: str = ""  # of archives; "": by BitTorrent
    patience_seconds: float = 120.0  # without progress, then the transfer fails

    def to_json(self) -> str:
        """The job as it is written to job.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Job:
        """Reads job.json. Raises SwarmError where it is none."""
        try:
            values = json.loads(path.read_text("utf-8"))
            values["folders"] = tuple(Folder(**folder) for folder in values["folders"])
            values["controllers"] = tuple(values.get("controllers", ()))
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SwarmError(f"{path} is no job: {error}\nhint: deploy again") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a host's transfer ended; bytes are content, without what the protocol adds."""

    host: str
    state: str  # whole, failed; the controller adds lost and stalled
    cause: Annotated[Paragraph, 1_000] = ""  # "" or one sentence and a hint
    seconds: float = 0.0
    down_bytes: int = 0
    up_bytes: int = 0
    reused_bytes: int = 0  # of the previous folders, and of a broken transfer
    hash_failures: Mapping[Annotated[str, 60], int] = field(default_factory=dict)  # address of who sent them -> pieces

    def to_json(self) -> str:
        """The result as it is written and told."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, host: str) -> Result:
        """Reads a result that came from that host: types are checked, texts cut, and what is wrong is left out."""
        kept = Reader().members(cls, as_object(text))
        state = kept.get("state") if kept.get("state") in ("whole", "failed") else "failed"
        return cls(**{**kept, "host": host, "state": state})
