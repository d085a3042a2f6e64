"""Canonical JSON: one text for one record, so that the digest of the text is the identity of the record.

Keys sorted, no spaces, UTF-8, no NaN: the subset of RFC 8785 that Python writes as it stands (numbers as ``repr`` has them).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from core.errors import CheckpointError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def canonical_json(record: Any) -> bytes:
    """The only text of a JSON-like record.

    Example:
        >>> canonical_json({"b": 1, "a": [0.5, None]})
        b'{"a":[0.5,null],"b":1}'

    Raises:
        ValueError: for NaN and infinities.
    """
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def sha256_of(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def parse_sha256(text: str) -> str:
    """Check that ``text`` is a SHA-256 in hex: it becomes a file name.

    Raises:
        CheckpointError: if it is anything else.
    """
    if not _SHA256.fullmatch(text):
        raise CheckpointError(f"not a SHA-256: {text!r}; expected 64 lower-case hex digits")
    return text


def read_canonical(path: Path, sha256: str, what: str) -> dict[str, Any]:
    """Read a record that is named by its digest.

    Args:
        path: the file.
        sha256: of its bytes.
        what: names the record in the message, for example ``"manifest of checkpoint 0f3c..."``.

    Raises:
        CheckpointError: if it is missing or altered.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{what} is missing ({path}); add it again or copy it from another store") from None
    found = sha256_of(content)
    if found != sha256:
        raise CheckpointError(
            f"{what} was altered: {path} has SHA-256 {found}, expected {sha256}. Copy it again, or add it again"
        )
    record = json.loads(content)
    if not isinstance(record, dict):
        raise CheckpointError(f"{what} holds {str(record)[:80]!r}; expected a JSON object")
    return record
