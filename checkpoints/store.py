"""The content-addressed store: a checkpoint's name is the digest of its manifest, a file's the digest of its bytes.

Hop 9 of the tour ends here for whatever may reach a robot::

    STORE/blobs/sha256/<digest>    files' bytes
    STORE/manifests/<digest>.json  canonical JSON; the digest is the checkpoint id

Blobs first, the manifest last: a checkpoint exists exactly when its manifest does, and a manifest's digest vouches for every
byte under it. Nothing in the store is ever changed, so reading needs no lock.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from checkpoints.canonical import parse_sha256, read_canonical
from checkpoints.contract import Contract, Conventions
from checkpoints.directory import WEIGHTS_FILE, file_sha256, read_manifest
from checkpoints.manifest import CheckpointManifest, StoredFile, require_safe_name
from core.durable import copy_file, flush, full_disk_named, make_folder, rename, staging_name, write_atomically
from core.errors import CheckpointError, NonFiniteError

_SHORTEST_PREFIX = 6


class CheckpointStore:
    """Checkpoints by content. Any number of processes may add and read at once."""

    def __init__(self, root: Path) -> None:
        """Nothing is created before something is added."""
        self.root = Path(root)
        self._blobs = self.root / "blobs" / "sha256"
        self._manifests = self.root / "manifests"

    # -- adding --------------------------------------------------------------------------------------------------------

    def add(
        self,
        directory: Path,
        *,
        conventions: Conventions | None = None,
        training_run: str = "",
        parent: str = "",
        is_linked: bool = False,
    ) -> str:
        """Import a checkpoint directory; adding the same again changes nothing and gives the same id.

        Args:
            directory: as :func:`checkpoints.directory.write_checkpoint` writes it. A model card and hidden files, as in a
                download from a hub, are left out.
            conventions: of the robot it was made for, where its manifest does not say them.
            training_run: where it comes from.
            parent: id of the checkpoint it was trained from.
            is_linked: hard links instead of copies: at once and without space, on the same file system. A directory that is
                changed afterwards damages the store, which is noticed when it is next read.

        Returns:
            The checkpoint id.

        Raises:
            CheckpointError: if the directory is damaged, or holds anything but safetensors and JSON.
            NonFiniteError: if a weight is NaN or infinite.
            StorageFullError: if the disk is full; the checkpoint is then not in the store.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        found = [file for file in sorted(directory.iterdir()) if not _is_left_out(file)]
        for file in found:
            if not file.is_file() or file.is_symlink():
                raise CheckpointError(f"{file} is refused: a checkpoint holds plain files only; remove it, or save it again")
            require_safe_name(file.name)
        if parent:
            self.manifest(parent)
        with full_disk_named(f"checkpoint {directory}"):
            files = tuple(self._add_file(file, is_linked=is_linked) for file in found)
            self._require_believable(directory, manifest, files)
            record = CheckpointManifest(
                kind=str(manifest.get("kind")),
                family=str(manifest.get("model")),
                version=int(manifest.get("version", 0)),
                files=files,
                code_version=str(_recipe(manifest).get("software_version", "unknown")),
                training_run=training_run,
                parent=parent,
                contract=Contract.of_manifest(manifest, conventions),
            )
            content = record.to_bytes()
            path = self.manifest_file(record.checkpoint_id)
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
        return record.checkpoint_id

    def _require_believable(self, directory: Path, manifest: dict[str, object], files: tuple[StoredFile, ...]) -> None:
        """The bytes that are in the store now are the ones the directory's manifest vouches for, and finite numbers."""
        expected = manifest["weights"]
        found = next((file for file in files if file.name == WEIGHTS_FILE), None)
        if found is None:
            raise CheckpointError(f"damaged checkpoint {directory}: {WEIGHTS_FILE} is missing; restore or retrain it")
        if expected != {"bytes": found.num_bytes, "sha256": found.sha256}:
            raise CheckpointError(
                f"damaged checkpoint {directory}: {WEIGHTS_FILE} has {found.num_bytes} bytes, sha256 {found.sha256}; expected "
                f"{expected}. Copy it again or retrain it"
            )
        for file in files:
            if file.name.endswith(".safetensors"):
                _require_finite_tensors(self._blob(file.sha256), f"{directory / file.name}")

    def _add_file(self, source: Path, *, is_linked: bool) -> StoredFile:
        """A blob of this file's bytes. The digest is of what was stored, not of what was read before."""
        make_folder(self._blobs)
        staged = staging_name(self._blobs / source.name)
        try:
            if is_linked:
                try:
                    os.link(source, staged)
                except OSError as error:
                    raise CheckpointError(
                        f"cannot link {source} into {self.root} ({error.strerror}); add it without links"
                    ) from None
                flush(staged)
                num_bytes, sha256 = staged.stat().st_size, file_sha256(staged)
            else:
                num_bytes, sha256 = copy_file(source, staged)
            blob = self._blob(sha256)
            if blob.exists() and blob.stat().st_size == num_bytes and file_sha256(blob) == sha256:
                staged.unlink()
            else:
                rename(staged, blob)
        except (OSError, CheckpointError):
            staged.unlink(missing_ok=True)
            raise
        return StoredFile(name=source.name, num_bytes=num_bytes, sha256=sha256)

    # -- reading -------------------------------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        """All checkpoints, in no order that means anything."""
        return tuple(sorted(file.stem for file in self._manifests.glob("*.json") if not file.name.startswith(".")))

    def resolve(self, text: str) -> str:
        """A checkpoint id from how it begins (6 digits or more).

        Raises:
            CheckpointError: if none or several begin so.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", text):
            raise CheckpointError(
                f"not a checkpoint id: {text!r}; expected {_SHORTEST_PREFIX} to 64 lower-case hex digits, see `list`"
            )
        found = [name for name in self.ids() if name.startswith(text)]
        if len(found) != 1:
            which = f"{len(found)} checkpoints begin with it; give more digits" if found else "see `list`, or `add` it"
            raise CheckpointError(f"no single checkpoint {text!r} in {self.root}: {which}")
        return found[0]

    def manifest(self, checkpoint_id: str) -> CheckpointManifest:
        """A checkpoint's record, verified against its id.

        Raises:
            CheckpointError: if it is missing or altered.
        """
        path = self.manifest_file(checkpoint_id)
        return CheckpointManifest.from_json(read_canonical(path, checkpoint_id, f"manifest of checkpoint {checkpoint_id[:12]}"))

    def manifest_file(self, checkpoint_id: str) -> Path:
        """Where a checkpoint's record is, in canonical JSON."""
        return self._manifests / f"{parse_sha256(checkpoint_id)}.json"

    def verify(self, checkpoint_id: str) -> CheckpointManifest:
        """Read every byte of a checkpoint.

        Returns:
            Its record.

        Raises:
            CheckpointError: naming the file that is missing, half copied or altered.
        """
        record = self.manifest(checkpoint_id)
        for file in record.files:
            self._require_blob(file, checkpoint_id)
        return record

    def read_file(self, checkpoint_id: str, name: str) -> bytes:
        """One small file of a checkpoint, verified.

        Raises:
            CheckpointError: if the checkpoint has no such file, or it is damaged.
        """
        for file in self.manifest(checkpoint_id).files:
            if file.name == name:
                self._require_blob(file, checkpoint_id)
                return self._blob(file.sha256).read_bytes()
        raise CheckpointError(f"checkpoint {checkpoint_id[:12]} has no file {name!r}")

    def materialise(self, checkpoint_id: str, directory: Path) -> None:
        """Write a checkpoint out as the directory it was added from, verified; ``directory`` must not exist.

        Raises:
            CheckpointError: if the checkpoint is damaged, or ``directory`` exists.
            StorageFullError: if the disk is full; ``directory`` does not exist then.
        """
        record = self.manifest(checkpoint_id)
        if directory.exists():
            raise CheckpointError(f"{directory} exists already; checkpoints are immutable: choose another name")
        make_folder(directory.parent)
        staged = staging_name(directory)
        try:
            with full_disk_named(f"checkpoint {checkpoint_id[:12]} in {directory}"):
                make_folder(staged)
                for file in record.files:
                    found = copy_file(self._existing_blob(file, checkpoint_id), staged / file.name)
                    _require_same_bytes(found, file, checkpoint_id)
                flush(staged)
                rename(staged, directory)
        except (OSError, CheckpointError):
            shutil.rmtree(staged, ignore_errors=True)
            raise

    def leftovers(self) -> tuple[Path, ...]:
        """Staged files that a crash left, or that another process is writing now; no reader looks at them."""
        return tuple(sorted(self.root.rglob(".*.partial")))

    # -- blobs ---------------------------------------------------------------------------------------------------------

    def _blob(self, sha256: str) -> Path:
        return self._blobs / parse_sha256(sha256)

    def _existing_blob(self, file: StoredFile, checkpoint_id: str) -> Path:
        blob = self._blob(file.sha256)
        if not blob.is_file():
            raise CheckpointError(
                f"checkpoint {checkpoint_id[:12]} lacks {file.name} (blob {file.sha256} is missing); add it again, or copy it"
            )
        return blob

    def _require_blob(self, file: StoredFile, checkpoint_id: str) -> None:
        blob = self._existing_blob(file, checkpoint_id)
        _require_same_bytes((blob.stat().st_size, file_sha256(blob)), file, checkpoint_id)


def _is_left_out(file: Path) -> bool:
    return file.name.startswith(".") or file.name == "README.md"


def _require_same_bytes(found: tuple[int, str], file: StoredFile, checkpoint_id: str) -> None:
    if found != (file.num_bytes, file.sha256):
        raise CheckpointError(
            f"checkpoint {checkpoint_id[:12]} is damaged: {file.name} has {found[0]} bytes, sha256 {found[1]}; expected "
            f"{file.num_bytes} bytes, sha256 {file.sha256}. Copy it again, or add it again from where it was trained"
        )


def _require_finite_tensors(blob: Path, what: str) -> None:
    try:
        with safe_open(blob, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise NonFiniteError(f"refusing {what}: tensor {name!r} holds NaN or infinity; retrain it")
    except SafetensorError as error:
        raise CheckpointError(f"refusing {what}: it is not safetensors ({error}); pickles are never read, convert it") from None


def _recipe(manifest: dict[str, object]) -> dict[str, object]:
    extra = manifest.get("extra")
    recipe = extra.get("recipe") if isinstance(extra, dict) else None
    return recipe if isinstance(recipe, dict) else {}
