"""The files of one episode: how they are laid out, written and read back. Knows nothing of commits.

::

    <episode id>/zarr.json              group; attributes: instruction, end, provenance, specification, digest of every file
    <episode id>/images/<camera>/       zarr.json, c.0.0.0.0 (one shard, one frame an inner chunk)
    <episode id>/<name>/                zarr.json, c.0 or c.0.0 (one chunk); one array a field of core.experience.Episode
    <episode id>/robot/                 of a robot's episode only: zarr.json with operators, checkpoint and digest of the limits
    <episode id>/robot/<name>/          as above; one array a field of core.robot_steps.RobotSteps
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from core.errors import CorruptDataError, SpecError
from core.experience import Episode
from core.robot_steps import RobotSteps
from core.windows import action_windows
from replay.durable import FileDigest, write_file
from replay.schema import (
    IMAGES_GROUP,
    METADATA_FILE,
    ROBOT_ARRAYS,
    ROBOT_GROUP,
    STEP_ARRAYS,
    ArraySchema,
    EpisodeInfo,
    ImageEncoding,
    array_metadata,
    bytes_codecs,
    chunk_file,
    episode_attributes,
    group_metadata,
    parse_info,
    to_json_bytes,
)
from replay.shard import CRC_BYTES, REMEDY, ShardReader, shard_metadata, shard_parts

_CAMERA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class StepArrays:
    """All arrays of an episode but its images; fields as in ``core.experience.Episode``."""

    state: NDArray[np.float32]
    time_s: NDArray[np.float64]
    executed_action: NDArray[np.float32]
    policy_action: NDArray[np.float32]
    supervisor_action: NDArray[np.float32]
    source: NDArray[np.int8]
    intervention_id: NDArray[np.int32]
    reward: NDArray[np.float32]
    policy_version: NDArray[np.int32]
    action_age_s: NDArray[np.float32]
    _padded: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.source)

    def padded_targets(self, horizon: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Imitation targets of the whole episode, then ``horizon`` rows of padding: rows t..t+horizon-1 are the window of t.

        Computed once, by ``core.windows.action_windows``, so that a window costs one slice.

        Returns:
            [T + horizon, A] float32 and [T + horizon] bool, true where padded or held.
        """
        if horizon not in self._padded:
            target, is_pad = action_windows(self, np.zeros(1, np.int64), self.num_steps + horizon)
            self._padded[horizon] = target[0], is_pad[0]
        return self._padded[horizon]


def write_episode(folder: Path, episode: Episode, *, writer: str, encoding: ImageEncoding, jpeg_quality: int) -> FileDigest:
    """Write all files of an episode into an empty folder; nothing is flushed yet.

    Returns:
        Digest of the group's metadata, which holds the digests of all other files: it vouches for the whole episode.

    Raises:
        SpecError: if a camera's name cannot be a folder name, or the annotations are not JSON-like.
    """
    what = f"episode {episode.episode_id}"
    files: dict[str, FileDigest] = {}

    def write(name: str, parts: list[Any] | Any) -> None:
        files[name] = write_file(folder / name, parts)

    (folder / IMAGES_GROUP).mkdir()
    write(f"{IMAGES_GROUP}/{METADATA_FILE}", [to_json_bytes(group_metadata({}), what=what)])
    for camera, frames in episode.images.items():
        if not _CAMERA_NAME.fullmatch(camera):
            raise SpecError(f"{what}: camera {camera!r} cannot be a folder name; expected letters, digits, '_', '-', '.'")
        name = f"{IMAGES_GROUP}/{camera}"
        (folder / name).mkdir()
        metadata = shard_metadata(frames.shape, encoding, jpeg_quality)
        write(f"{name}/{METADATA_FILE}", [to_json_bytes(metadata, what=what)])
        write(f"{name}/{chunk_file(frames.ndim)}", shard_parts(frames, encoding, jpeg_quality))
    arrays = [(name, getattr(episode, name), schema) for name, schema in STEP_ARRAYS.items()]
    robot = episode.robot
    if robot is not None:
        (folder / ROBOT_GROUP).mkdir()
        about = {"operators": list(robot.operators), "checkpoint": robot.checkpoint, "limits_digest": robot.limits_digest}
        write(f"{ROBOT_GROUP}/{METADATA_FILE}", [to_json_bytes(group_metadata(about), what=what)])
        arrays += [(f"{ROBOT_GROUP}/{name}", getattr(robot, name), schema) for name, schema in ROBOT_ARRAYS.items()]
    for name, array, schema in arrays:
        (folder / name).mkdir()
        names = ("time", schema.columns)[: array.ndim]
        write(
            f"{name}/{METADATA_FILE}",
            [to_json_bytes(array_metadata(array.shape, schema.dtype, bytes_codecs(schema.dtype), names), what=what)],
        )
        content = np.ascontiguousarray(array, np.dtype(schema.dtype).newbyteorder("<")).tobytes()
        write(f"{name}/{chunk_file(array.ndim)}", [content, google_crc32c.value(content).to_bytes(CRC_BYTES, "little")])
    attributes = episode_attributes(episode, encoding=encoding, writer=writer, files=files)
    return write_file(folder / METADATA_FILE, [to_json_bytes(group_metadata(attributes), what=what)])


def read_info(folder: Path, sha256: str) -> EpisodeInfo:
    """Read an episode's attributes.

    Args:
        folder: the episode's group.
        sha256: of its metadata, as the log says.

    Raises:
        CorruptDataError: if the metadata is missing or is not what was committed.
        SchemaVersionError: if a newer version wrote it.
    """
    what = f"episode {folder.name}"
    try:
        metadata = (folder / METADATA_FILE).read_bytes()
    except FileNotFoundError:
        raise CorruptDataError(f"{what}: {folder / METADATA_FILE} is missing though the log names it. {REMEDY}") from None
    found = hashlib.sha256(metadata).hexdigest()
    if found != sha256:
        raise CorruptDataError(f"{what}: {METADATA_FILE} has sha256 {found}; the log says {sha256}. {REMEDY}")
    return parse_info(metadata, what=what)


def read_steps(folder: Path, info: EpisodeInfo) -> StepArrays:
    """Read all arrays of an episode but its images.

    Raises:
        CorruptDataError: if one is missing, has a wrong length or fails its checksum.
    """
    arrays: dict[str, Any] = {
        name: _read_array(folder / name, schema, info, what=f"episode {info.episode_id}, array {name}")
        for name, schema in STEP_ARRAYS.items()
    }
    return StepArrays(**arrays)


def read_robot_steps(folder: Path, info: EpisodeInfo) -> RobotSteps | None:
    """Read what a robot's supervisor recorded; None where the episode is not a robot's, or older than these records.

    Raises:
        CorruptDataError: if an array is missing, has a wrong length or fails its checksum, or the metadata was altered.
    """
    name = f"{ROBOT_GROUP}/{METADATA_FILE}"
    if name not in info.files:
        return None
    what = f"episode {info.episode_id}, {name}"
    try:
        metadata = (folder / name).read_bytes()
        if hashlib.sha256(metadata).hexdigest() != info.files[name].sha256:
            raise CorruptDataError(f"{what} is not what was committed. {REMEDY}")
        about = json.loads(metadata)["attributes"]
    except FileNotFoundError:
        raise CorruptDataError(f"{what} is missing. {REMEDY}") from None
    arrays: dict[str, Any] = {
        array: _read_array(folder / ROBOT_GROUP / array, schema, info, what=f"episode {info.episode_id}, robot array {array}")
        for array, schema in ROBOT_ARRAYS.items()
    }
    return RobotSteps(
        **arrays,
        operators=tuple(about["operators"]),
        checkpoint=about["checkpoint"],
        limits_digest=about["limits_digest"],
    )


def open_shard(folder: Path, info: EpisodeInfo, camera: str) -> ShardReader:
    """Open the frames of one camera.

    Raises:
        CorruptDataError: if the shard is missing or its index is damaged.
    """
    shape = image_shapes(info)[camera]
    return ShardReader(
        folder / shard_file(info, camera), shape, info.image_encoding, what=f"episode {info.episode_id}, camera {camera}"
    )


def read_episode(folder: Path, info: EpisodeInfo) -> Episode:
    """Read a whole episode; every byte of its arrays is checked.

    Raises:
        CorruptDataError: naming the array, or the camera and frame, that is damaged.
    """
    steps = read_steps(folder, info)
    return Episode(
        images={camera: open_shard(folder, info, camera).read_all() for camera in image_shapes(info)},
        **{name: getattr(steps, name) for name in STEP_ARRAYS},
        instruction=info.instruction,
        end=info.end,
        env_spec=info.env_spec,
        provenance=info.provenance,
        episode_id=info.episode_id,
        robot=read_robot_steps(folder, info),
    )


def shard_file(info: EpisodeInfo, camera: str) -> str:
    """Path of a camera's shard within the episode's group."""
    return f"{IMAGES_GROUP}/{camera}/{chunk_file(len(image_shapes(info)[camera]))}"


def image_shapes(info: EpisodeInfo) -> Mapping[str, tuple[int, ...]]:
    """Camera name -> (T+1, H, W, 3)."""
    return {camera.name: (info.num_steps + 1, camera.height_px, camera.width_px, 3) for camera in info.env_spec.cameras}


def _read_array(folder: Path, schema: ArraySchema, info: EpisodeInfo, *, what: str) -> NDArray[Any]:
    shape = schema.shape(info.num_steps, info.env_spec)
    path = folder / chunk_file(len(shape))
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CorruptDataError(f"{what}: {path} is missing. {REMEDY}") from None
    dtype = np.dtype(schema.dtype).newbyteorder("<")
    expected = int(np.prod(shape)) * dtype.itemsize + CRC_BYTES
    if len(content) != expected:
        raise CorruptDataError(f"{what}: {path} has {len(content)} bytes; expected {expected}. {REMEDY}")
    data = content[:-CRC_BYTES]
    if google_crc32c.value(data).to_bytes(CRC_BYTES, "little") != content[-CRC_BYTES:]:
        raise CorruptDataError(f"{what}: {path} fails its checksum. {REMEDY}")
    return np.frombuffer(data, dtype).reshape(shape).astype(schema.dtype, copy=False)
