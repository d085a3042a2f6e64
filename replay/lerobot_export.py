"""Writes episodes as a LeRobot data set, version 3.0 or 2.1 (see ``lerobot_format.py``).

The data set appears under its name when it is complete, never before: it is written beside it and renamed. Labels are not part of
experience; their columns are written only where a value version is asked for.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.durable import full_disk_named
from core.errors import ConfigError
from core.experience import Episode
from core.ids import EpisodeId
from core.labels import Labels
from core.specs import EnvSpec, require_same_spec
from replay import lerobot_format as layout
from replay.durable import flush_tree
from replay.lerobot_extras import extras_row, write_extras
from replay.lerobot_format import LeRobotVersion
from replay.lerobot_stats import FeatureStats, aggregate, image_stats, vector_stats
from replay.schema import EpisodeInfo
from replay.video_file import VideoCodec, VideoWriter

_MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class LeRobotExportConfig:
    """How a data set is written."""

    version: LeRobotVersion = LeRobotVersion.V30
    codec: VideoCodec = VideoCodec.H264
    value_version: int | None = None
    """Of the labels to write as columns recap.value and recap.advantage; None: no labels."""
    robot_type: str | None = None
    """What ``info.json`` says of the robot."""
    data_file_mb: int = 100
    """Greatest size of a Parquet file, version 3.0."""
    video_file_mb: int = 200
    """Size at which the next video file is begun, version 3.0."""

    def __post_init__(self) -> None:
        for name in ("data_file_mb", "video_file_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")


class Episodes(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that is read."""

    def info(self, episode_id: EpisodeId) -> EpisodeInfo:
        """What is known without reading arrays."""
        ...

    def read(self, episode_id: EpisodeId) -> Episode:
        """A whole episode."""
        ...


def export_lerobot(
    episodes: Episodes,
    ids: Sequence[EpisodeId],
    target: Path,
    config: LeRobotExportConfig,
    *,
    get_labels: Callable[[EpisodeId], Labels] | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> None:
    """Write a data set.

    Args:
        episodes: where they are read.
        ids: which, in the order of the data set; all of one environment specification.
        target: the data set's folder; must not exist.
        config: how.
        get_labels: labels of an episode; needed exactly where ``config.value_version`` is given.
        on_episode: told (episodes written, episodes in all).

    Raises:
        ConfigError: if ``target`` exists, there is nothing to write, or labels and value version do not go together.
        SpecError: if specifications differ.
        StorageFullError: if the disk is full; nothing is left behind.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a folder that does not")
    if not ids:
        raise ConfigError("no episode to export; check the selection with `python -m replay inspect STORE`")
    if (get_labels is None) != (config.value_version is None):
        raise ConfigError(f"value_version is {config.value_version}; labels can be exported of one, and only with their store")
    spec = episodes.info(ids[0]).env_spec
    for episode_id in ids:
        require_same_spec(episodes.info(episode_id).env_spec, spec, what=f"episode {episode_id}")
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # of an export that was interrupted
    try:
        with full_disk_named(f"the data set {target}"):
            staging.mkdir(parents=True)
            with _WRITERS[config.version](staging, spec, config) as writer:
                for number, episode_id in enumerate(ids, start=1):
                    writer.add(episodes.read(episode_id), get_labels(episode_id) if get_labels else None)
                    if on_episode is not None:
                        on_episode(number, len(ids))
                writer.finish()
            flush_tree(staging)
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _DataSetWriter(ABC):
    """What both versions share: the rows of an episode, tasks, statistics, ``info.json``."""

    def __init__(self, root: Path, spec: EnvSpec, config: LeRobotExportConfig) -> None:
        self._root = root
        self._spec = spec
        self._config = config
        self._fps = layout.frames_per_s(spec)
        self._features = layout.features(spec, config.codec, has_labels=config.value_version is not None)
        self._schema = _schema(self._features)
        self._tasks: dict[str, int] = {}
        self._stats: list[dict[str, FeatureStats]] = []
        self._extras: list[dict[str, Any]] = []
        self._num_frames = 0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _DataSetWriter:
        self._open.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, episode: Episode, labels: Labels | None) -> None:
        """Write one more episode."""
        index, steps = len(self._stats), episode.num_steps
        task_index = self._tasks.setdefault(episode.instruction, len(self._tasks))
        columns = _columns(episode, labels)
        columns |= {
            "timestamp": (np.arange(steps) / self._fps).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, index),
            "index": self._num_frames + np.arange(steps),
            "task_index": np.full(steps, task_index),
        }
        frames = {layout.IMAGE_PREFIX + camera: images[:steps] for camera, images in episode.images.items()}
        has_quantiles = self._config.version is LeRobotVersion.V30
        stats = {key: image_stats(images, has_quantiles=has_quantiles) for key, images in frames.items()}
        stats |= {key: vector_stats(columns[key], has_quantiles=has_quantiles) for key in self._schema.names}
        self._write(index, _table(columns, self._schema), frames, episode.instruction, stats)
        self._stats.append(stats)
        self._extras.append(extras_row(index, episode))
        self._num_frames += steps

    def finish(self) -> None:
        """Write what is known only at the end."""
        self._finish()
        write_extras(self._root / layout.RECAP_FILE, self._extras, self._spec)
        num_episodes = len(self._stats)
        info = {
            "codebase_version": self._config.version.value,
            "robot_type": self._config.robot_type,
            "total_episodes": num_episodes,
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            **self._counts(),
            "fps": self._fps,
            "splits": {"train": f"0:{num_episodes}"},
            "data_path": layout.DATA_PATH[self._config.version],
            "video_path": layout.VIDEO_PATH[self._config.version],
            "features": self._features,
        }
        _write_json(self._root / layout.INFO_FILE, info)

    @abstractmethod
    def _write(
        self, index: int, table: pa.Table, frames: dict[str, NDArray[np.uint8]], task: str, stats: dict[str, FeatureStats]
    ) -> None:
        """Rows, pictures and metadata of one episode."""

    @abstractmethod
    def _finish(self) -> None:
        """Metadata of this version but ``info.json``."""

    @abstractmethod
    def _counts(self) -> dict[str, int]:
        """Fields of ``info.json`` that only this version has."""

    def _video(self, path: Path, key: str) -> VideoWriter:
        height_px, width_px, _ = self._features[key]["shape"]
        path.parent.mkdir(parents=True, exist_ok=True)
        return VideoWriter(path, height_px=height_px, width_px=width_px, fps=self._fps, codec=self._config.codec)


class _WriterV30(_DataSetWriter):
    """Many episodes a file; a row of ``meta/episodes`` says where an episode lies."""

    def __init__(self, root: Path, spec: EnvSpec, config: LeRobotExportConfig) -> None:
        super().__init__(root, spec, config)
        self._rows: list[dict[str, Any]] = []
        self._data: pq.ParquetWriter | None = None
        self._data_file = -1
        self._data_bytes = 0
        self._videos: dict[str, VideoWriter] = {}
        self._video_file: dict[str, int] = {}

    def _write(
        self, index: int, table: pa.Table, frames: dict[str, NDArray[np.uint8]], task: str, stats: dict[str, FeatureStats]
    ) -> None:
        if self._data is None or self._data_bytes + table.nbytes > self._config.data_file_mb * _MEGABYTE:
            self._next_data_file()
        assert self._data is not None
        self._data.write_table(table)  # one row group an episode
        self._data_bytes += table.nbytes
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [task],
            "length": len(table),
            "data/chunk_index": self._data_file // layout.CHUNK_FILES,
            "data/file_index": self._data_file % layout.CHUNK_FILES,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + len(table),
        }
        for key, images in frames.items():
            video = self._current_video(key)
            row |= {
                f"videos/{key}/chunk_index": self._video_file[key] // layout.CHUNK_FILES,
                f"videos/{key}/file_index": self._video_file[key] % layout.CHUNK_FILES,
                f"videos/{key}/from_timestamp": video.num_frames / self._fps,
                f"videos/{key}/to_timestamp": (video.num_frames + len(images)) / self._fps,
            }
            video.append(images)
        row |= {f"stats/{key}/{name}": value.tolist() for key, part in stats.items() for name, value in part.items()}
        self._rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})

    def _finish(self) -> None:
        if self._data is not None:
            self._data.close()
        for video in self._videos.values():
            video.close()
        path = self._root / layout.EPISODES_FOLDER / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._rows), path)
        _write_tasks(self._root / layout.TASKS_FILE, self._tasks)
        stats = {key: {name: v.tolist() for name, v in part.items()} for key, part in aggregate(self._stats).items()}
        _write_json(self._root / layout.STATS_FILE, stats)

    def _counts(self) -> dict[str, int]:
        return {
            "chunks_size": layout.CHUNK_FILES,
            "data_files_size_in_mb": self._config.data_file_mb,
            "video_files_size_in_mb": self._config.video_file_mb,
        }

    def _next_data_file(self) -> None:
        if self._data is not None:
            self._data.close()
        self._data_file += 1
        self._data_bytes = 0
        path = _file(self._root, layout.DATA_PATH[LeRobotVersion.V30], self._data_file)
        self._data = self._open.enter_context(pq.ParquetWriter(path, self._schema, compression="snappy"))

    def _current_video(self, key: str) -> VideoWriter:
        video = self._videos.get(key)
        # The encoder creates its file when it has seen some frames.
        if video is None or (video.path.exists() and video.path.stat().st_size > self._config.video_file_mb * _MEGABYTE):
            if video is not None:
                video.close()
            self._video_file[key] = self._video_file.get(key, -1) + 1
            path = _file(self._root, layout.VIDEO_PATH[LeRobotVersion.V30], self._video_file[key], video_key=key)
            self._videos[key] = self._open.enter_context(self._video(path, key))
        return self._videos[key]


class _WriterV21(_DataSetWriter):
    """One file an episode and camera; metadata as lines of JSON."""

    def _write(
        self, index: int, table: pa.Table, frames: dict[str, NDArray[np.uint8]], task: str, stats: dict[str, FeatureStats]
    ) -> None:
        place = {"episode_chunk": index // layout.CHUNK_FILES, "episode_index": index}
        path = self._root / layout.DATA_PATH[LeRobotVersion.V21].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        for key, images in frames.items():
            with self._video(self._root / layout.VIDEO_PATH[LeRobotVersion.V21].format(video_key=key, **place), key) as video:
                video.append(images)
        _append_json(self._root / layout.V21_EPISODES_FILE, {"episode_index": index, "tasks": [task], "length": len(table)})
        record = {key: {name: value.tolist() for name, value in part.items()} for key, part in stats.items()}
        _append_json(self._root / layout.V21_STATS_FILE, {"episode_index": index, "stats": record})

    def _finish(self) -> None:
        for task, index in self._tasks.items():
            _append_json(self._root / layout.V21_TASKS_FILE, {"task_index": index, "task": task})

    def _counts(self) -> dict[str, int]:
        return {
            "total_videos": len(self._stats) * len(self._spec.cameras),
            "total_chunks": (len(self._stats) - 1) // layout.CHUNK_FILES + 1,
            "chunks_size": layout.CHUNK_FILES,
        }


_WRITERS: dict[LeRobotVersion, type[_WriterV30] | type[_WriterV21]] = {
    LeRobotVersion.V30: _WriterV30,
    LeRobotVersion.V21: _WriterV21,
}


def _columns(episode: Episode, labels: Labels | None) -> dict[str, NDArray[Any]]:
    steps = episode.num_steps
    is_last = np.arange(steps) == steps - 1
    columns: dict[str, NDArray[Any]] = {
        layout.STATE: episode.state[:-1],
        layout.ACTION: episode.executed_action,
        layout.REWARD: episode.reward,
        layout.DONE: is_last,
        layout.SUCCESS: is_last & episode.is_success,
        layout.SOURCE: episode.source.astype(np.int64),
    }
    if labels is not None:
        columns |= {layout.VALUE: labels.value[:-1], layout.ADVANTAGE: labels.advantage}
    return columns


def _schema(features: dict[str, dict[str, Any]]) -> pa.Schema:
    """Scalars as themselves, vectors as lists of fixed size: what LeRobot makes of the features."""
    types = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    stored = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    return pa.schema(
        [
            (key, types[feature["dtype"]] if feature["shape"] == [1] else pa.list_(types[feature["dtype"]], feature["shape"][0]))
            for key, feature in stored.items()
        ]
    )


def _table(columns: dict[str, NDArray[Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for column in schema:
        values = np.ascontiguousarray(columns[column.name]).reshape(-1)
        if pa.types.is_fixed_size_list(column.type):
            flat = pa.array(values, column.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, column.type.list_size))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_tasks(path: Path, tasks: dict[str, int]) -> None:
    import pandas as pd  # LeRobot reads the tasks as the index of a pandas frame, which is what the file's metadata must say

    frame = pd.DataFrame({"task_index": list(tasks.values())}, index=pd.Index(list(tasks), dtype=object, name="task"))
    pq.write_table(pa.Table.from_pandas(frame), path)


def _file(root: Path, template: str, number: int, **fields: str) -> Path:
    place = {"chunk_index": number // layout.CHUNK_FILES, "file_index": number % layout.CHUNK_FILES}
    path = root / template.format(**place, **fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, record: Any) -> None:
    path.write_text(json.dumps(record, indent=4, ensure_ascii=False, allow_nan=False))


def _append_json(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
