"""Commits episodes under one writer name: staged, flushed, renamed, then announced by one line in this writer's log.

A crash at any point leaves a committed episode whole, or one of: files in staging (removed when this writer starts again), a
complete folder that no log names (replaced when the same id is appended again, else left), a torn log line (cut off).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from core.durable import flush, full_disk_named, write_atomically
from core.errors import ConfigError
from core.experience import Episode
from replay.append_log import LogWriter, read_log, require_undamaged
from replay.durable import flush_tree
from replay.episode_files import write_episode
from replay.schema import (
    EPISODES_FOLDER,
    LOG_FOLDER,
    LOG_SUFFIX,
    METADATA_FILE,
    STAGING_FOLDER,
    ImageEncoding,
    group_metadata,
    to_json_bytes,
)

_WRITER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_writer_name(name: str) -> str:
    """Refuse a name that is no good file name.

    Raises:
        ConfigError: if it is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``, the first a letter or digit.
    """
    if not _WRITER_NAME.fullmatch(name):
        raise ConfigError(
            f"writer_name {name!r} cannot be a file name; expected 1 to 64 letters, digits, '_', '.', '-', "
            "the first a letter or digit"
        )
    return name


class EpisodeWriter:
    """One writer of a store; holds the lock of its name until closed or collected.

    Invariant: a line in the log is written only after every file that it vouches for is on disk under its final name.
    """

    def __init__(self, root: Path, name: str) -> None:
        """Take the name's lock, cut off a torn log line, remove what an earlier life left in staging.

        Raises:
            ConfigError: if another process or store object writes under this name now.
            CorruptDataError: if this writer's log is damaged.
        """
        self.name = name
        self._process_id = os.getpid()
        log_folder = root / LOG_FOLDER
        log_folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(root, name)
        self._unlock = weakref.finalize(self, os.close, self._lock)
        self._log_path = log_folder / f"{name}{LOG_SUFFIX}"
        self._log = LogWriter(self._log_path)
        require_undamaged(read_log(self._log_path), remedy="Run `python -m replay verify`; restore the log from a copy")
        self._staging = root / STAGING_FOLDER / name
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        self._folder = root / EPISODES_FOLDER / name
        if not (self._folder / METADATA_FILE).exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / METADATA_FILE, to_json_bytes(group_metadata({}), what=f"writer {name}"))
            flush(self._folder.parent)

    def commit(self, episode: Episode, *, encoding: ImageEncoding, jpeg_quality: int) -> None:
        """Store an episode that no log names yet; it is durable and visible when this returns.

        Raises:
            StorageFullError: if the disk is full; the store is as before.
            SpecError: if the episode's annotations are not JSON-like.
        """
        staged = self._staging / episode.episode_id
        final = self._folder / episode.episode_id
        with full_disk_named(f"episode {episode.episode_id}"):
            try:
                staged.mkdir()
                digest = write_episode(staged, episode, writer=self.name, encoding=encoding, jpeg_quality=jpeg_quality)
                flush_tree(staged)
                # Under our lock, a folder of this id that no log names is what a crash of ours left behind.
                shutil.rmtree(final, ignore_errors=True)
                staged.rename(final)
                try:
                    flush(self._folder)
                    self._log.append([{"episode_id": episode.episode_id, "group_sha256": digest.sha256}])
                except BaseException:
                    shutil.rmtree(final, ignore_errors=True)
                    raise
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def is_inherited(self) -> bool:
        """Whether this object was made by the process that this one was forked from."""
        return os.getpid() != self._process_id

    def close(self) -> None:
        """Release the name."""
        self._log.close()
        self._unlock()


@contextlib.contextmanager
def hold_writer_name(root: Path, name: str) -> Iterator[None]:
    """Keep writers of a name away, without being one.

    Raises:
        ConfigError: if a process or store object writes under this name now.
    """
    descriptor = _lock(root, name)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(root: Path, name: str) -> int:
    path = root / LOG_FOLDER / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"writer_name {name!r} is in use by another process or store object (lock {path}); give each writer its own name"
        ) from None
    return descriptor
