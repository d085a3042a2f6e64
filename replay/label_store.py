"""Labels on disk, beside experience. Hop 6 of the tour: takes Labels, shows them to the learner.

Keyed by (episode_id, value_version): relabelling under a new value model adds, and never touches what is there. Each store
object that puts labels appends to a log of its own per value version (see ``append_log.py``), so writers never meet and a
crash costs at most the labels being written. There is one folder a value version: ``v00000003/<writer>.log``.
"""

from __future__ import annotations

import base64
import os
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.durable import flush, full_disk_named
from core.errors import ConfigError, CorruptDataError, RecapError, SchemaVersionError
from core.ids import EpisodeId, parse_episode_id
from core.labels import LabelKey, Labels
from replay.append_log import LogWriter, read_log, require_undamaged
from replay.schema import LOG_SUFFIX

LABEL_SCHEMA_VERSION = 1
_ARRAYS = ("value", "return_", "advantage")
_REMEDY = "Labels can be made again: remove this file and label the episodes under this value version"


class MissingLabelsError(RecapError, KeyError):
    """An episode is not labelled under a value version."""

    __str__ = Exception.__str__  # KeyError would put the message in quotes


@dataclass
class _Version:
    """What is known of one value version."""

    labels: dict[EpisodeId, Labels] = field(default_factory=dict)
    offset: dict[Path, int] = field(default_factory=dict)
    """How far each log was read."""
    num_lines: dict[Path, int] = field(default_factory=dict)


class LabelStore:
    """A folder of labels.

    Consumes: Labels. Produces: Labels. Waits for: the disk, in :meth:`put`.
    Invariant: labels are visible, to any process, exactly when all of them are on disk; the first labels of a key stay.

    Example::

        label_store = LabelStore(run / "labels")
        for episode_id in label_store.unlabelled(value_version, store.episode_ids()):
            label_store.put(labeler.label(store.read(episode_id)))
    """

    def __init__(self, root: Path | str) -> None:
        """Open or create; nothing is read before it is asked for."""
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._writers: dict[tuple[int, int], LogWriter] = {}
        self._versions: dict[int, _Version] = {}
        self._lock = threading.RLock()

    def put(self, labels: Labels) -> None:
        """Store labels; returns once they are durable. A key that has labels keeps them.

        Raises:
            StorageFullError: if the disk is full; nothing was stored.
        """
        self.put_many([labels])

    def put_many(self, labels: Iterable[Labels]) -> None:
        """Store many labels with one flush to disk a value version; see :meth:`put`."""
        with self._lock:
            new: dict[int, dict[EpisodeId, Labels]] = {}
            for item in labels:
                _check_version(item.key.value_version)
                if not self.has(*item.key):
                    new.setdefault(item.key.value_version, {}).setdefault(item.key.episode_id, item)
            for version, by_episode in new.items():
                with full_disk_named(f"labels of {len(by_episode)} episodes under value version {version}"):
                    self._take_writer(version).append([to_record(item) for item in by_episode.values()])

    def has(self, episode_id: EpisodeId, value_version: int) -> bool:
        """Whether an episode is labelled under a value version."""
        return episode_id in self._refreshed(value_version).labels

    def get(self, episode_id: EpisodeId, value_version: int) -> Labels:
        """Labels of one episode.

        Raises:
            MissingLabelsError: if there are none.
            CorruptDataError: if a file of this value version is damaged.
        """
        return self.get_many([episode_id], value_version)[0]

    def get_many(self, episode_ids: Sequence[EpisodeId], value_version: int) -> list[Labels]:
        """Labels of many episodes, in the order asked for.

        Raises:
            MissingLabelsError: naming the first episode that has none.
            CorruptDataError: if a file of this value version is damaged.
        """
        known = self._refreshed(value_version).labels
        if missing := [e for e in episode_ids if e not in known]:
            raise MissingLabelsError(
                f"episode {missing[0]} ({len(missing)} of {len(episode_ids)} in all) has no labels under value version "
                f"{value_version}; versions with labels: {self.value_versions()}. Label it first"
            )
        return [known[e] for e in episode_ids]

    def unlabelled(self, value_version: int, episode_ids: Iterable[EpisodeId]) -> list[EpisodeId]:
        """Those of ``episode_ids`` that have no labels under a value version, in the same order."""
        known = self._refreshed(value_version).labels
        return [e for e in episode_ids if e not in known]

    def value_versions(self) -> list[int]:
        """Value versions that have labels, ascending."""
        return label_versions(self.root)

    def close(self) -> None:
        """Release the files being written; the store may be used again afterwards."""
        with self._lock:
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()

    def _take_writer(self, version: int) -> LogWriter:
        key = os.getpid(), version  # a forked child must not append to its parent's log
        if key not in self._writers:
            folder = _version_folder(self.root, version)
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                flush(self.root)
            self._writers[key] = LogWriter(folder / f"{uuid.uuid4().hex}{LOG_SUFFIX}")
        return self._writers[key]

    def _refreshed(self, value_version: int) -> _Version:
        """What is on disk by now under a value version."""
        _check_version(value_version)
        with self._lock:
            known = self._versions.setdefault(value_version, _Version())
            for path in label_files(self.root, value_version):
                start = known.offset.get(path, 0)
                if path.stat().st_size <= start:
                    continue
                part = read_log(path, start, known.num_lines.get(path, 0))
                require_undamaged(part, remedy=_REMEDY)
                for record in part.records:
                    labels = parse_record(record, value_version, what=str(path))
                    known.labels.setdefault(labels.key.episode_id, labels)
                known.offset[path] = part.end
                known.num_lines[path] = known.num_lines.get(path, 0) + part.num_lines
            return known


def label_versions(root: Path) -> list[int]:
    """Value versions that have a folder, ascending."""
    return sorted(int(folder.name[1:]) for folder in root.glob("v*") if folder.name[1:].isdigit())


def label_files(root: Path, value_version: int) -> list[Path]:
    """The logs of a value version, by name."""
    return sorted(_version_folder(root, value_version).glob(f"*{LOG_SUFFIX}"))


def to_record(labels: Labels) -> dict[str, Any]:
    """Labels as one line of a log; :func:`parse_record` is the exact inverse."""
    return {
        "schema_version": LABEL_SCHEMA_VERSION,
        "episode_id": labels.key.episode_id,
        "value_version": labels.key.value_version,
        "target": labels.target,
        **{name: _encode(getattr(labels, name)) for name in _ARRAYS},
    }


def parse_record(record: Mapping[str, Any], value_version: int, *, what: str) -> Labels:
    """Labels from one line of a log of ``value_version``.

    Raises:
        SchemaVersionError: if a newer version wrote it.
        CorruptDataError: if it is not what :func:`to_record` makes.
    """
    try:
        if record["schema_version"] > LABEL_SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{what} has labels of schema version {record['schema_version']}; this code supports versions up to "
                f"{LABEL_SCHEMA_VERSION}. Update viva-recap"
            )
        if record["value_version"] != value_version:
            raise ValueError(f"value_version is {record['value_version']}; expected {value_version}")
        return Labels(
            key=LabelKey(parse_episode_id(record["episode_id"]), record["value_version"]),
            target=str(record["target"]),
            **{name: _decode(record[name]) for name in _ARRAYS},
        )
    except SchemaVersionError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{what}: a line is no labels ({type(error).__name__}: {error}). {_REMEDY}") from None


def _version_folder(root: Path, value_version: int) -> Path:
    return root / f"v{value_version:08d}"


def _check_version(value_version: int) -> None:
    if value_version < 0:
        raise ConfigError(f"value_version is {value_version}; expected 0 or more")


def _encode(array: NDArray[np.float32]) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _decode(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
