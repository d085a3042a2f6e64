"""The store's record of a checkpoint: which files it has, where it comes from, what it was made for. Its digest is its name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.canonical import canonical_json, parse_sha256, sha256_of
from checkpoints.contract import Contract
from core.errors import CheckpointError

STORE_FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.(?:safetensors|json)")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a checkpoint; its bytes are the blob of that digest."""

    name: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        require_safe_name(self.name)
        parse_sha256(self.sha256)


def require_safe_name(name: str) -> None:
    """Refuse a file that could run when it is loaded, or that would be written elsewhere.

    Raises:
        CheckpointError: if it is anything but a plain name that ends in .safetensors or .json.
    """
    if not _FILE_NAME.fullmatch(name):
        raise CheckpointError(
            f"file {name!r} is refused: a checkpoint holds .safetensors and .json files only. Pickles (.pt, .pth, .bin, .pkl) "
            "can run code when they are loaded: convert them to safetensors"
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """A checkpoint in the store."""

    kind: str
    """``policy`` or ``value``."""
    family: str
    """Model family, for example ``videovla``."""
    version: int
    """As its learner counted."""
    files: tuple[StoredFile, ...]
    """By name."""
    code_version: str
    """Of the software that made it."""
    training_run: str
    """Empty: unknown."""
    parent: str
    """Checkpoint id that it was trained from; empty: unknown or none."""
    contract: Contract

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def checkpoint_id(self) -> str:
        """SHA-256 of the record's canonical JSON."""
        return sha256_of(self.to_bytes())

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "files": [dataclasses.asdict(file) for file in self.files],
            "contract": self.contract.to_json(),
            "format_version": STORE_FORMAT_VERSION,
        }

    def to_bytes(self) -> bytes:
        """What is written, byte for byte."""
        return canonical_json(self.to_json())

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CheckpointManifest:
        """Rebuild from :meth:`to_json`.

        Raises:
            CheckpointError: if the record is not one, or of a newer format.
        """
        fields = dict(record)
        version = fields.pop("format_version", None)
        if version != STORE_FORMAT_VERSION:
            raise CheckpointError(f"a stored manifest has format {version}, this code reads {STORE_FORMAT_VERSION}; update it")
        try:
            return cls(
                **{
                    **fields,
                    "files": tuple(StoredFile(**file) for file in fields["files"]),
                    "contract": Contract.from_json(fields["contract"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"damaged manifest ({type(error).__name__}: {error}); add the checkpoint again") from None
