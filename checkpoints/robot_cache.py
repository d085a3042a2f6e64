"""The checkpoints on a robot's own disk: pulled by digest, verified every time, the old ones removed."""

from __future__ import annotations

import shutil
from collections.abc import Set
from pathlib import Path

from checkpoints.canonical import read_canonical
from checkpoints.directory import file_sha256
from checkpoints.manifest import CheckpointManifest
from checkpoints.signing import verify_signature
from checkpoints.store import CheckpointStore
from core.durable import write_atomically
from core.errors import CheckpointError


class RobotCache:
    """A folder of checkpoint directories named by their ids, with each one's stored manifest beside it.

    Invariant: what :meth:`pull` returns has the bytes that its id vouches for, whether or not the store can be reached, and was
    signed when it was pulled, where a key is given.
    """

    def __init__(self, root: Path, store: CheckpointStore, public_key: Path | None = None) -> None:
        """Nothing is created before something is pulled. ``public_key``: of whoever signs; None: unsigned ones are taken."""
        self._root = root
        self._store = store
        self._public_key = public_key

    def pull(self, checkpoint_id: str) -> tuple[Path, CheckpointManifest]:
        """A checkpoint's directory and record, from here, or from the store if it is not here whole.

        Raises:
            CheckpointError: if the store's is damaged, or it is neither here nor there.
            SignatureError: if it is not signed by the owner of the key.
            StorageFullError: if the disk is full; what was here is untouched.
        """
        try:
            return self._local(checkpoint_id)
        except CheckpointError:
            pass
        if self._public_key is not None:
            verify_signature(self._store, checkpoint_id, self._public_key)
        directory = self._root / checkpoint_id
        shutil.rmtree(directory, ignore_errors=True)
        self._store.materialise(checkpoint_id, directory)
        write_atomically(self._record_file(checkpoint_id), self._store.manifest(checkpoint_id).to_bytes())
        return self._local(checkpoint_id)

    def keep_only(self, ids: Set[str]) -> None:
        """Remove everything else."""
        for path in self._root.iterdir():
            if path.stem not in ids:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def ids(self) -> tuple[str, ...]:
        """What is here."""
        return tuple(sorted(path.name for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")))

    def _local(self, checkpoint_id: str) -> tuple[Path, CheckpointManifest]:
        directory = self._root / checkpoint_id
        record = CheckpointManifest.from_json(
            read_canonical(self._record_file(checkpoint_id), checkpoint_id, f"the robot's record of {checkpoint_id[:12]}")
        )
        for file in record.files:
            path = directory / file.name
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise CheckpointError(
                    f"the robot's copy of {checkpoint_id[:12]} lacks {file.name}, or it was altered; pull it again"
                )
        return directory, record

    def _record_file(self, checkpoint_id: str) -> Path:
        return self._root / f"{checkpoint_id}.json"
