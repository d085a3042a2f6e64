"""Episodes on disk. Hop 4 of the tour: takes Episodes, returns their ids once they are durable, serves them to readers.

Differs from a replay buffer in that nothing is evicted or overwritten, and in that readers and writers share nothing but
files: any number of processes may read while others write.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.durable import full_disk_named, write_atomically
from core.errors import ConfigError, RecapError, SpecError
from core.experience import Episode
from core.ids import EpisodeId
from core.windows import WindowBatch, WindowSpec, clipped_indices
from replay.batch_buffers import BatchBuffers
from replay.episode_files import StepArrays, image_shapes, open_shard, read_episode, read_info, read_steps
from replay.episode_log import EpisodeLogs, LogEntry
from replay.episode_writer import EpisodeWriter, check_writer_name
from replay.schema import (
    EPISODES_FOLDER,
    METADATA_FILE,
    EpisodeInfo,
    ImageEncoding,
    parse_attributes,
    root_metadata,
    to_json_bytes,
)
from replay.shard import ShardReader

__all__ = ["EpisodeInfo", "EpisodeStore", "EpisodeStoreConfig", "ImageEncoding", "UnknownEpisodeError"]


class UnknownEpisodeError(RecapError, KeyError):
    """No committed episode has this id."""

    __str__ = Exception.__str__  # KeyError would put the message in quotes


@dataclass(frozen=True, kw_only=True)
class EpisodeStoreConfig:
    """How episodes are written, and how much a reader keeps open."""

    image_encoding: ImageEncoding = ImageEncoding.RAW
    jpeg_quality: int = 95
    """1 to 100; read only where images are stored as JPEG."""
    max_open_shards: int = 512
    """Memory maps kept by a reader: one a camera of an episode, one file descriptor each."""
    max_cached_episodes: int = 4096
    """Episodes whose small arrays a reader keeps in memory, some 15 kB each."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality is {self.jpeg_quality}; expected 1 to 100")
        for name in ("max_open_shards", "max_cached_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")


class EpisodeStore:
    """A folder of episodes.

    Consumes: Episodes. Produces: EpisodeIds, Episodes, WindowBatches. Waits for: the disk, in :meth:`append`.
    Invariant: an id is visible only after everything of its episode is on disk; what is visible never changes.

    Writing takes the lock of ``writer_name`` at the first :meth:`append`, so a store object that only reads may carry any name.

    Example::

        store = EpisodeStore(run / "replay", writer_name="worker-3")
        episode_id = store.append(episode)
        store.refresh()
        windows = store.windows([episode_id, episode_id], np.array([0, 5]), WindowSpec(image_offsets=(0, 6)))
    """

    def __init__(
        self,
        root: Path | str,
        writer_name: str = "w0",
        config: EpisodeStoreConfig = EpisodeStoreConfig(),
    ) -> None:
        """Open a store; makes an empty one where there is none.

        Raises:
            SchemaVersionError: if a newer version wrote it.
            CorruptDataError: if the store's metadata or a log is damaged.
        """
        self.root = Path(root)
        self._writer_name = check_writer_name(writer_name)
        self._config = config
        _open_root(self.root)
        self._logs = EpisodeLogs(self.root)
        self._reader = _Reader(self._logs, config)
        self._buffers = BatchBuffers()
        self._writer: EpisodeWriter | None = None
        self._write_lock = threading.Lock()
        self.refresh()

    def append(self, episode: Episode) -> EpisodeId:
        """Store an episode; returns once it is durable. An id that is stored already is not written again.

        Raises:
            StorageFullError: if the disk is full; nothing was committed.
            ConfigError: if another process writes under this store's ``writer_name``.
            SpecError: if the annotations of the provenance are not JSON-like.
        """
        with self._write_lock:
            writer = self._take_writer()
            self.refresh()
            if episode.episode_id not in self._logs.entries:
                writer.commit(episode, encoding=self._config.image_encoding, jpeg_quality=self._config.jpeg_quality)
                self.refresh()
        return episode.episode_id

    def refresh(self) -> None:
        """Take notice of what was committed since, by anyone.

        Raises:
            CorruptDataError: if a log is damaged.
        """
        self._logs.refresh()

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All committed episodes that were known at the last :meth:`refresh`.

        The order depends only on which they are: by name of the writer, then as committed.
        """
        return self._logs.episode_ids()

    def __len__(self) -> int:
        return len(self._logs.entries)

    def __contains__(self, episode_id: object) -> bool:
        return episode_id in self._logs.entries

    def info(self, episode_id: EpisodeId) -> EpisodeInfo:
        """What is known of an episode without reading its arrays.

        Raises:
            UnknownEpisodeError: if no such episode is committed.
            CorruptDataError: if its metadata is damaged.
        """
        return self._reader.info(episode_id)

    def steps(self, episode_id: EpisodeId) -> StepArrays:
        """All arrays of an episode but its images; cheap, and kept in memory.

        Raises:
            UnknownEpisodeError: if no such episode is committed.
            CorruptDataError: if one of them is damaged.
        """
        return self._reader.steps(episode_id)

    def read(self, episode_id: EpisodeId) -> Episode:
        """A whole episode, every array checked.

        Raises:
            UnknownEpisodeError: if no such episode is committed.
            CorruptDataError: naming the array, or the camera and frame, that is damaged.
        """
        return read_episode(self._reader.folder(episode_id), self.info(episode_id))

    def windows(
        self,
        ids: Sequence[EpisodeId],
        t: NDArray[np.int64],
        spec: WindowSpec,
    ) -> WindowBatch:
        """Cut windows out of many episodes; equal to ``core.windows.episode_windows`` of each.

        The memory of images is that of an earlier batch that nobody holds any more, where there is one.

        Args:
            ids: B episodes of one environment specification, in any order, with repetitions.
            t: [B], each in 0..T of its episode.
            spec: what to read.

        Raises:
            UnknownEpisodeError: if an episode is not committed.
            SpecError: if ``t`` is outside an episode, or the episodes' specifications differ.
            CorruptDataError: naming the array, or the camera and frame, that is damaged.
        """
        t = np.asarray(t, np.int64)
        infos = [self._reader.info(episode_id) for episode_id in ids]
        last = np.array([info.num_steps for info in infos], np.int64)
        _check_request(ids, infos, t, last)
        steps = [self._reader.steps(episode_id) for episode_id in ids]
        action, is_pad = _action_windows(steps, t.tolist(), spec.action_horizon)
        image_index = clipped_indices(t, spec.image_offsets, last).tolist()
        images = {
            camera: self._buffers.take((len(ids), len(spec.image_offsets), *frame_shape))
            for camera, (_, *frame_shape) in image_shapes(infos[0]).items()
        }
        for camera, out in images.items():
            for episode_id, index, row in zip(ids, image_index, out, strict=True):
                self._reader.shard(episode_id, camera).read_into(index, row)
        state_index = clipped_indices(t, spec.state_offsets, last)
        state = np.concatenate([arrays.state.take(index, axis=0) for arrays, index in zip(steps, state_index, strict=True)])
        return WindowBatch(
            images=images,
            state=state.reshape(*state_index.shape, state.shape[1]),
            action=action,
            action_is_pad=is_pad,
            instruction=tuple(info.instruction for info in infos),
            episode_id=tuple(ids),
            t=t,
        )

    def close(self) -> None:
        """Release the writer's name and all files; the store may be used again afterwards."""
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        self._reader.forget()

    def _take_writer(self) -> EpisodeWriter:
        # A forked child inherits the lock's file but must not append to its parent's log: it has to ask for the lock itself.
        if self._writer is None or self._writer.is_inherited():
            with full_disk_named(f"the log of writer {self._writer_name!r}"):
                self._writer = EpisodeWriter(self.root, self._writer_name)
        return self._writer


class _Reader:
    """Keeps what was read lately: attributes of all episodes, small arrays of many, memory maps of some."""

    def __init__(self, logs: EpisodeLogs, config: EpisodeStoreConfig) -> None:
        self._logs = logs
        self.info = functools.cache(self._read_info)
        self.steps = functools.lru_cache(config.max_cached_episodes)(self._read_steps)
        self.shard = functools.lru_cache(config.max_open_shards)(self._open_shard)

    def folder(self, episode_id: EpisodeId) -> Path:
        return self._entry(episode_id).folder(self._logs.root)

    def forget(self) -> None:
        for cached in (self.info, self.steps, self.shard):
            cached.cache_clear()

    def _entry(self, episode_id: EpisodeId) -> LogEntry:
        try:
            return self._logs.entries[episode_id]
        except KeyError:
            raise UnknownEpisodeError(
                f"no episode {episode_id} among the {len(self._logs.entries)} that are committed in {self._logs.root}; "
                "call refresh() if it was written a moment ago"
            ) from None

    def _read_info(self, episode_id: EpisodeId) -> EpisodeInfo:
        entry = self._entry(episode_id)
        return read_info(entry.folder(self._logs.root), entry.group_sha256)

    def _read_steps(self, episode_id: EpisodeId) -> StepArrays:
        return read_steps(self.folder(episode_id), self.info(episode_id))

    def _open_shard(self, episode_id: EpisodeId, camera: str) -> ShardReader:
        return open_shard(self.folder(episode_id), self.info(episode_id), camera)


def _open_root(root: Path) -> None:
    metadata = root / EPISODES_FOLDER / METADATA_FILE
    if not metadata.exists():
        with full_disk_named(f"the metadata of {root}"):
            metadata.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(metadata, to_json_bytes(root_metadata(), what=str(metadata)))
    parse_attributes(metadata.read_bytes(), what=f"the replay store {root}")


def _check_request(ids: Sequence[EpisodeId], infos: list[EpisodeInfo], t: NDArray[np.int64], last: NDArray[np.int64]) -> None:
    if not infos or t.shape != (len(ids),):
        raise SpecError(
            f"windows of {len(ids)} episodes at t of shape {t.shape} were asked for; expected one t an episode, B >= 1"
        )
    if (outside := np.flatnonzero((t < 0) | (t > last))).size:
        b = outside[0]
        raise SpecError(f"t[{b}] is {t[b]}; episode {ids[b]} has observations 0..{last[b]}")
    first = infos[0]
    for info in infos:
        if info.env_spec_digest != first.env_spec_digest:
            raise SpecError(
                f"episodes {first.episode_id} and {info.episode_id} have environment specifications {first.env_spec_digest} "
                f"and {info.env_spec_digest}; a batch of windows needs one. Restrict the ids to one environment"
            )


def _action_windows(steps: list[StepArrays], t: list[int], horizon: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    padded = [arrays.padded_targets(horizon) for arrays in steps]
    action = np.concatenate([target[start : start + horizon] for (target, _), start in zip(padded, t, strict=True)])
    is_pad = np.concatenate([is_padded[start : start + horizon] for (_, is_padded), start in zip(padded, t, strict=True)])
    return action.reshape(len(t), horizon, action.shape[1]), is_pad.reshape(len(t), horizon)
