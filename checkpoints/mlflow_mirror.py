"""Shows checkpoints and channels in an MLflow model registry, for whoever looks there. Needs the extra ``mlflow``.

One way: this project's store decides, the registry is a picture of it. Every checkpoint that a channel points to is a version of
one registered model, found again by its tag ``checkpoint_id``; channels are aliases (``robot:arm1`` is ``robot-arm1``, since
MLflow takes no colon). An alias that no channel stands for any more is left alone: it may be somebody else's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from checkpoints.promotion import Channel, Promotion
from core.errors import ConfigError

CHECKPOINT_TAG = "checkpoint_id"
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class MirroredAlias:
    """A channel as the registry shows it now."""

    alias: str
    checkpoint_id: str
    version: str
    """Of the registered model."""
    is_changed: bool


def connect(uri: str) -> Any:
    """An ``mlflow.MlflowClient`` of a server or a database.

    Raises:
        ConfigError: if the extra is not installed.
    """
    try:
        import mlflow
    except ImportError:
        raise ConfigError("mirroring to MLflow needs the package mlflow: pip install 'viva-recap[mlflow]'") from None
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def mirror_channels(promotion: Promotion, client: Any, model: str) -> tuple[MirroredAlias, ...]:
    """Make the registry's aliases equal to the channels; again: changes nothing.

    Args:
        promotion: of the store.
        client: of :func:`connect`.
        model: name of the registered model; made if there is none.

    Raises:
        ConfigError: if a robot's name is not one that MLflow takes.
    """
    channels = promotion.channels()
    aliases = {channel.name: _alias(channel) for channel in channels}
    if channels and not any(found.name == model for found in client.search_registered_models(f"name = '{model}'")):
        client.create_registered_model(model, description="Mirrored from a viva-recap checkpoint store, which decides.")
    # A search's versions do not carry their aliases with every backend; the model does.
    shown = dict(client.get_registered_model(model).aliases) if channels else {}
    versions = {found.tags.get(CHECKPOINT_TAG): found for found in client.search_model_versions(f"name = '{model}'")}
    mirrored = []
    for channel in channels:
        version = versions.get(channel.checkpoint_id)
        if version is None:
            version = versions[channel.checkpoint_id] = _add_version(promotion, client, model, channel.checkpoint_id)
        is_changed = str(shown.get(aliases[channel.name])) != str(version.version)
        if is_changed:
            client.set_registered_model_alias(model, aliases[channel.name], str(version.version))
        mirrored.append(
            MirroredAlias(
                alias=aliases[channel.name],
                checkpoint_id=channel.checkpoint_id,
                version=str(version.version),
                is_changed=is_changed,
            )
        )
    return tuple(mirrored)


def _add_version(promotion: Promotion, client: Any, model: str, checkpoint_id: str) -> Any:
    manifest = promotion.store.manifest(checkpoint_id)
    tags = {
        CHECKPOINT_TAG: checkpoint_id,
        "kind": manifest.kind,
        "family": manifest.family,
        "training_run": manifest.training_run,
        "parent": manifest.parent,
    }
    source = promotion.store.manifest_file(checkpoint_id).absolute().as_uri()
    return client.create_model_version(model, source=source, tags=tags)


def _alias(channel: Channel) -> str:
    """MLflow's name for a channel; one that could stand for two robots is refused."""
    alias = channel.name.replace(":", "-", 1)
    if not _ALIAS.fullmatch(alias):
        raise ConfigError(f"channel {channel.name!r} cannot be an MLflow alias: letters, digits, _ and - only; rename the robot")
    return alias
