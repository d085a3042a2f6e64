"""Names the sizes: every model at every preset, how to assemble one, and how to bring one back from a checkpoint.

The only module that knows all models. ``tiny`` and ``5b`` are the same classes with other numbers. As a command it
prints how many parameters each has::

    python -m models.presets [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from numpy.typing import NDArray

from core.command import run_command
from core.errors import CheckpointError, ConfigError
from core.specs import EnvSpec
from models.codecs import LatentCodec, PatchCodec
from models.normalization import Normalization
from models.policy import Policy
from models.text import HashedText, TextEmbedder
from models.value import ValueModel
from models.value_config import AnyValueConfig, ValueKind, ValueModelConfig, value_model_config
from models.videovla import VideoVla
from models.videovla_config import VideoVlaConfig
from models.videovla_network import VideoVlaNetwork
from models.viva import Viva, VivaConfig, viva_config
from models.vlm_value import VlmValue, VlmValueConfig, VlmValueNetwork
from models.wvm import Wvm, WvmConfig
from models.wvm_network import ValueTransformer

__all__ = [
    "PRESETS",
    "build_policy",
    "build_text",
    "build_value_model",
    "fit_codec",
    "from_checkpoint",
    "value_model_config",
    "videovla_config",
    "viva_config",
]

PRESETS = ("tiny", "5b")


def videovla_config(preset: str) -> VideoVlaConfig:
    """VideoVLA's numbers.

    ``tiny``: 20 present, 20 future, 6 action and 12 text tokens, 1.6 M parameters. ``5b``: CogVideoX-5B's transformer
    (its ``config.json``) on 256 x 256 px, 49 frames as 13 latents, 226 text tokens, as the released VideoVLA uses it.

    Raises:
        ConfigError: for an unknown preset.
    """
    if preset == "tiny":
        return VideoVlaConfig()
    if preset == "5b":
        return VideoVlaConfig(
            image_height_px=256,
            image_width_px=256,
            codec="cogvideox_vae",
            latent_channels=16,
            latent_px=8,
            temporal_ratio=4,
            text="precomputed_t5",
            text_length=226,
            text_dim=4096,
            num_future_frames=48,
            future_frame_interval_steps=1,
            num_layers=42,
            num_attention_heads=48,
            attention_head_dim=64,
            time_embed_dim=512,
            patch_size=2,
            video_weight=1.0,
            denoise_steps=10,
        )
    raise _unknown(preset)


def fit_codec(config: VideoVlaConfig | VivaConfig | WvmConfig, frames: NDArray[np.uint8]) -> PatchCodec:
    """Fit the patch codec that ``config`` describes on uint8 frames [N, H, W, 3].

    Raises:
        ConfigError: if the configuration wants a pretrained codec.
    """
    if config.codec != PatchCodec.kind:
        raise ConfigError(f"codec {config.codec!r} is not fitted: load it with models.codecs (from_pretrained)")
    return PatchCodec.fit(frames, patch_px=config.latent_px, channels=config.latent_channels)


def build_text(config: VideoVlaConfig | AnyValueConfig) -> HashedText:
    """The text embedder that ``config`` describes, where it needs no weights.

    Raises:
        ConfigError: if the configuration wants precomputed embeddings.
    """
    if config.text != HashedText.kind:
        raise ConfigError(f"text {config.text!r} needs weights: make it with models.text.PrecomputedT5.compute or load")
    return HashedText(length=config.text_length, dim=config.text_dim)


def build_policy(
    config: VideoVlaConfig, env_spec: EnvSpec, normalization: Normalization, codec: LatentCodec, text: TextEmbedder | None = None
) -> VideoVla:
    """A policy with fresh weights; ``text`` is built from ``config`` where it can be."""
    return VideoVla(config, env_spec, normalization, codec, text or build_text(config))


def build_value_model(
    config: ValueModelConfig | AnyValueConfig,
    env_spec: EnvSpec,
    normalization: Normalization,
    codec: LatentCodec | None,
    text: TextEmbedder | None = None,
) -> ValueModel:
    """A value model with fresh weights; ``text`` is built from ``config`` where it can be.

    Args:
        config: of one model, or of an experiment's choice.
        env_spec: of the environment.
        normalization: fitted on its data.
        codec: as ``config`` describes it; None for a model that reads pixels (the VLM-style baseline).
        text: None: built from ``config``, where it needs no weights.

    Raises:
        ConfigError: if a codec or precomputed text is needed and not given.
        SpecError: if the parts do not fit together.
    """
    config = config.selected() if isinstance(config, ValueModelConfig) else config
    text = text or build_text(config)
    if isinstance(config, VlmValueConfig):
        return VlmValue(config, env_spec, normalization, text)
    if codec is None:
        raise ConfigError(f"a value model on latents needs its codec, {config.codec!r}; fit it with fit_codec or load it")
    model: type[Wvm] | type[Viva] = Wvm if isinstance(config, WvmConfig) else Viva
    return model(config, env_spec, normalization, codec, text)  # type: ignore[arg-type]


def from_checkpoint(tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> Policy | ValueModel:
    """Rebuild whatever was saved.

    Raises:
        CheckpointError: if the manifest names no known model, or the rest does not fit it.
    """
    models: dict[str, Any] = {model.model: model for model in (VideoVla, Viva, Wvm, VlmValue)}
    if manifest.get("model") not in models:
        raise CheckpointError(f"checkpoint of unknown model {manifest.get('model')!r}; known are {sorted(models)}")
    return models[manifest["model"]].from_checkpoint(tensors, manifest)


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """One row of the command's table."""

    model: str
    preset: str
    backbone: int
    """Parameters of the part that comes pretrained: the diffusers transformer, or SigLIP's image encoder."""
    total: int
    """With our own mappings; without codec and text encoder, which are frozen."""


def parameter_counts(action_dim: int = 7, state_dim: int = 8) -> list[ParameterCount]:
    """Count without allocating, so that the 5 billion take a second."""
    return [
        ParameterCount(model=model, preset=preset, backbone=_num_parameters(backbone), total=_num_parameters(network))
        for preset in PRESETS
        for model, (backbone, network) in meta_networks(preset, action_dim, state_dim).items()
    ]


def meta_networks(preset: str, action_dim: int = 7, state_dim: int = 8) -> dict[str, tuple[torch.nn.Module, torch.nn.Module]]:
    """Model -> the part that comes pretrained, and all that is trained; on the meta device: shapes without memory."""
    with torch.device("meta"):
        videovla = VideoVlaNetwork(videovla_config(preset), action_dim)
        return {VideoVla.model: (videovla.transformer, videovla)} | {
            kind.value: _value_networks(value_model_config(preset, kind).selected(), state_dim) for kind in ValueKind
        }


def _value_networks(config: AnyValueConfig, state_dim: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The part that comes pretrained, and all that is trained."""
    if isinstance(config, VlmValueConfig):
        network = VlmValueNetwork(config, num_cameras=1, state_dim=state_dim)
        return network.vision, network
    transformer = WanTransformer3DModel(**config.transformer_config())
    if isinstance(config, WvmConfig):
        return transformer, torch.nn.ModuleList([transformer, ValueTransformer(config, frames_per_latent=1)])
    return transformer, transformer


def main(arguments: list[str] | None = None) -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(prog="python -m models.presets", description="Parameter counts of every model and preset.")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    counts = parameter_counts()
    if parser.parse_args(arguments).json:
        print(json.dumps([asdict(count) for count in counts], indent=2))
        return
    print(f"{'model':<10} {'preset':<7} {'backbone':>14} {'total':>14}")
    for count in counts:
        print(f"{count.model:<10} {count.preset:<7} {count.backbone:>14,} {count.total:>14,}")


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _unknown(preset: str) -> ConfigError:
    return ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
