"""Signatures of checkpoints with OpenSSF's ``model-signing``: who published this. Needs the extra ``signing``.

A digest says that bytes are the right ones; a signature says who vouches for them, also to a robot whose store others can write
to. Signed is the stored manifest, whose digest is the checkpoint id and vouches for every byte: ``STORE/signatures/<id>.sig``, a
Sigstore bundle that the ``model_signing`` command line reads as well. Keys are elliptic (``openssl ecparam -name prime256v1
-genkey``); certificates and keyless signing are that package's own and not used here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.store import CheckpointStore
from core.durable import flush, full_disk_named, make_folder, rename, staging_name
from core.errors import CheckpointError, ConfigError


class SignatureError(CheckpointError):
    """A checkpoint is not signed by whom it should be."""


def signature_file(store: CheckpointStore, checkpoint_id: str) -> Path:
    """Where a checkpoint's signature is."""
    return store.root / "signatures" / f"{checkpoint_id}.sig"


def sign_checkpoint(store: CheckpointStore, checkpoint_id: str, private_key: Path) -> Path:
    """Sign a checkpoint of which every byte was read; an earlier signature is replaced.

    Args:
        store: that holds it.
        checkpoint_id: which.
        private_key: PEM file of an elliptic key without a password.

    Returns:
        The signature's file.

    Raises:
        CheckpointError: if the checkpoint is damaged.
        ConfigError: if the key cannot be used, or the extra is not installed.
        StorageFullError: if the disk is full; an earlier signature stands.
    """
    package = _package()
    store.verify(checkpoint_id)
    target = signature_file(store, checkpoint_id)
    with full_disk_named(f"the signature of {checkpoint_id[:12]}"):
        make_folder(target.parent)
        staged = staging_name(target)
        try:
            signer = package.signing.Config().use_elliptic_key_signer(private_key=private_key)
            signer.sign(store.manifest_file(checkpoint_id), staged)
            flush(staged)
            rename(staged, target)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise ConfigError(
                f"cannot sign with {private_key}: {error}; expected a PEM file of an elliptic private key"
            ) from None
        finally:
            staged.unlink(missing_ok=True)
    return target


def verify_signature(store: CheckpointStore, checkpoint_id: str, public_key: Path) -> None:
    """Refuse a checkpoint that the owner of a key did not sign.

    Raises:
        SignatureError: if there is no signature, or it is of another key or checkpoint.
        ConfigError: if the key's file is missing, or the extra is not installed.
    """
    package, file = _package(), signature_file(store, checkpoint_id)
    if not file.exists():
        raise SignatureError(f"checkpoint {checkpoint_id[:12]} is not signed; `sign` it, or ask whoever published it to")
    if not public_key.is_file():
        raise ConfigError(f"no public key at {public_key}; expected a PEM file")
    store.manifest(checkpoint_id)
    try:
        package.verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(
            store.manifest_file(checkpoint_id), file
        )
    except Exception as error:  # whatever the package or its parsers raise, the signature is not a valid one
        raise SignatureError(
            f"the signature of checkpoint {checkpoint_id[:12]} is not by the owner of {public_key}: {error}. Do not run it"
        ) from None


def _package() -> Any:
    try:
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise ConfigError(f"signatures need the package model-signing ({error}): pip install 'viva-recap[signing]'") from None
    return model_signing
