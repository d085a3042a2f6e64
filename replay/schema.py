"""The format of a stored episode: names, types, attributes, schema version. See ``docs/data_format.md``.

Everything here is a pure function between records and JSON-like attributes; files are touched elsewhere.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from core.errors import CorruptDataError, SchemaVersionError, SpecError
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.ids import EpisodeId, parse_episode_id
from core.specs import EnvSpec
from replay.durable import FileDigest

SCHEMA_VERSION = 1
"""Raise it when a reader of the present version could not read, or would misread, what is written; keep a reader of the old."""

FORMAT = "viva-recap episodes"
EPISODES_FOLDER = "episodes"
"""The root of the Zarr hierarchy within a store: ``episodes/<writer>/<episode id>/``."""
LOG_FOLDER = "log"
LOG_SUFFIX = ".log"
STAGING_FOLDER = ".staging"
METADATA_FILE = "zarr.json"
IMAGES_GROUP = "images"
ROBOT_GROUP = "robot"
"""Only in episodes of a robot: a reader that does not know it reads the rest as it is, so it has no schema version."""


class ImageEncoding(enum.Enum):
    """How frames are stored."""

    RAW = "raw"
    """Exact; opens with any Zarr v3 reader; read at the speed of memory."""
    JPEG = "jpeg"
    """About a tenth of the size, not exact; other Zarr programs need ``replay.zarr_codec``."""


@dataclass(frozen=True)
class ArraySchema:
    """One small array of an episode, stored as an array of the same name."""

    dtype: str
    """NumPy's name; stored little-endian."""
    extra_rows: Literal[0, 1]
    """1 where there is one row an observation (T+1), 0 where there is one row a step (T)."""
    columns: Literal["state", "action", ""]
    """What the second axis is, if there is one."""

    def shape(self, num_steps: int, spec: EnvSpec) -> tuple[int, ...]:
        """Shape in an episode of T steps."""
        rows = num_steps + self.extra_rows
        width = {"state": (spec.state.dim,), "action": (spec.action.dim,), "": ()}[self.columns]
        return (rows, *width)


STEP_ARRAYS: Mapping[str, ArraySchema] = {
    "state": ArraySchema("float32", 1, "state"),
    "time_s": ArraySchema("float64", 1, ""),
    "executed_action": ArraySchema("float32", 0, "action"),
    "policy_action": ArraySchema("float32", 0, "action"),
    "supervisor_action": ArraySchema("float32", 0, "action"),
    "source": ArraySchema("int8", 0, ""),
    "intervention_id": ArraySchema("int32", 0, ""),
    "reward": ArraySchema("float32", 0, ""),
    "policy_version": ArraySchema("int32", 0, ""),
    "action_age_s": ArraySchema("float32", 0, ""),
}
"""All arrays of an episode but the images; the names are those of ``core.experience.Episode``."""

ROBOT_ARRAYS: Mapping[str, ArraySchema] = {
    "requested_action": ArraySchema("float32", 0, "action"),
    "clip_mask": ArraySchema("int32", 0, ""),
    "phase": ArraySchema("int8", 0, ""),
    "lease": ArraySchema("int32", 0, ""),
    "operator": ArraySchema("int16", 0, ""),
    "plan_age_s": ArraySchema("float32", 0, ""),
    "tick_late_s": ArraySchema("float32", 0, ""),
    "frame_age_s": ArraySchema("float32", 1, ""),
}
"""Arrays of the group ``robot`` of a robot's episode; the names are those of ``core.robot_steps.RobotSteps``."""


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """What is known of a stored episode without reading its arrays.

    Example:
        num_steps 30, end SUCCESS, instruction "pick coke can", num_human_steps 0, policy_version_min 4, policy_version_max 4.
    """

    episode_id: EpisodeId
    num_steps: int
    end: EpisodeEnd
    instruction: str
    provenance: Provenance
    env_spec: EnvSpec
    env_spec_digest: str
    policy_version_min: int
    """Of the steps in which a policy acted; -1 where none did."""
    policy_version_max: int
    num_human_steps: int
    image_encoding: ImageEncoding
    writer: str
    num_bytes: int
    """On disk, without the group's own metadata."""
    files: Mapping[str, FileDigest]
    """What each file below the group must hold, by its relative path; without the group's own metadata."""


def root_metadata() -> dict[str, Any]:
    """``zarr.json`` of the group that holds all episodes."""
    return group_metadata({"format": FORMAT, "schema_version": SCHEMA_VERSION})


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """``zarr.json`` of a group (Zarr v3)."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    codecs: list[dict[str, Any]],
    dimension_names: tuple[str, ...],
) -> dict[str, Any]:
    """``zarr.json`` of an array that is one chunk (or one shard) as a whole; its only key is ``c.0.0...``."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(dimension_names),
        "storage_transformers": [],
    }


def chunk_file(num_axes: int) -> str:
    """Name of the file of an array that is one chunk.

    Example:
        >>> chunk_file(2)
        'c.0.0'
    """
    return ".".join(["c", *["0"] * num_axes])


def bytes_codecs(dtype: str) -> list[dict[str, Any]]:
    """Little-endian numbers followed by their CRC-32C."""
    if np.dtype(dtype).itemsize == 1:
        return [{"name": "bytes"}, {"name": "crc32c"}]
    return [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def to_json_bytes(record: Mapping[str, Any], *, what: str) -> bytes:
    """JSON text of a metadata file.

    Raises:
        SpecError: if the record holds something that JSON has no word for (an array, a NaN).
    """
    try:
        return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{what} cannot be stored as JSON: {error}. Annotations must be dicts, lists, strings, numbers, booleans or None"
        ) from None


def episode_attributes(
    episode: Episode, *, encoding: ImageEncoding, writer: str, files: Mapping[str, FileDigest]
) -> dict[str, Any]:
    """Attributes of an episode's group; :func:`parse_info` is the inverse."""
    provenance = asdict(episode.provenance)
    provenance["collection"] = episode.provenance.collection.value
    provenance["annotations"] = dict(episode.provenance.annotations)
    versions = episode.policy_version[episode.policy_version >= 0]
    return {
        "schema_version": SCHEMA_VERSION,
        "episode_id": episode.episode_id,
        "num_steps": episode.num_steps,
        "end": episode.end.value,
        "instruction": episode.instruction,
        "provenance": provenance,
        "env_spec": episode.env_spec.to_json(),
        "env_spec_digest": episode.env_spec.digest,
        "policy_version_min": int(versions.min()) if versions.size else -1,
        "policy_version_max": int(versions.max()) if versions.size else -1,
        "num_human_steps": int(np.count_nonzero(episode.source == Source.HUMAN)),
        "image_encoding": encoding.value,
        "writer": writer,
        "files": {name: list(digest) for name, digest in files.items()},
    }


def parse_info(metadata: bytes, *, what: str) -> EpisodeInfo:
    """Read the ``zarr.json`` of an episode's group.

    Raises:
        SchemaVersionError: if a newer version wrote it.
        CorruptDataError: if it is not what :func:`episode_attributes` makes.
    """
    attributes = parse_attributes(metadata, what=what)
    try:
        return EpisodeInfo(
            episode_id=parse_episode_id(attributes["episode_id"]),
            num_steps=attributes["num_steps"],
            end=EpisodeEnd(attributes["end"]),
            instruction=attributes["instruction"],
            provenance=Provenance(
                **{**attributes["provenance"], "collection": Collection(attributes["provenance"]["collection"])}
            ),
            env_spec=EnvSpec.from_json(attributes["env_spec"]),
            env_spec_digest=attributes["env_spec_digest"],
            policy_version_min=attributes["policy_version_min"],
            policy_version_max=attributes["policy_version_max"],
            num_human_steps=attributes["num_human_steps"],
            image_encoding=ImageEncoding(attributes["image_encoding"]),
            writer=attributes["writer"],
            num_bytes=sum(num_bytes for num_bytes, _ in attributes["files"].values()),
            files={name: FileDigest(*digest) for name, digest in attributes["files"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{what}: its attributes cannot be read ({type(error).__name__}: {error})") from None


def parse_attributes(metadata: bytes, *, what: str) -> dict[str, Any]:
    """Attributes of a group, after a look at the schema version.

    Raises:
        SchemaVersionError: if a newer version wrote it.
        CorruptDataError: if this is no metadata of ours.
    """
    try:
        attributes = json.loads(metadata)["attributes"]
        version = attributes["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{what}: {METADATA_FILE} cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CorruptDataError(f"{what}: schema_version is {version!r}; expected an integer from 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{what} has schema version {version}; this code supports versions up to {SCHEMA_VERSION}. "
            "Update viva-recap, or open a store that this version wrote"
        )
    return attributes
