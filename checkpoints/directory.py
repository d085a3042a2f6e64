"""One checkpoint = one immutable directory: ``model.safetensors`` and ``manifest.json``, nothing that can run.

Hop 9 of the tour. Written to a staging name, flushed to disk, renamed; the manifest carries the size and SHA-256 of the
weights, so a half-written, half-copied or altered checkpoint is refused before a tensor is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from core.durable import flush
from core.errors import CheckpointError, NonFiniteError, StorageFullError

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> None:
    """Write a checkpoint; ``path`` exists afterwards exactly when everything is on disk.

    Args:
        path: must not exist yet: checkpoints are immutable.
        tensors: weights by name.
        manifest: JSON-like; ``kind``, ``model``, ``version`` and whatever the model needs to be rebuilt.

    Raises:
        CheckpointError: if ``path`` exists.
        NonFiniteError: if a weight is NaN or infinite: such a checkpoint would be refused by every reader.
        StorageFullError: if the disk is full; nothing is left behind.
    """
    path = Path(path)
    if path.exists():
        raise CheckpointError(f"{path} exists already; checkpoints are immutable: choose another name")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"refusing to write {path}: tensor {name!r} holds NaN or infinity")
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        staging.mkdir(parents=True)
        weights = staging / WEIGHTS_FILE
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights)
        record = {
            **manifest,
            "format_version": FORMAT_VERSION,
            "weights": {"bytes": weights.stat().st_size, "sha256": file_sha256(weights)},
        }
        (staging / MANIFEST_FILE).write_text(json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")
        for file in (weights, staging / MANIFEST_FILE, staging):
            flush(file)
        staging.rename(path)
        flush(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(
                errno.ENOSPC, f"disk full while writing checkpoint {path}; nothing was published. Free space and resume"
            ) from error
        raise
    except SafetensorError as error:
        if "No space left" in str(error):
            raise StorageFullError(
                errno.ENOSPC, f"disk full while writing checkpoint {path}; nothing was published. Free space and resume"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest without its weights.

    Raises:
        CheckpointError: if there is none, it is damaged, or of a newer format.
    """
    file = Path(path) / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}: {MANIFEST_FILE} is missing; give a directory that holds one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"damaged checkpoint {path}: {MANIFEST_FILE} is not JSON ({error}); restore or retrain it"
        ) from None
    if not isinstance(manifest, dict) or "weights" not in manifest:
        raise CheckpointError(f"damaged checkpoint {path}: {MANIFEST_FILE} has no 'weights' record; restore or retrain it")
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format {manifest['format_version']}, this code reads up to {FORMAT_VERSION}; update it"
        )
    return manifest


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read and verify a checkpoint.

    Returns:
        Tensors by name, on the CPU, and the manifest.

    Raises:
        CheckpointError: if anything is missing or altered.
    """
    manifest = read_manifest(path)
    weights = Path(path) / WEIGHTS_FILE
    if not weights.exists():
        raise CheckpointError(f"damaged checkpoint {path}: {WEIGHTS_FILE} is missing; restore or retrain it")
    expected = manifest["weights"]
    found = {"bytes": weights.stat().st_size, "sha256": file_sha256(weights)}
    if found != {"bytes": expected["bytes"], "sha256": expected["sha256"]}:
        raise CheckpointError(
            f"damaged checkpoint {path}: {WEIGHTS_FILE} has {found['bytes']} bytes, sha256 {found['sha256']}; "
            f"expected {expected['bytes']} bytes, sha256 {expected['sha256']}. Copy it again or retrain it"
        )
    return load_file(weights), manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
