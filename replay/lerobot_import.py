"""Reads a LeRobot data set, version 3.0 or 2.1, as episodes (see ``lerobot_format.py``).

A data set that ``lerobot_export.py`` wrote comes back as it was (images as well as its codec keeps them). In any other, the last
frame has no observation after it: its action is left out, and an episode of F frames becomes one of F - 1 steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import ConfigError, CorruptDataError, SpecError
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.specs import EnvSpec
from replay import lerobot_format as layout
from replay.content_id import content_id
from replay.lerobot_extras import Extras
from replay.lerobot_format import LeRobotVersion
from replay.video_file import VideoReader


@dataclass(frozen=True, kw_only=True)
class LeRobotImportConfig:
    """What a foreign data set does not say of itself; one of our own says it all."""

    env: str = "lerobot"
    """Environment family of the episodes' provenance."""
    task: str = ""
    """Task of the provenance; empty: the data set's folder."""
    collection: Collection = Collection.DEMONSTRATION
    source: Source = Source.HUMAN
    """Who decided the actions."""
    end: EpisodeEnd = EpisodeEnd.SUCCESS
    """How episodes ended where there is no column next.success."""
    env_spec: EnvSpec | None = None
    """Units and limits that the data set lacks; None: units are "unknown", limits what occurs."""
    is_exact: bool = True
    """Whether meta/recap.parquet is used where there is one."""

    def __post_init__(self) -> None:
        if not self.env:
            raise ConfigError("env is empty; expected the name of an environment family, for example 'lerobot'")


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Where an episode lies."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, int]]
    """Feature -> video file, number of the first frame in it."""


class LeRobotDataSet:
    """A data set that is opened for reading.

    Consumes: a folder. Produces: Episodes. Waits for: the disk, the decoder.

    Example::

        for episode in LeRobotDataSet(folder).episodes():
            store.append(episode)
    """

    def __init__(self, root: Path, config: LeRobotImportConfig = LeRobotImportConfig()) -> None:
        """Read the metadata.

        Raises:
            CorruptDataError: if a file is missing or damaged.
            SchemaVersionError: if the format's version is none that is read here.
            SpecError: if ``config.env_spec`` does not fit the data.
        """
        self.root = root
        self._config = config
        self.info, self.version = layout.read_info(root)
        has_extras = config.is_exact and (root / layout.RECAP_FILE).exists()
        self._extras = Extras(root / layout.RECAP_FILE) if has_extras else None
        self._cameras = layout.camera_features(self.info)
        self.env_spec = self._extras.env_spec if self._extras else self._spec()
        self._tasks = self._read_tasks()
        self._spans = self._read_spans()
        self._table: tuple[Path, pa.Table] | None = None
        self._readers: dict[str, VideoReader] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def episodes(self) -> Iterator[Episode]:
        """All episodes, in the order of the data set.

        The same data gives the same id every time, so that importing twice stores nothing twice.

        Raises:
            CorruptDataError: naming the file that is missing or damaged.
            SpecError: if an episode's arrays do not fit the specification.
        """
        for span in self._spans:
            yield self._episode(span)

    def _episode(self, span: _Span) -> Episode:
        rows = self._rows(span)
        what = f"{span.data}, episode {span.index}"
        action = _matrix(rows, layout.ACTION, self.env_spec.action.dim, what)
        state = _matrix(rows, layout.STATE, self.env_spec.state.dim, what)
        images = {name: self._frames(span, key, rows) for key, name in self._cameras.items()}
        reward = _column(rows, layout.REWARD, np.float32, 0.0)
        task = self._task(rows, what)
        if self._extras is not None:
            source = _column(rows, layout.SOURCE, np.int8, self._config.source)
            return self._extras.restore(
                span.index, images=images, state=state, action=action, source=source, reward=reward, instruction=task
            )
        steps = len(rows) - 1
        if steps < 1:
            raise SpecError(f"{what} has {len(rows)} frames; expected at least two: an action needs the observation after it")
        return Episode.of_one_source(
            self._config.source,
            images=images,
            state=state,
            time_s=_column(rows, "timestamp", np.float64, 0.0),
            executed_action=action[:steps],
            reward=reward[:steps],
            instruction=task,
            end=self._end(rows),
            env_spec=self.env_spec,
            provenance=Provenance(
                env=self._config.env,
                task=self._config.task or self.root.resolve().name,
                seed=span.index,
                collection=self._config.collection,
                annotations={"lerobot_version": self.version.value, "lerobot_episode": span.index},
            ),
            episode_id=content_id(task, [action, state, *(images[name] for name in sorted(images))]),
        )

    def _spec(self) -> EnvSpec:
        derived = layout.derived_spec(self.info, self._read_stats())
        given = self._config.env_spec
        if given is None:
            return derived
        found = (sorted(camera.name for camera in derived.cameras), derived.state.dim, derived.action.dim)
        asked = (sorted(camera.name for camera in given.cameras), given.state.dim, given.action.dim)
        if found != asked or given.action.control_hz != derived.action.control_hz:
            raise SpecError(
                f"the specification given for {self.root} has cameras, state and action dimensions {asked} at "
                f"{given.action.control_hz} Hz; the data set has {found} at {derived.action.control_hz} Hz"
            )
        return given

    def _read_stats(self) -> dict[str, Any]:
        path = self.root / layout.STATS_FILE
        if not path.exists():
            return {}
        try:
            stats: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise CorruptDataError(f"{path} cannot be read ({error}); fetch the data set again") from None
        return stats

    def _read_tasks(self) -> dict[int, str]:
        if self.version is LeRobotVersion.V21:
            return {row["task_index"]: row["task"] for row in _json_lines(self.root / layout.V21_TASKS_FILE)}
        table = _read_table(self.root / layout.TASKS_FILE)
        names = [name for name in table.column_names if pa.types.is_string(table[name].type) or name == "task"]
        if not names or "task_index" not in table.column_names:
            raise CorruptDataError(f"{self.root / layout.TASKS_FILE} has columns {table.column_names}; expected task, task_index")
        return dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))

    def _read_spans(self) -> list[_Span]:
        videos = [key for key in self._cameras if self.info["features"][key]["dtype"] == "video"]
        try:
            if self.version is LeRobotVersion.V21:
                rows = _json_lines(self.root / layout.V21_EPISODES_FILE)
                return [self._span_v21(row, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]
            paths = sorted((self.root / layout.EPISODES_FOLDER).glob("*/*.parquet"))
            rows = [row for path in paths for row in _read_table(path).to_pylist()]
            spans = [self._span_v30(row, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CorruptDataError):
                raise
            raise CorruptDataError(
                f"{self.root}: the list of episodes cannot be read ({type(error).__name__}: {error}); fetch the data set again"
            ) from None
        if len(spans) != self.info.get("total_episodes", len(spans)):
            raise CorruptDataError(
                f"{self.root} lists {len(spans)} episodes; {layout.INFO_FILE} says {self.info['total_episodes']}. Fetch it again"
            )
        return spans

    def _span_v30(self, row: Mapping[str, Any], videos: list[str]) -> _Span:
        return _Span(
            index=row["episode_index"],
            length=row["length"],
            data=layout.member(
                self.root, self.info["data_path"], chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            ),
            videos={
                key: (
                    layout.member(
                        self.root,
                        self.info["video_path"],
                        video_key=key,
                        chunk_index=row[f"videos/{key}/chunk_index"],
                        file_index=row[f"videos/{key}/file_index"],
                    ),
                    round(row[f"videos/{key}/from_timestamp"] * self.info["fps"]),
                )
                for key in videos
            },
        )

    def _span_v21(self, row: Mapping[str, Any], videos: list[str]) -> _Span:
        index = int(row["episode_index"])
        place = {"episode_chunk": index // int(self.info["chunks_size"]), "episode_index": index}
        return _Span(
            index=index,
            length=row["length"],
            data=layout.member(self.root, self.info["data_path"], **place),
            videos={key: (layout.member(self.root, self.info["video_path"], video_key=key, **place), 0) for key in videos},
        )

    def _rows(self, span: _Span) -> pa.Table:
        if self._table is None or self._table[0] != span.data:  # episodes of a file lie one behind the other
            self._table = span.data, _read_table(span.data)
        table = self._table[1]
        missing = {layout.ACTION, "episode_index", "timestamp", "task_index"} - set(table.column_names)
        if missing:
            raise CorruptDataError(f"{span.data} lacks the columns {sorted(missing)}; it has {table.column_names}")
        is_ours = table["episode_index"].to_numpy() == span.index
        rows = table.filter(pa.array(is_ours))
        if len(rows) != span.length:
            raise CorruptDataError(
                f"{span.data} has {len(rows)} frames of episode {span.index}; the list of episodes says {span.length}"
            )
        return rows

    def _frames(self, span: _Span, key: str, rows: pa.Table) -> NDArray[np.uint8]:
        if key not in span.videos:
            return _stored_images(rows, key, str(span.data))
        path, start = span.videos[key]
        reader = self._readers.get(key)
        if reader is None or reader.path != path:
            reader = self._readers[key] = VideoReader(path)
        return reader.read(start, start + span.length)

    def _task(self, rows: pa.Table, what: str) -> str:
        index = rows["task_index"][0].as_py()
        if index not in self._tasks:
            raise CorruptDataError(f"{what} has task_index {index}; known are {sorted(self._tasks)}")
        return self._tasks[index]

    def _end(self, rows: pa.Table) -> EpisodeEnd:
        if layout.SUCCESS not in rows.column_names:
            return self._config.end
        return EpisodeEnd.SUCCESS if _column(rows, layout.SUCCESS, np.bool_, False).any() else EpisodeEnd.FAILURE


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise CorruptDataError(f"{path} is missing; fetch the data set again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(f"{path} is no Parquet file or is damaged ({error}); fetch the data set again") from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise CorruptDataError(f"{path} is missing; fetch the data set again") from None
    except ValueError as error:
        raise CorruptDataError(f"{path} cannot be read ({error}); fetch the data set again") from None


def _column(rows: pa.Table, name: str, dtype: Any, default: Any) -> NDArray[Any]:
    if name not in rows.column_names:
        return np.full(len(rows), default, dtype)
    values = rows[name].to_pylist()
    return np.array([value[0] if isinstance(value, list) else value for value in values], dtype)


def _matrix(rows: pa.Table, name: str, dim: int, what: str) -> NDArray[np.float32]:
    if dim == 0:
        return np.zeros((len(rows), 0), np.float32)
    if name not in rows.column_names:
        raise CorruptDataError(f"{what}: column {name} is missing; there are {rows.column_names}")
    try:
        return np.array(rows[name].to_pylist(), np.float32).reshape(len(rows), dim)
    except ValueError as error:
        raise SpecError(f"{what}: column {name} does not hold {dim} numbers a frame ({error})") from None


def _stored_images(rows: pa.Table, key: str, what: str) -> NDArray[np.uint8]:
    """Images that are kept in the table itself: {"bytes": PNG or JPEG, "path": ...} a frame."""
    import cv2

    frames = []
    for number, cell in enumerate(rows[key].to_pylist() if key in rows.column_names else [None] * len(rows)):
        content = (cell or {}).get("bytes")
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if content else None
        if frame is None:
            raise CorruptDataError(f"{what}: {key} of frame {number} holds no image; fetch the data set again")
        frames.append(np.asarray(frame, np.uint8))
    return np.stack(frames)
