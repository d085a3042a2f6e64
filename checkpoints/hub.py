"""Pushes a checkpoint to the Hugging Face Hub: the files as they are, and a model card. Needs the package ``huggingface_hub``.

The repository gets ``model.safetensors``, ``manifest.json`` and ``README.md``; a tag with the beginning of the checkpoint id
marks the commit. Whoever downloads it adds it to a store of their own and gets the same weights digest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from checkpoints.manifest import CheckpointManifest
from checkpoints.store import CheckpointStore
from core.errors import ConfigError

_TAG_DIGITS = 12
_CARD = """---
library_name: viva-recap
pipeline_tag: robotics
tags: [robotics, {family}]
---
# {family} {kind}, version {version}

Checkpoint `{checkpoint_id}` of a viva-recap store.

| | |
|---|---|
| actions | {actions} |
| conventions | frame {frame}, rotation {rotation}, gripper {gripper} |
| control | {control_hz:g} Hz, chunks of {chunk_length} |
| cameras | {cameras} |
| instruction | {instruction_form} |
| normaliser | `{normalizer_digest}` |
| trained by | run {training_run}, code {code_version} |
| trained from | {parent} |

`python -m checkpoints add DIR` takes the downloaded folder. It was measured in simulation or on one robot only: gate it on yours.
"""


def connect() -> Any:
    """A ``huggingface_hub.HfApi``, with the token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ConfigError: if the package is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ConfigError("pushing to the Hub needs the package huggingface_hub: pip install 'viva-recap[hub]'") from None
    return HfApi()


def push_checkpoint(store: CheckpointStore, checkpoint_id: str, repository: str, api: Any, *, is_public: bool = False) -> str:
    """Upload a checkpoint, verified, as one commit.

    Args:
        store: that holds it.
        checkpoint_id: which.
        repository: ``OWNER/NAME``; made, private, if there is none.
        api: of :func:`connect`.
        is_public: whether a repository that is made here can be seen by everybody.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: if the checkpoint is damaged: nothing is uploaded.
        ConfigError: if ``repository`` is not ``OWNER/NAME``, or the Hub refuses or cannot be reached.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise ConfigError(f"repository is {repository!r}; expected OWNER/NAME")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        store.materialise(checkpoint_id, directory)
        manifest = store.manifest(checkpoint_id)
        (directory / "README.md").write_text(model_card(checkpoint_id, manifest))
        message = f"{manifest.family} {manifest.kind}, version {manifest.version}, checkpoint {checkpoint_id[:_TAG_DIGITS]}"
        try:
            api.create_repo(repository, private=not is_public, repo_type="model", exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=directory, commit_message=message, delete_patterns="*.safetensors"
            )
            api.create_tag(repository, tag=checkpoint_id[:_TAG_DIGITS], revision=commit.oid, exist_ok=True)
        except Exception as error:  # the client's own, its validator's and the network's have no root in common
            raise ConfigError(
                f"the Hub did not take {repository}: {' '.join(str(error).split())}. Is it reachable, may the token write there?"
            ) from error
    return str(commit.commit_url)


def model_card(checkpoint_id: str, manifest: CheckpointManifest) -> str:
    """README.md of the repository: what the checkpoint takes for granted, for people and for the Hub's search."""
    contract = manifest.contract
    action, conventions = contract.env_spec.action, contract.conventions
    return _CARD.format(
        family=manifest.family,
        kind=manifest.kind,
        version=manifest.version,
        checkpoint_id=checkpoint_id,
        actions=", ".join(f"{name} [{unit}]" for name, unit in zip(action.names, action.units, strict=True)),
        frame=conventions.frame,
        rotation=conventions.rotation,
        gripper=conventions.gripper,
        control_hz=action.control_hz,
        chunk_length=contract.chunk_length,
        cameras=", ".join(f"{camera.name} {camera.height_px} x {camera.width_px} px" for camera in contract.env_spec.cameras),
        instruction_form=contract.instruction_form,
        normalizer_digest=contract.normalizer_digest,
        training_run=manifest.training_run or "unknown",
        code_version=manifest.code_version,
        parent=f"`{manifest.parent}`" if manifest.parent else "nothing that is known",
    )
