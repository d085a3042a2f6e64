"""Writing so that a power cut leaves the old or the new, never a mixture.

Beneath replay and checkpoints. Every change is staged under another name, forced to disk, renamed, and the folder's list of names
forced to disk. Only calls of ``os`` are used, one a step, so that a test can cut the power between any two of them
(tests/test_checkpoints_power_cut.py).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from core.errors import StorageFullError

_BLOCK_BYTES = 1 << 20


def flush(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and what is missing above it, so that the names survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)  # noqa: PTH102 one os call a step, see the module's docstring
    flush(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and force its bytes to disk; the caller renames it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, however many calls that takes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def copy_file(source: Path, path: Path) -> tuple[int, str]:
    """Copy into a new file and force it to disk.

    Returns:
        Size in bytes and SHA-256 (64 hex digits) of what was written.
    """
    sha256 = hashlib.sha256()
    num_bytes = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with source.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                write_all(descriptor, block)
                sha256.update(block)
                num_bytes += len(block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return num_bytes, sha256.hexdigest()


def rename(staged: Path, path: Path) -> None:
    """Give a staged file or folder its name; when this returns, the name is on disk."""
    os.rename(staged, path)  # noqa: PTH104 one os call a step, see the module's docstring
    flush(path.parent)


def staging_name(path: Path) -> Path:
    """A name beside ``path`` that nobody reads and no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def write_atomically(path: Path, content: bytes) -> None:
    """Create or replace a small file; readers see the old or the new content, never a mixture."""
    make_folder(path.parent)
    staged = staging_name(path)
    try:
        write_file(staged, content)
        rename(staged, path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def full_disk_named(what: str) -> Iterator[None]:
    """Turn the operating system's "no space left" into an error that says ``what`` was not stored.

    Raises:
        StorageFullError: for ENOSPC and for an exhausted quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, StorageFullError):
            raise StorageFullError(
                error.errno, f"disk full while storing {what}; nothing of it was committed. Free space and try again"
            ) from error
        raise
