"""The LeRobot data set format, versions 2.1 and 3.0: paths, ``info.json``, features, and what of ours goes where.

Source: huggingface/lerobot, ``src/lerobot/datasets`` (``utils.py``, ``dataset_metadata.py``, ``io_utils.py``) and its
``convert_dataset_v21_to_v30.py``. A frame of a data set is an observation *and the action taken on it*, so an episode of T steps
is T frames; our last observation, and all that LeRobot has no column for, is in ``meta/recap.parquet``, which LeRobot ignores
(see docs/adr/0019).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import CorruptDataError, SchemaVersionError, SpecError
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from replay.video_file import VideoCodec, stream_format

INFO_FILE = "meta/info.json"
STATS_FILE = "meta/stats.json"
TASKS_FILE = "meta/tasks.parquet"
EPISODES_FOLDER = "meta/episodes"
V21_TASKS_FILE = "meta/tasks.jsonl"
V21_EPISODES_FILE = "meta/episodes.jsonl"
V21_STATS_FILE = "meta/episodes_stats.jsonl"
RECAP_FILE = "meta/recap.parquet"
CHUNK_FILES = 1000
"""Files a folder; the format's default."""
IMAGE_PREFIX = "observation.images."
STATE = "observation.state"
ACTION = "action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
SOURCE = "recap.source"
VALUE = "recap.value"
ADVANTAGE = "recap.advantage"


class LeRobotVersion(enum.Enum):
    """What is written; both are read."""

    V21 = "v2.1"
    """One Parquet file and one video a camera for every episode."""
    V30 = "v3.0"
    """Many episodes a file."""


DATA_PATH: Mapping[LeRobotVersion, str] = {
    LeRobotVersion.V21: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    LeRobotVersion.V30: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATH: Mapping[LeRobotVersion, str] = {
    LeRobotVersion.V21: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    LeRobotVersion.V30: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}

_INDICES: Mapping[str, str] = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Every data set has these; they come last."""


def frames_per_s(spec: EnvSpec) -> int | float:
    """The control rate as the format wants it: a whole number where it is one."""
    rate = spec.action.control_hz
    return int(rate) if rate == int(rate) else rate


def features(spec: EnvSpec, codec: VideoCodec, *, has_labels: bool) -> dict[str, dict[str, Any]]:
    """``features`` of ``info.json``; the columns of the Parquet files are all of them but the videos, in this order."""
    found: dict[str, dict[str, Any]] = {}
    for camera in spec.cameras:
        stream = stream_format(codec, camera.height_px, camera.width_px)
        found[IMAGE_PREFIX + camera.name] = {
            "dtype": "video",
            "shape": [camera.height_px, camera.width_px, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": camera.height_px,
                "video.width": camera.width_px,
                "video.codec": stream.codec,
                "video.pix_fmt": stream.pixel_format,
                "video.is_depth_map": False,
                "video.fps": frames_per_s(spec),
                "video.channels": 3,
                "has_audio": False,
            },
        }
    if spec.state.dim:
        found[STATE] = {"dtype": "float32", "shape": [spec.state.dim], "names": list(spec.state.names)}
    found[ACTION] = {"dtype": "float32", "shape": [spec.action.dim], "names": list(spec.action.names)}
    single = {REWARD: "float32", DONE: "bool", SUCCESS: "bool", SOURCE: "int64"}
    single |= {VALUE: "float32", ADVANTAGE: "float32"} if has_labels else {}
    found |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in (single | dict(_INDICES)).items()}
    return found


def read_info(root: Path) -> tuple[dict[str, Any], LeRobotVersion]:
    """``info.json`` of a data set, and its version.

    Raises:
        CorruptDataError: if the file is missing, is not JSON or lacks a field.
        SchemaVersionError: if the version is none that is read here.
    """
    path = root / INFO_FILE
    try:
        info = json.loads(path.read_bytes())
        version, _, _ = info["codebase_version"], info["features"][ACTION], float(info["fps"])
    except FileNotFoundError:
        raise CorruptDataError(f"{root} is no LeRobot data set: {INFO_FILE} is missing") from None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptDataError(f"{path} cannot be read ({type(error).__name__}: {error}); fetch the data set again") from None
    for known in LeRobotVersion:
        if version == known.value:
            return info, known
    raise SchemaVersionError(
        f"{path}: codebase_version is {version!r}; expected one of {[known.value for known in LeRobotVersion]}. "
        "Convert it with the scripts that come with lerobot (lerobot.scripts.convert_dataset_*)"
    )


def member(root: Path, template: str, **fields: Any) -> Path:
    """A file of a data set; ``template`` comes from its ``info.json``.

    Raises:
        CorruptDataError: if the template cannot be filled in, or leads out of the data set.
    """
    try:
        path = root / template.format(**fields)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise CorruptDataError(f"{root / INFO_FILE}: the path {template!r} cannot be filled in ({error!r})") from None
    if not path.resolve().is_relative_to(root.resolve()):
        raise CorruptDataError(f"{root / INFO_FILE}: the path {template!r} leads to {path}, which is outside of the data set")
    return path


def camera_features(info: Mapping[str, Any]) -> dict[str, str]:
    """Feature -> camera name, of the colour cameras.

    Raises:
        SpecError: if two features give one name.
    """
    found: dict[str, str] = {}
    for key, feature in info["features"].items():
        details = feature.get("info") or {}
        if feature["dtype"] in ("video", "image") and not (details.get("is_depth_map") or details.get("video.is_depth_map")):
            name = key.removeprefix(IMAGE_PREFIX).removeprefix("observation.")
            if name in found.values():
                raise SpecError(f"features {list(found)} and {key} of {INFO_FILE} both give camera {name!r}")
            found[key] = name
    return found


def derived_spec(info: Mapping[str, Any], stats: Mapping[str, Any]) -> EnvSpec:
    """What can be known of a foreign data set's robot: names and sizes, no units; limits are the least and greatest actions.

    Raises:
        SpecError: if a picture's size cannot be told from its feature.
    """
    actions = stats.get(ACTION, {})
    dim = _dim(info["features"][ACTION])
    low = np.asarray(actions.get("min", [-1.0] * dim), float).reshape(-1).tolist()
    high = np.asarray(actions.get("max", [1.0] * dim), float).reshape(-1).tolist()
    state = info["features"].get(STATE)
    return EnvSpec(
        cameras=tuple(
            CameraSpec(name=name, height_px=size[0], width_px=size[1])
            for key, name in camera_features(info).items()
            for size in [_picture_size(key, info["features"][key])]
        ),
        state=StateSpec(names=_names(state, "state") if state else (), units=("unknown",) * (_dim(state) if state else 0)),
        action=ActionSpec(
            names=_names(info["features"][ACTION], "action"),
            units=("unknown",) * dim,
            low=tuple(low),
            high=tuple(high),
            control_hz=float(info["fps"]),
        ),
    )


def _dim(feature: Mapping[str, Any]) -> int:
    return int(np.prod(feature["shape"]))


def _names(feature: Mapping[str, Any], prefix: str) -> tuple[str, ...]:
    names = feature.get("names")
    if isinstance(names, dict):  # {"motors": [...]}
        names = [name for group in names.values() for name in group]
    if names is None or len(names) != _dim(feature):
        return tuple(f"{prefix}_{index}" for index in range(_dim(feature)))
    return tuple(str(name) for name in names)


def _picture_size(key: str, feature: Mapping[str, Any]) -> tuple[int, int]:
    shape = [int(side) for side in feature["shape"]]
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise SpecError(f"feature {key} of {INFO_FILE} has shape {shape}; expected [H, W, 3] or [3, H, W]")
    is_channel_first = shape[2] != 3 or (feature.get("names") or ["height"])[0] in ("channel", "channels", "c")
    return (shape[1], shape[2]) if is_channel_first else (shape[0], shape[1])
