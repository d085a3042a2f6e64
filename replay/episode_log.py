"""What the writers' logs say: which episodes are committed, and where they lie."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import CorruptDataError
from core.ids import EpisodeId, parse_episode_id
from replay.append_log import read_log, require_undamaged
from replay.schema import EPISODES_FOLDER, LOG_FOLDER, LOG_SUFFIX

_REMEDY = "Run `python -m replay verify` to see all damage; restore the log from a copy"


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One committed episode."""

    episode_id: EpisodeId
    writer: str
    group_sha256: str
    """Of the metadata of the episode's group, which holds the digests of its other files."""

    def folder(self, root: Path) -> Path:
        """The episode's Zarr group."""
        return root / EPISODES_FOLDER / self.writer / self.episode_id


@dataclass
class _Position:
    """How far a log was read."""

    offset: int = 0
    num_lines: int = 0
    ids: list[EpisodeId] = field(default_factory=list)


class EpisodeLogs:
    """Follows the logs of all writers of a store.

    An id that two writers committed at the same time counts once, for the writer whose name comes first.
    """

    def __init__(self, root: Path) -> None:
        """Nothing is read before :meth:`refresh`."""
        self.root = root
        self._entries: dict[EpisodeId, LogEntry] = {}
        self._positions: dict[str, _Position] = {}
        self._ordered: tuple[EpisodeId, ...] | None = None
        self._lock = threading.Lock()

    @property
    def entries(self) -> Mapping[EpisodeId, LogEntry]:
        """All committed episodes that were known at the last refresh."""
        return self._entries

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """By name of the writer, then as committed."""
        with self._lock:
            if self._ordered is None:
                self._ordered = tuple(
                    episode_id
                    for writer in sorted(self._positions)
                    for episode_id in self._positions[writer].ids
                    if self._entries[episode_id].writer == writer
                )
            return self._ordered

    def refresh(self) -> None:
        """Read what was added since.

        Raises:
            CorruptDataError: if a complete line is damaged or a log got shorter.
        """
        with self._lock:
            for path in log_files(self.root):
                position = self._positions.setdefault(path.name.removesuffix(LOG_SUFFIX), _Position())
                num_bytes = path.stat().st_size
                if num_bytes < position.offset:
                    raise CorruptDataError(
                        f"log {path} had {position.offset} bytes and has {num_bytes} now; logs only grow. {_REMEDY}"
                    )
                if num_bytes > position.offset:
                    self._follow(path, position)

    def _follow(self, path: Path, position: _Position) -> None:
        writer = path.name.removesuffix(LOG_SUFFIX)
        part = read_log(path, position.offset, position.num_lines)
        require_undamaged(part, remedy=_REMEDY)
        for record in part.records:
            entry = parse_entry(record, writer, what=str(path))
            known = self._entries.get(entry.episode_id)
            if known is None or writer < known.writer:
                self._entries[entry.episode_id] = entry
                position.ids.append(entry.episode_id)
        position.offset, position.num_lines = part.end, position.num_lines + part.num_lines
        self._ordered = None


def log_files(root: Path) -> list[Path]:
    """The logs of a store, by name of the writer."""
    return sorted((root / LOG_FOLDER).glob(f"*{LOG_SUFFIX}"))


def parse_entry(record: Mapping[str, Any], writer: str, *, what: str) -> LogEntry:
    """One line of a writer's log.

    Raises:
        CorruptDataError: if it is not what ``EpisodeWriter.commit`` writes.
    """
    try:
        return LogEntry(
            episode_id=parse_episode_id(record["episode_id"]), writer=writer, group_sha256=str(record["group_sha256"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{what}: a line holds {dict(record)!r} ({type(error).__name__}: {error}). {_REMEDY}") from None
