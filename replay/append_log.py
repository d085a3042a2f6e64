r"""Logs of checksummed JSON lines: the only thing that readers believe.

A line is ``<crc32c of the JSON, 8 hex digits> <JSON>\n``. One writer appends to a log; any number of readers follow it by
remembering how far they got. A last line without its newline is a write in progress, or one that a crash tore: readers
ignore it, its writer cuts it off before appending again. A *complete* line that fails its checksum is damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from core.durable import flush
from core.errors import CorruptDataError


def encode_line(record: Mapping[str, Any]) -> bytes:
    r"""One line of a log.

    Example:
        >>> encode_line({"a": 1})
        b'cff7d56a {"a":1}\n'
    """
    payload = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (google_crc32c.value(payload), payload)


def decode_line(line: bytes) -> dict[str, Any]:
    """Inverse of :func:`encode_line`.

    Raises:
        ValueError: if the checksum or the form is wrong.
    """
    checksum, _, payload = line.removesuffix(b"\n").partition(b" ")
    if checksum != b"%08x" % google_crc32c.value(payload):
        raise ValueError(f"checksum {checksum[:16]!r} does not match; the line holds {payload[:80]!r}")
    record = json.loads(payload)
    if not isinstance(record, dict):
        raise ValueError(f"the line holds {payload[:80]!r}; expected a JSON object")
    return record


@dataclass(frozen=True, kw_only=True)
class LogPart:
    """What stands in a log from some place on."""

    records: tuple[dict[str, Any], ...]
    end: int
    """Offset behind the last complete line: where to go on reading."""
    num_lines: int
    """Complete lines in this part, damaged ones included."""
    torn_bytes: int
    """Bytes behind the last complete line."""
    damage: tuple[str, ...]
    """One message a damaged line."""


def read_log(path: Path, start: int = 0, num_lines_before: int = 0) -> LogPart:
    """Read all complete lines from offset ``start`` on; damage is reported, not raised (see :func:`require_undamaged`)."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    end = content.rfind(b"\n") + 1
    records, damage = [], []
    lines = content[:end].split(b"\n")[:-1]
    for number, line in enumerate(lines, start=num_lines_before + 1):
        try:
            records.append(decode_line(line))
        except ValueError as error:
            damage.append(f"{path}, line {number}: {error}")
    return LogPart(
        records=tuple(records),
        end=start + end,
        num_lines=len(lines),
        torn_bytes=len(content) - end,
        damage=tuple(damage),
    )


def require_undamaged(part: LogPart, *, remedy: str) -> None:
    """Refuse a log with a damaged line.

    Raises:
        CorruptDataError: naming log, line and ``remedy``.
    """
    if part.damage:
        raise CorruptDataError(f"damaged log: {part.damage[0]}. {remedy}")


class LogWriter:
    """Appends to a log that nobody else appends to.

    Invariant: when :meth:`append` returns, the records are on disk; when it raises, the log is as before; when the machine
    stops in between, whole lines count and a torn one does not.
    """

    def __init__(self, path: Path) -> None:
        """Open or create; cuts off a line that a crash tore."""
        is_new = not path.exists()
        self._path = path
        self._file = path.open("ab", buffering=0)
        if is_new:
            flush(path.parent)
        torn_bytes = read_log(path).torn_bytes
        if torn_bytes:
            self._file.truncate(self._size() - torn_bytes)
            os.fsync(self._file.fileno())

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records and force them to disk; all of them or none.

        Raises:
            OSError: if that failed, for example because the disk is full.
        """
        content = b"".join(encode_line(record) for record in records)
        before = self._size()
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:]) or 0
            os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size
