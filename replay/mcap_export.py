"""Writes one episode as an MCAP file, for Foxglove and other viewers of robot logs. Needs the extra ``mcap``.

Topics: ``/images/<camera>`` (foxglove.CompressedImage, JPEG), ``/state``, ``/action``, ``/step`` (source, reward, policy version)
and, where labels are given, ``/labels``. Messages are JSON with a JSON schema; times are the environment's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from core.durable import full_disk_named
from core.errors import ConfigError
from core.experience import Episode, Source
from core.labels import Labels
from replay.jpeg import encode_jpeg

_JPEG_QUALITY = 95
_IMAGE_SCHEMA = {
    "type": "object",
    "properties": {
        "timestamp": {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}},
        "frame_id": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": {"type": "string"},
    },
}
_RECORD_SCHEMA = {"type": "object", "additionalProperties": {"type": ["number", "string", "null"]}}


class Message(NamedTuple):
    """One thing that was known at one moment."""

    topic: str
    schema: str
    time_ns: int
    body: dict[str, Any]


def export_mcap(path: Path, episode: Episode, labels: Labels | None = None) -> None:
    """Write an episode.

    Args:
        path: of the file; must not exist.
        episode: what happened.
        labels: values and advantages, if wanted.

    Raises:
        ConfigError: if the extra is not installed, or ``path`` exists.
        StorageFullError: if the disk is full; nothing is left behind.
    """
    try:
        from mcap.writer import Writer
    except ImportError:
        raise ConfigError("exporting MCAP needs the package mcap: pip install 'viva-recap[mcap]'") from None
    if path.exists():
        raise ConfigError(f"{path} exists; name a file that does not")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with full_disk_named(str(path)), partial.open("wb") as file:
            writer = Writer(file)
            writer.start(profile="", library="viva-recap")
            schemas = {
                name: writer.register_schema(name=name, encoding="jsonschema", data=json.dumps(schema).encode())
                for name, schema in (("foxglove.CompressedImage", _IMAGE_SCHEMA), ("viva_recap.Record", _RECORD_SCHEMA))
            }
            channels: dict[str, int] = {}
            for message in episode_messages(episode, labels):
                if message.topic not in channels:
                    channels[message.topic] = writer.register_channel(
                        schema_id=schemas[message.schema], topic=message.topic, message_encoding="json"
                    )
                writer.add_message(
                    channel_id=channels[message.topic],
                    log_time=message.time_ns,
                    publish_time=message.time_ns,
                    data=json.dumps(message.body, allow_nan=False).encode(),
                )
            writer.add_metadata("episode", _facts(episode))
            writer.finish()
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def episode_messages(episode: Episode, labels: Labels | None = None) -> Iterator[Message]:
    """All of an episode, in the order of time."""
    spec = episode.env_spec
    for t in range(episode.num_steps + 1):
        time_ns = round(float(episode.time_s[t]) * 1e9)
        for camera, frames in episode.images.items():
            body = {
                "timestamp": {"sec": time_ns // 10**9, "nsec": time_ns % 10**9},
                "frame_id": camera,
                "data": base64.b64encode(encode_jpeg(frames[t], _JPEG_QUALITY)).decode(),
                "format": "jpeg",
            }
            yield Message(f"/images/{camera}", "foxglove.CompressedImage", time_ns, body)
        yield _record("/state", time_ns, dict(zip(spec.state.names, episode.state[t].tolist(), strict=True)))
        value = {} if labels is None else {"value": float(labels.value[t])}
        if t < episode.num_steps:
            yield _record("/action", time_ns, dict(zip(spec.action.names, episode.executed_action[t].tolist(), strict=True)))
            step = {
                "source": Source(int(episode.source[t])).name.lower(),
                "reward": float(episode.reward[t]),
                "policy_version": int(episode.policy_version[t]),
                "intervention_id": int(episode.intervention_id[t]),
            }
            yield _record("/step", time_ns, step)
            value |= {} if labels is None else {"advantage": float(labels.advantage[t])}
        if value:
            yield _record("/labels", time_ns, value)


def _record(topic: str, time_ns: int, body: dict[str, Any]) -> Message:
    return Message(topic, "viva_recap.Record", time_ns, body)


def _facts(episode: Episode) -> dict[str, str]:
    origin = episode.provenance
    return {
        "episode_id": episode.episode_id,
        "instruction": episode.instruction,
        "end": episode.end.value,
        "env": origin.env,
        "task": origin.task,
        "seed": str(origin.seed),
        "run": origin.run,
    }
