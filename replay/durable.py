"""Writing an episode's many files, and forcing them to disk together.

What is written counts only after :func:`flush_tree` and the rename or log line that follows it (``core.durable``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from core.durable import flush

_BUFFER_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_FLUSH_THREADS = 16


class FileDigest(NamedTuple):
    """What a file must hold."""

    num_bytes: int
    sha256: str
    """64 hex digits."""


def write_file(path: Path, parts: Iterable[Any]) -> FileDigest:
    """Write a new file from buffers, one behind the other; not flushed to disk yet.

    Raises:
        FileExistsError: if ``path`` exists.
    """
    sha256 = hashlib.sha256()
    num_bytes = 0
    with path.open("xb", buffering=_BUFFER_BYTES) as file:
        for part in parts:
            file.write(part)
            sha256.update(part)
            num_bytes += memoryview(part).nbytes
    return FileDigest(num_bytes, sha256.hexdigest())


def file_digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    sha256 = hashlib.sha256()
    num_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            sha256.update(block)
            num_bytes += len(block)
    return FileDigest(num_bytes, sha256.hexdigest())


def flush_tree(folder: Path) -> None:
    """Force all files below a folder, and the folders, to disk.

    From many threads at once: the file system then commits its journal once for all of them instead of once a file (measured
    on ext4 on a busy disk with 40 small files: 7 ms instead of 100 ms).
    """
    paths = [Path(parent) / name for parent, _, names in os.walk(folder) for name in (".", *names)]
    with ThreadPoolExecutor(max_workers=_FLUSH_THREADS) as pool:
        for _ in pool.map(flush, paths):
            pass
