"""Pointers that change, each change in the audit log: compare-and-swap under a lock, whole after a power cut.

A pointer is a small file with a serial that counts its swaps. A swap stages the new file, appends one line to the audit log, and
renames the file. The line is the commit: it holds the whole new pointer, so whoever takes the lock next finishes a swap that a
power cut interrupted behind it, and nothing remains of one that was interrupted before. No pointer changes without an entry.

Channels, pins, robots and gates are all pointers; nothing else in the store ever changes.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints.audit import AuditEntry, AuditError, AuditHistory, AuditLog
from checkpoints.canonical import canonical_json, read_canonical, sha256_of
from checkpoints.lock import locked
from core.durable import full_disk_named, make_folder, rename, staging_name, write_atomically, write_file
from core.errors import CheckpointError

_LOCK_TIMEOUT_S = 30.0
_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")


class StaleSerialError(CheckpointError):
    """Somebody else swapped the pointer first; nothing was changed."""


class UnnamedError(CheckpointError):
    """A change for which nobody stands, or without a reason."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What a pointer file holds."""

    name: str
    serial: int
    """How often it was swapped."""
    value: dict[str, Any]
    """What it points to: for a channel ``{"id": ..., "previous": ...}``."""
    by: str
    reason: str
    evidence: tuple[str, ...]
    t: str
    """When, UTC, ISO 8601."""
    entry_sha256: str
    """The audit entry of the swap."""

    @classmethod
    def of_entry(cls, entry: AuditEntry) -> Pointer:
        """The pointer that an entry put there."""
        return cls(
            name=entry.pointer,
            serial=entry.serial,
            value=entry.value,
            by=entry.by,
            reason=entry.reason,
            evidence=entry.evidence,
            t=entry.t,
            entry_sha256=entry.sha256,
        )

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        return canonical_json({**asdict(self), "evidence": list(self.evidence)}) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> Pointer:
        """Inverse of :meth:`to_bytes`.

        Raises:
            AuditError: if it is not one.
        """
        try:
            record = json.loads(content)
            return cls(**{**record, "evidence": tuple(record["evidence"])})
        except (ValueError, TypeError, KeyError) as error:
            raise AuditError(
                f"pointer {path} was altered ({type(error).__name__}: {error}); remove it, the next change restores it"
            ) from None


class Ledger:
    """All pointers of a store, and their history."""

    def __init__(self, root: Path, *, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Nothing is created before something is swapped.

        Args:
            root: of the store.
            now: the time in UTC; for tests.
        """
        self.root = Path(root)
        self._pointers = self.root / "pointers"
        self._evidence = self.root / "evidence"
        self._log = AuditLog(self.root / "audit.jsonl")
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> Pointer | None:
        """A pointer as it stands; None if it was never set. Takes no lock.

        Raises:
            AuditError: if the file is not a pointer.
        """
        path = self._path(name)
        try:
            return Pointer.from_bytes(path.read_bytes(), path)
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> tuple[str, ...]:
        """Pointers below a folder, for example ``channel``; sorted."""
        files = self._path(folder).with_suffix("").rglob("*.json")
        found = (str(file.relative_to(self._pointers).with_suffix("")) for file in files if not file.name.startswith("."))
        return tuple(sorted(name for name in found))

    def history(self, name: str | None = None) -> tuple[AuditEntry, ...]:
        """All entries, or those of one pointer, oldest first.

        Raises:
            AuditError: if the log was altered.
        """
        entries = self._log.read().entries
        return tuple(entry for entry in entries if name is None or entry.pointer == name)

    def verify(self, *, head: str = "") -> AuditHistory:
        """Check the log's chain, every pointer against it, and every piece of evidence that it names.

        Args:
            head: the hash of an entry that somebody remembers; the log must hold it.

        Raises:
            AuditError: naming what was altered.
            CheckpointError: if evidence is missing or altered.
        """
        with self._locked():
            history = self._recovered()
            by_hash = {entry.sha256: entry for entry in history.entries}
            if head and head not in by_hash:
                raise AuditError(
                    f"the audit log does not hold entry {head[:12]} that you remember: it was cut off or rewritten. "
                    "Restore the store from a copy, and ask who can write there"
                )
            newest = {entry.pointer: entry for entry in history.entries}
            for name in sorted(newest.keys() | set(self._all_names())):
                self._require_vouched(name, newest.get(name))
            for entry in history.entries:
                for sha256 in entry.evidence:
                    self.evidence(sha256)
        return history

    def _require_vouched(self, name: str, newest: AuditEntry | None) -> None:
        pointer = self.read(name)
        if pointer is None or newest is None or pointer != Pointer.of_entry(newest):
            has = "missing" if pointer is None else f"at serial {pointer.serial} with {_short(pointer.value)}"
            says = "no entry" if newest is None else f"serial {newest.serial} with {_short(newest.value)}"
            raise AuditError(
                f"pointer {name} is {has}, the audit log has {says}: one of them was altered. Ask who can write there; if "
                "the log is right, run `audit --repair`"
            )

    # -- swapping ------------------------------------------------------------------------------------------------------

    def swap(
        self,
        name: str,
        value: Mapping[str, Any],
        *,
        expected_serial: int,
        action: str,
        by: str,
        reason: str,
        evidence: Sequence[str] = (),
    ) -> Pointer:
        """Set a pointer if it is still the one that the decision was made on.

        Args:
            name: of the pointer.
            value: JSON-like.
            expected_serial: of the pointer when it was read; 0: it did not exist.
            action: for the audit log.
            by: who.
            reason: why.
            evidence: SHA-256 of evidence put in with :meth:`keep_evidence`.

        Returns:
            The new pointer; it is on disk.

        Raises:
            StaleSerialError: if somebody swapped it since.
            AuditError: if log and pointer contradict each other.
            StorageFullError: if the disk is full; nothing was changed.
            UnnamedError: if nobody, or no reason, is named.
        """
        if not by.strip() or not reason.strip():
            raise UnnamedError(
                f"{action} of {name} by {by!r} for the reason {reason!r}: say who does it (--by) and why (--reason)"
            )
        with self._locked(), full_disk_named(f"the new {name}"):
            history = self._recovered()
            present = self.read(name)
            serial = present.serial if present else 0
            newest = next((entry for entry in reversed(history.entries) if entry.pointer == name), None)
            if (newest.serial if newest else 0) != serial:
                self._require_vouched(name, newest)
            if serial != expected_serial:
                what = f"{_short(present.value)} by {present.by} ({present.reason})" if present else "nothing"
                raise StaleSerialError(
                    f"{name} has serial {serial}, not {expected_serial}: it was changed to {what}; look again and decide"
                )
            entry = AuditEntry(
                number=len(history.entries) + 1,
                t=self._now().isoformat(timespec="milliseconds"),
                by=by,
                action=action,
                pointer=name,
                serial=serial + 1,
                value=json.loads(canonical_json(dict(value))),
                reason=reason,
                evidence=tuple(evidence),
                previous_sha256=history.head,
            )
            pointer = Pointer.of_entry(entry)
            self._commit(history, entry, pointer)
        return pointer

    def _commit(self, history: AuditHistory, entry: AuditEntry, pointer: Pointer) -> None:
        path = self._path(pointer.name)
        make_folder(path.parent)
        staged = staging_name(path)
        try:
            write_file(staged, pointer.to_bytes())  # first: a disk that is full is noticed before the commit
            self._log.append(history, entry)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        rename(staged, path)

    def repair(self) -> AuditHistory:
        """Write every pointer as the audit log has it last; the log must be whole.

        Raises:
            AuditError: if the log was altered.
        """
        with self._locked():
            history = self._recovered()
            for name, entry in {entry.pointer: entry for entry in history.entries}.items():
                content = Pointer.of_entry(entry).to_bytes()
                path = self._path(name)
                if not path.exists() or path.read_bytes() != content:
                    write_atomically(path, content)
        return history

    def _recovered(self) -> AuditHistory:
        """The history, after finishing the swap that a power cut may have interrupted behind its commit. Under the lock."""
        history = self._log.read()
        if history.entries:
            last = history.entries[-1]
            pointer = self.read(last.pointer)
            if (pointer.serial if pointer else 0) == last.serial - 1:
                write_atomically(self._path(last.pointer), Pointer.of_entry(last).to_bytes())
        return history

    # -- evidence ------------------------------------------------------------------------------------------------------

    def keep_evidence(self, record: Mapping[str, Any]) -> str:
        """Store a piece of evidence; returns its SHA-256. It counts once an entry names it.

        Raises:
            StorageFullError: if the disk is full.
        """
        content = canonical_json(dict(record))
        sha256 = sha256_of(content)
        path = self._evidence / f"{sha256}.json"
        if not path.exists() or path.read_bytes() != content:
            with full_disk_named("evidence"):
                write_atomically(path, content)
        return sha256

    def evidence(self, sha256: str) -> dict[str, Any]:
        """A piece of evidence, verified.

        Raises:
            CheckpointError: if it is missing or altered.
        """
        return read_canonical(self._evidence / f"{sha256}.json", sha256, f"evidence {sha256[:12]}")

    # -- files ---------------------------------------------------------------------------------------------------------

    def _all_names(self) -> Iterator[str]:
        for folder in sorted(self._pointers.glob("*")):
            yield from self.names(folder.name)

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if not all(_NAME_PART.fullmatch(part) for part in parts):
            raise CheckpointError(f"not the name of a pointer: {name!r}; letters, digits, _ . : - only")
        return self._pointers.joinpath(*parts[:-1], f"{parts[-1]}.json")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.root / ".lock", timeout_s=_LOCK_TIMEOUT_S, what=f"the checkpoint store {self.root}"):
            yield


def _short(value: Any) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 100 else f"{text[:97]}..."
