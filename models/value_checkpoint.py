"""What the checkpoints of all value models have in common: who made them, for which environment, with which frozen parts.

Hops 5 and 8 of the tour, when a value model is published or loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.errors import CheckpointError
from core.specs import EnvSpec
from models.codecs import LatentCodec, codec_from_tensors
from models.loading import tensors_under
from models.normalization import Normalization
from models.text import TextEmbedder, text_from_tensors


@dataclass(frozen=True, kw_only=True)
class ValueParts:
    """A value model but for its configuration and its network."""

    env_spec: EnvSpec
    normalization: Normalization
    codec: LatentCodec | None
    """None: the model reads pixels."""
    text: TextEmbedder
    version: int

    @property
    def required_codec(self) -> LatentCodec:
        """The codec of a model that reads latents."""
        if self.codec is None:
            raise CheckpointError("the checkpoint holds no codec, but its model reads latents; save the value model again")
        return self.codec


def value_to_checkpoint(
    model: str, config: Mapping[str, Any], parts: ValueParts, networks: Mapping[str, nn.Module]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and a manifest; codec and text embeddings included, so that a checkpoint stands alone.

    Args:
        model: its name in ``models.presets``.
        config: a JSON-like record.
        parts: all else but the weights.
        networks: prefix -> trained module.
    """
    text_tensors, text_record = parts.text.to_tensors()
    tensors = {f"{prefix}.{key}": value.detach() for prefix, net in networks.items() for key, value in net.state_dict().items()}
    tensors |= {f"text.{name}": tensor for name, tensor in text_tensors.items()}
    manifest = {
        "kind": "value",
        "model": model,
        "config": dict(config),
        "env_spec": parts.env_spec.to_json(),
        "normalization": parts.normalization.to_json(),
        "text": text_record,
        "version": parts.version,
        "created_by": "viva-recap",
        "extra": {},
    }
    if parts.codec is not None:
        codec_tensors, manifest["codec"] = parts.codec.to_tensors()
        tensors |= {f"codec.{name}": tensor for name, tensor in codec_tensors.items()}
    return tensors, manifest


def value_parts(tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any], *, who: str, has_codec: bool) -> ValueParts:
    """Rebuild all but configuration and network; the inverse of :func:`value_to_checkpoint`.

    Args:
        tensors: of the whole checkpoint.
        manifest: of the checkpoint.
        who: the model's name for messages.
        has_codec: whether the model reads latents.

    Raises:
        CheckpointError: if something is missing or damaged.
    """
    try:
        return ValueParts(
            env_spec=EnvSpec.from_json(manifest["env_spec"]),
            normalization=Normalization.from_json(manifest["normalization"]),
            codec=codec_from_tensors(tensors_under(tensors, "codec"), manifest["codec"]) if has_codec else None,
            text=text_from_tensors(tensors_under(tensors, "text"), manifest["text"]),
            version=int(manifest["version"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{who} manifest lacks {error}; it has {sorted(manifest)}. Save the value model again") from None


def manifest_config(manifest: Mapping[str, Any], *, who: str) -> Mapping[str, Any]:
    """The configuration's record.

    Raises:
        CheckpointError: if there is none.
    """
    if not isinstance(manifest.get("config"), Mapping):
        raise CheckpointError(f"{who} manifest lacks 'config'; it has {sorted(manifest)}. Save the value model again")
    config: Mapping[str, Any] = manifest["config"]
    return config
