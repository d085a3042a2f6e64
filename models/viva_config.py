"""ViVa's numbers: the configuration and its presets.

Two things in ``tiny`` differ from the paper, because a small network that starts from random weights has to learn fast what
Wan2.2 already knows; ``5b`` has the released code's numbers. Measured on demonstrations of a pick task:
docs/adr/0009 and docs/results/recap_tiny.md.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import CheckpointError, ConfigError

BLACK_VIEW = "black"
"""Stands in ``VivaConfig.cameras`` for a view that is always black: what the released code shows where a camera is missing."""


class InferenceNoise(enum.Enum):
    """Where sampling starts."""

    FIXED = "fixed"
    """Gaussian noise, the same for every window, drawn from ``noise_seed``."""
    ZERO = "zero"
    """The mean of the noise."""


class Prediction(enum.Enum):
    """What the network's output means; the values are diffusers' names of prediction types."""

    FLOW = "flow_prediction"
    """The velocity eps - z0: the paper's, and what Wan's pretrained weights give."""
    SAMPLE = "sample"
    """The clean frame z0 itself; the velocity is then (z_tau - z0) / tau. A velocity contains the noise, which a small network
    must carry through its narrow hidden stream number by number; this form leaves it only what is worth knowing."""


@dataclass(frozen=True, kw_only=True)
class VivaConfig:
    """Everything needed to rebuild a Viva but its weights and statistics; the defaults are the ``tiny`` preset."""

    cameras: tuple[str, ...] = ()
    """Which, and in which order they become frames; empty: all of the environment's, in its order. The paper has three (left
    wrist, right wrist, head); one, two or more work alike, and :data:`BLACK_VIEW` fills the place of a missing one."""
    image_height_px: int = 128
    image_width_px: int = 160
    """Images of another size are letterboxed to this."""
    codec: str = "patch"
    """Kind of models.codecs."""
    latent_channels: int = 160
    latent_px: int = 32
    """Pixels a latent is wide and high."""
    text: str = "hashed"
    """Kind of models.text."""
    text_length: int = 12
    text_dim: int = 64

    future_offset_s: float = 2.0
    """K in seconds."""
    has_future_state: bool = True
    """Whether the future state is predicted beside the value; false is the paper's ablation."""
    has_state_input: bool = True
    """Whether the present state is read; false as well: the paper's value-only variant of a video generator."""

    num_layers: int = 4
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    ffn_dim: int = 512
    time_embed_dim: int = 64
    patch_height: int = 4
    patch_width: int = 1
    """Latents a token is high and wide."""

    prediction: Prediction = Prediction.SAMPLE
    """``tiny`` learns from nothing and uses SAMPLE; ``5b`` starts from Wan's weights and uses FLOW, as the paper."""
    tau_shift: float = 5.0
    """How far training times are moved towards noise: 1 is the paper's text (uniform), 5 the released code."""
    future_state_weight: float = 0.5
    """lambda_prop."""
    value_weight: float = 1.0
    """lambda_val."""

    denoise_steps: int = 1
    noise: InferenceNoise = InferenceNoise.ZERO
    noise_seed: int = 0
    num_noise_draws: int = 1
    """Values are the mean over this many starting points; with more than one, their spread is told as well."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "denoise_steps", "num_noise_draws", "future_offset_s", "tau_shift"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"viva {name} is {getattr(self, name)}; expected a positive number")
        if self.cameras and not set(self.cameras) - {BLACK_VIEW}:
            raise ConfigError(f"viva cameras are {list(self.cameras)}; expected at least one that sees something")
        for size, patch in ((self.image_height_px, self.patch_height), (self.image_width_px, self.patch_width)):
            if size % (self.latent_px * patch):
                raise ConfigError(
                    f"viva images are {self.image_height_px}x{self.image_width_px} px; expected multiples of "
                    f"{self.latent_px * self.patch_height}x{self.latent_px * self.patch_width} px (latent_px times the patch)"
                )
        if self.noise is InferenceNoise.ZERO and self.num_noise_draws > 1:
            raise ConfigError(f"viva noise is zero, which can be drawn once; num_noise_draws is {self.num_noise_draws}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.image_height_px, self.image_width_px

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.latent_channels, self.image_height_px // self.latent_px, self.image_width_px // self.latent_px

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of diffusers' ``WanTransformer3DModel``, as Wan2.2-TI2V-5B's ``transformer/config.json`` has them."""
        return {
            "patch_size": (1, self.patch_height, self.patch_width),
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "freq_dim": self.time_embed_dim,
            "ffn_dim": self.ffn_dim,
            "num_layers": self.num_layers,
        }


_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "5b": {
        "image_height_px": 384,
        "image_width_px": 320,
        "codec": "wan_vae",
        "latent_channels": 48,
        "latent_px": 16,
        "text": "precomputed_t5",
        "text_length": 512,
        "text_dim": 4096,
        "num_layers": 30,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "ffn_dim": 14336,
        "time_embed_dim": 256,
        "patch_height": 2,
        "patch_width": 2,
        "tau_shift": 5.0,
        "prediction": Prediction.FLOW,
        "noise": InferenceNoise.FIXED,
    },
}


def viva_config(preset: str) -> VivaConfig:
    """The configuration of a preset: ``tiny`` (CPU), or ``5b`` (Wan2.2-TI2V-5B at the paper's 384 x 320).

    Example:
        >>> viva_config("5b").latent_shape
        (48, 24, 20)

    Raises:
        ConfigError: if there is no such preset.
    """
    if preset not in _PRESETS:
        raise ConfigError(f"unknown viva preset {preset!r}; known are {sorted(_PRESETS)}")
    return VivaConfig(**_PRESETS[preset])


def value_only_config(preset: str) -> VivaConfig:
    """The paper's ablation at a preset: images and instruction in, the value out, no state and no future (ViVa v2, "VG-only").

    Example:
        >>> value_only_config("tiny").has_future_state
        False
    """
    return dataclasses.replace(viva_config(preset), has_future_state=False, has_state_input=False)


def config_to_json(config: VivaConfig) -> dict[str, Any]:
    """As a JSON-like record; :func:`config_from_json` is the exact inverse."""
    enums = {"prediction": config.prediction.value, "noise": config.noise.value}
    return {**dataclasses.asdict(config), "cameras": list(config.cameras), **enums}


def config_from_json(record: Mapping[str, Any]) -> VivaConfig:
    """Rebuild a configuration, also after a trip through JSON text.

    Raises:
        CheckpointError: if it has unknown keys or impossible values.
    """
    try:
        enums = {"prediction": Prediction(record["prediction"]), "noise": InferenceNoise(record["noise"])}
        return VivaConfig(**{**record, "cameras": tuple(record["cameras"]), **enums})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"ViVa configuration in the checkpoint is not one of this version: {error}") from None
