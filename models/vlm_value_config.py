"""The VLM-style baseline's numbers: the configuration and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.errors import ConfigError
from models.value_bins import BinTarget


@dataclass(frozen=True, kw_only=True)
class VlmValueConfig:
    """Everything needed to rebuild a VlmValue but its weights and statistics; the defaults are the ``tiny`` preset."""

    cameras: tuple[str, ...] = ()
    """Which, and in which order; empty: all of the environment's, in its order."""
    image_px: int = 96
    """Images are letterboxed to this square, as the image encoder wants them."""
    patch_px: int = 16
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    vision_ffn_dim: int = 128
    is_vision_frozen: bool = False
    """Whether the image encoder keeps the weights it has."""
    text: str = "hashed"
    """Kind of models.text."""
    text_length: int = 12
    text_dim: int = 64
    has_state_input: bool = False
    """Whether the state is one more token. pi*0.6 does not say; of its reproductions one reads it, as text."""

    fusion_width: int = 64
    fusion_layers: int = 2
    fusion_heads: int = 4
    fusion_ffn_dim: int = 128
    num_bins: int = 201
    target: BinTarget = BinTarget.TWO_HOT

    def __post_init__(self) -> None:
        for name in ("image_px", "patch_px", "vision_layers", "fusion_layers"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"vlm {name} is {getattr(self, name)}; expected a positive number")
        if self.num_bins < 2:
            raise ConfigError(f"vlm num_bins is {self.num_bins}; expected at least 2")
        for width, heads in (("vision_width", "vision_heads"), ("fusion_width", "fusion_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(f"vlm {width} is {getattr(self, width)}; expected a multiple of {heads} {getattr(self, heads)}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.image_px, self.image_px

    def vision_config(self) -> dict[str, Any]:
        """Arguments of transformers' ``SiglipVisionConfig``; its pooling head is left out, the fusion reads all tokens."""
        return {
            "image_size": self.image_px,
            "patch_size": self.patch_px,
            "hidden_size": self.vision_width,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "intermediate_size": self.vision_ffn_dim,
            "vision_use_head": False,
        }


def vlm_value_config(preset: str) -> VlmValueConfig:
    """The configuration of a preset: ``tiny`` (CPU), or ``full`` (SigLIP-so400m/14 at 384 px; 0.67 B, as pi*0.6's value model).

    Example:
        >>> vlm_value_config("full").num_bins
        201

    Raises:
        ConfigError: if there is no such preset.
    """
    if preset == "tiny":
        return VlmValueConfig()
    if preset != "full":
        raise ConfigError(f"unknown vlm preset {preset!r}; known are ['full', 'tiny']")
    return VlmValueConfig(
        image_px=384,
        patch_px=14,
        vision_width=1152,
        vision_layers=27,
        vision_heads=16,
        vision_ffn_dim=4304,
        text="precomputed_t5",
        text_length=64,
        text_dim=1152,
        fusion_width=1024,
        fusion_layers=20,
        fusion_heads=16,
        fusion_ffn_dim=4096,
    )
