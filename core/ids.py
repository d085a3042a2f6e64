"""Identifiers: what they look like and how they are made."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import Any, NewType

EpisodeId = NewType("EpisodeId", str)
"""32 lower-case hex digits; unique over all machines and runs."""

_EPISODE_ID = re.compile(r"[0-9a-f]{32}")


def new_episode_id() -> EpisodeId:
    """Make a fresh random identifier.

    Example:
        >>> len(new_episode_id())
        32
    """
    return EpisodeId(uuid.uuid4().hex)


def parse_episode_id(text: str) -> EpisodeId:
    """Check that ``text`` is an episode identifier (it becomes a folder name).

    Example:
        >>> parse_episode_id("0" * 32) == "0" * 32
        True

    Raises:
        ValueError: if it is anything else.
    """
    if not _EPISODE_ID.fullmatch(text):
        raise ValueError(f"not an episode id: {text!r}; expected 32 lower-case hex digits")
    return EpisodeId(text)


def digest(record: Any) -> str:
    """Digest of a JSON-like record, independent of key order: the first 16 hex digits of SHA-256.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
