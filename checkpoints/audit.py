"""The audit log: who changed which pointer, when, why and on what evidence. Append-only; each line carries the hash of the last.

A line is canonical JSON with ``sha256`` over the rest of it, and ``previous_sha256``, the line before. To change a line unnoticed
one has to rewrite all that follow *and* every pointer that names them; to cut lines off, to know no pointer names them. Whoever
keeps the last hash elsewhere (``audit --head``) needs no pointer to notice.

A last line without its newline is a write that a power cut tore: it does not count and is cut off by the next writer.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints.canonical import canonical_json, sha256_of
from core.durable import flush, write_all
from core.errors import CorruptDataError

GENESIS = "0" * 64
"""``previous_sha256`` of the first line."""


class AuditError(CorruptDataError):
    """The audit log, or what it vouches for, was altered."""


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One change of one pointer."""

    number: int
    """1, 2, 3, ..."""
    t: str
    """When, UTC, ISO 8601."""
    by: str
    """Who."""
    action: str
    """What was asked for: ``promote``, ``rollback``, ``pin``, ``gate``, ``register``, ..."""
    pointer: str
    """Name of the pointer that was swapped, for example ``channel/robot:arm1``."""
    serial: int
    """The pointer's, after the swap."""
    value: dict[str, Any]
    """The pointer's, after the swap."""
    reason: str
    """Why, in the words of who did it."""
    evidence: tuple[str, ...]
    """SHA-256 of the evidence that it rests on."""
    previous_sha256: str

    @property
    def sha256(self) -> str:
        """Of this entry; with ``previous_sha256`` inside, of all before it too."""
        return sha256_of(canonical_json(self._record()))

    def to_line(self) -> bytes:
        """As it stands in the log."""
        return canonical_json({**self._record(), "sha256": self.sha256}) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> AuditEntry:
        """Inverse of :meth:`to_line`.

        Raises:
            ValueError: if the line was altered or is not one.
        """
        try:
            record = json.loads(line)
            claimed = record.pop("sha256")
            entry = cls(**{**record, "evidence": tuple(record["evidence"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not an audit entry ({type(error).__name__}: {error})") from None
        if entry.sha256 != claimed:
            raise ValueError(f"its hash is {entry.sha256[:12]}, but it says {str(claimed)[:12]}")
        return entry

    def _record(self) -> dict[str, Any]:
        return {**asdict(self), "evidence": list(self.evidence)}


@dataclass(frozen=True, kw_only=True)
class AuditHistory:
    """What stands in the log."""

    entries: tuple[AuditEntry, ...]
    num_bytes: int
    """Up to the end of the last whole line."""

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self.entries[-1].sha256 if self.entries else GENESIS


class AuditLog:
    """The log file. Reading needs no lock; appending is for whoever holds the ledger's."""

    def __init__(self, path: Path) -> None:
        """Nothing is created before something is appended."""
        self.path = path

    def read(self) -> AuditHistory:
        """All whole lines, their hashes and their chain checked.

        Raises:
            AuditError: naming the line that was altered, or before which one is missing.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return AuditHistory(entries=(), num_bytes=0)
        end = content.rfind(b"\n") + 1
        entries: list[AuditEntry] = []
        previous = GENESIS
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                entry = AuditEntry.of_line(line)
            except ValueError as error:
                raise AuditError(f"{self.path}, line {number} was altered: {error}. {_REMEDY}") from None
            if (entry.number, entry.previous_sha256) != (number, previous):
                raise AuditError(
                    f"{self.path}, line {number} is entry {entry.number} after {entry.previous_sha256[:12]}; expected entry "
                    f"{number} after {previous[:12]}: lines were removed, added or reordered. {_REMEDY}"
                )
            entries.append(entry)
            previous = entry.sha256
        return AuditHistory(entries=tuple(entries), num_bytes=end)

    def append(self, history: AuditHistory, entry: AuditEntry) -> None:
        """Add an entry behind ``history``, cutting off what a power cut tore.

        The entry is on disk when this returns, and not there if it raises.
        """
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.ftruncate(descriptor, history.num_bytes)
            if is_new:
                flush(self.path.parent)
            try:
                write_all(descriptor, entry.to_line())
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, history.num_bytes)
                raise
        finally:
            os.close(descriptor)


_REMEDY = "Do not promote on it: restore the store from a copy, and ask who can write there"
