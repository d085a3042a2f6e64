"""``meta/recap.parquet``: what an episode of ours holds and a LeRobot data set has no place for. One row an episode.

With it an exported data set comes back as it was: the last observation, the arrays of every step besides the executed action,
how the episode ended, where it comes from, what a robot's supervisor recorded. Images of the last observation are PNG.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import CorruptDataError, SchemaVersionError
from core.experience import Collection, Episode, EpisodeEnd, Provenance
from core.ids import parse_episode_id
from core.robot_steps import RobotSteps
from core.specs import EnvSpec
from replay.schema import ROBOT_ARRAYS, SCHEMA_VERSION, STEP_ARRAYS

_IN_DATA = ("executed_action", "source", "reward", "state")
"""These are columns of the data set itself; of the state, all rows but the last."""
_ARRAYS = tuple(name for name in STEP_ARRAYS if name not in _IN_DATA)
_SPEC_KEY = b"env_spec"
_VERSION_KEY = b"schema_version"
_FINAL_IMAGE = "final_image."
_ROBOT = "robot"
"""JSON of what is no array; null, or no column at all, where the episode is not a robot's. The arrays follow it, after a dot."""


def extras_row(index: int, episode: Episode) -> dict[str, Any]:
    """One row of the file."""
    provenance = {**vars(episode.provenance), "collection": episode.provenance.collection.value}
    provenance["annotations"] = dict(episode.provenance.annotations)
    row: dict[str, Any] = {
        "episode_index": index,
        "episode_id": episode.episode_id,
        "end": episode.end.value,
        "provenance": json.dumps(provenance),
        "final_state": episode.state[-1],
    }
    row |= {name: getattr(episode, name).reshape(-1) for name in _ARRAYS}
    if (robot := episode.robot) is not None:
        about = {"operators": robot.operators, "checkpoint": robot.checkpoint, "limits_digest": robot.limits_digest}
        row[_ROBOT] = json.dumps(about)
        row |= {f"{_ROBOT}.{name}": getattr(robot, name).reshape(-1) for name in ROBOT_ARRAYS}
    return row | {f"{_FINAL_IMAGE}{camera}": _png(frames[-1]) for camera, frames in episode.images.items()}


def write_extras(path: Path, rows: Sequence[dict[str, Any]], spec: EnvSpec) -> None:
    """Write the file."""
    types: dict[str, pa.DataType] = {"episode_index": pa.int64(), "final_state": pa.list_(pa.float32())}
    types |= {name: pa.list_(pa.from_numpy_dtype(np.dtype(STEP_ARRAYS[name].dtype))) for name in _ARRAYS}
    types |= {f"{_FINAL_IMAGE}{camera.name}": pa.binary() for camera in spec.cameras}
    types |= {_ROBOT: pa.string()}
    types |= {f"{_ROBOT}.{name}": pa.list_(pa.from_numpy_dtype(np.dtype(array.dtype))) for name, array in ROBOT_ARRAYS.items()}
    types = {"episode_id": pa.string(), "end": pa.string(), "provenance": pa.string()} | types
    metadata = {_SPEC_KEY: json.dumps(spec.to_json()).encode(), _VERSION_KEY: str(SCHEMA_VERSION).encode()}
    schema = pa.schema(list(types.items()), metadata=metadata)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


class Extras:
    """The file, read."""

    def __init__(self, path: Path) -> None:
        """Read all of it.

        Raises:
            CorruptDataError: if it is damaged.
            SchemaVersionError: if a newer version wrote it.
        """
        self._path = path
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            version = int(metadata[_VERSION_KEY])
            self.env_spec = EnvSpec.from_json(json.loads(metadata[_SPEC_KEY]))
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(
                f"{path} cannot be read ({type(error).__name__}: {error}); remove it to import without it"
            ) from None
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{path} has schema version {version}; this code supports versions up to {SCHEMA_VERSION}. Update viva-recap"
            )
        self._rows = {row["episode_index"]: row for row in _rows(table)}

    def restore(
        self,
        index: int,
        *,
        images: dict[str, NDArray[np.uint8]],
        state: NDArray[np.float32],
        action: NDArray[np.float32],
        source: NDArray[np.int8],
        reward: NDArray[np.float32],
        instruction: str,
    ) -> Episode:
        """An episode as it was exported.

        Args:
            index: of the episode.
            images: camera -> [T, H, W, 3]; the frame T is here.
            state: [T, S]; the row T is here.
            action: [T, A].
            source: [T].
            reward: [T].
            instruction: its task.

        Raises:
            CorruptDataError: if the file knows no such episode, or holds something else than an episode.
            SpecError: if the parts do not fit together.
        """
        try:
            row, spec, steps = self._rows[index], self.env_spec, len(action)
            arrays: dict[str, Any] = {
                name: np.asarray(row[name], STEP_ARRAYS[name].dtype).reshape(STEP_ARRAYS[name].shape(steps, spec))
                for name in _ARRAYS
            }
            provenance = json.loads(row["provenance"])
            return Episode(
                images={
                    camera: np.concatenate([frames, _from_png(row[f"{_FINAL_IMAGE}{camera}"])[None]])
                    for camera, frames in images.items()
                },
                state=np.concatenate([state, np.asarray(row["final_state"], np.float32).reshape(1, -1)]),
                executed_action=action,
                source=source,
                reward=reward,
                instruction=instruction,
                end=EpisodeEnd(row["end"]),
                env_spec=spec,
                provenance=Provenance(**{**provenance, "collection": Collection(provenance["collection"])}),
                episode_id=parse_episode_id(row["episode_id"]),
                robot=_robot_steps(row, steps, spec),
                **arrays,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(
                f"{self._path}: episode {index} cannot be restored ({type(error).__name__}: {error}); "
                "remove the file to import without it"
            ) from None


def _robot_steps(row: dict[str, Any], steps: int, spec: EnvSpec) -> RobotSteps | None:
    if row.get(_ROBOT) is None:
        return None
    about = json.loads(row[_ROBOT])
    arrays: dict[str, Any] = {
        name: np.asarray(row[f"{_ROBOT}.{name}"], array.dtype).reshape(array.shape(steps, spec))
        for name, array in ROBOT_ARRAYS.items()
    }
    return RobotSteps(**{**about, "operators": tuple(about["operators"])}, **arrays)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()


def _png(frame: NDArray[np.uint8]) -> bytes:
    import cv2

    _, encoded = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def _from_png(encoded: bytes) -> NDArray[np.uint8]:
    import cv2

    frame: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None:
        raise ValueError("an image is no PNG")
    decoded: NDArray[np.uint8] = frame
    return decoded
