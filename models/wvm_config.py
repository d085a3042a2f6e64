"""WVM's numbers: the configuration and its presets (arXiv:2606.24742, Table A.1; what it leaves open: docs/models/wvm.md)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from core.errors import ConfigError
from models.viva_config import InferenceNoise, Prediction, VivaConfig, viva_config


class VideoAttention(enum.Enum):
    """What the video tokens of the current frames attend to; the value tokens read current frames only, either way."""

    CAUSAL = "causal"
    """Current frames. The future then changes nothing of what the value reads, and is left out at inference, exactly."""
    FULL = "full"
    """Current and future frames, as Wan was pretrained: at inference the future has to be there, as pure noise."""


class ValueHead(enum.Enum):
    """How a chunk of values is predicted."""

    FLOW = "flow"
    """By flow matching: the paper's."""
    REGRESSION = "regression"
    """Directly, with a squared error: the comparison that the paper lacks."""


class PrefixToken(enum.Enum):
    """Which value token is given rather than predicted; the paper's text allows both readings."""

    EXTRA = "extra"
    """One of the frame before the chunk: h + 1 tokens, h predicted."""
    FIRST = "first"
    """The chunk's own first: h tokens, h - 1 predicted."""


@dataclass(frozen=True, kw_only=True)
class WvmConfig:
    """Everything needed to rebuild a Wvm but its weights and statistics; the defaults are the ``tiny`` preset."""

    camera: str = ""
    """The one it looks through; empty: the environment's first."""
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

    chunk_frames: int = 4
    """h."""
    frame_interval_s: float = 0.125
    """Between two frames of a clip, at least one environment step. 1/8 s reads the paper's "latent target FPS 2.0" as latents of
    four frames; 1/2 s reads it as frames."""

    num_layers: int = 4
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    ffn_dim: int = 512
    time_embed_dim: int = 64
    patch_height: int = 4
    patch_width: int = 1
    """Latents a token is high and wide."""
    value_width: int = 64
    """Channels of the value transformer; it has as many layers as the video's, and joins its attention heads."""
    value_num_heads: int = 2
    """Of its cross-attention to the text."""
    value_ffn_dim: int = 256

    attention: VideoAttention = VideoAttention.CAUSAL
    head: ValueHead = ValueHead.FLOW
    prefix: PrefixToken = PrefixToken.EXTRA
    prefix_randomization: float = 0.5
    """p: how often the prefix value is replaced by one from U[0, 1] in training; the paper compares 0, 0.5 and 1."""
    rewind_ratio: float = 0.5
    """How often a clip is not shown as it was recorded."""
    plateau_ratio: float = 0.1
    """How many of those are one frame repeated; the others run backwards."""
    video_weight: float = 1.0
    """lambda of the future video's loss; 0: the future is not predicted."""
    video_prediction: Prediction = Prediction.SAMPLE
    """``tiny`` learns from nothing and predicts clean frames (docs/adr/0009); ``5b`` starts from Wan's, which are velocities."""
    video_tau_shift: float = 5.0
    is_video_frozen: bool = False
    """Whether the video transformer keeps the weights it has."""

    denoise_steps: int = 1
    noise: InferenceNoise = InferenceNoise.ZERO
    noise_seed: int = 0
    num_chained_chunks: int = 1
    """Chunks before a window's own that are predicted first: the last one's last value is the own chunk's prefix, the first one's
    prefix is the middle, 1/2."""
    overlap_stride: int = 1
    """Frames between the chunks whose estimates of one frame are averaged; ``chunk_frames``: one chunk, no average."""

    def __post_init__(self) -> None:
        for name in ("chunk_frames", "num_layers", "denoise_steps", "overlap_stride", "frame_interval_s", "video_tau_shift"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"wvm {name} is {getattr(self, name)}; expected a positive number")
        for name in ("prefix_randomization", "rewind_ratio", "plateau_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"wvm {name} is {getattr(self, name)}; expected a number in [0, 1]")
        for name in ("video_weight", "num_chained_chunks"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"wvm {name} is {getattr(self, name)}; expected 0 or more")
        if self.num_predicted < 1:
            raise ConfigError(f"wvm chunk_frames is {self.chunk_frames} with prefix=first; expected at least 2")
        self.video_config()

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.image_height_px, self.image_width_px

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.latent_channels, self.image_height_px // self.latent_px, self.image_width_px // self.latent_px

    @property
    def num_predicted(self) -> int:
        """Values a chunk that are predicted."""
        return self.chunk_frames if self.prefix is PrefixToken.EXTRA else self.chunk_frames - 1

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of diffusers' ``WanTransformer3DModel``."""
        return self.video_config().transformer_config()

    def video_config(self) -> VivaConfig:
        """The video transformer's numbers; ViVa has the same backbone and the same checks of its sizes."""
        shared = (
            *("image_height_px", "image_width_px", "latent_channels", "latent_px", "text_length", "text_dim"),
            *("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "time_embed_dim"),
            *("patch_height", "patch_width"),
        )
        return VivaConfig(**{name: getattr(self, name) for name in shared})


def wvm_config(preset: str) -> WvmConfig:
    """The configuration of a preset: ``tiny`` (CPU), or ``5b`` (Wan2.2-TI2V-5B with a 0.7 B value transformer, 256 x 256 px).

    Example:
        >>> wvm_config("5b").latent_shape
        (48, 16, 16)

    Raises:
        ConfigError: if there is no such preset.
    """
    if preset == "tiny":
        return WvmConfig()
    if preset != "5b":
        raise ConfigError(f"unknown wvm preset {preset!r}; known are ['5b', 'tiny']")
    video = viva_config("5b")
    return WvmConfig(
        image_height_px=256,
        image_width_px=256,
        codec=video.codec,
        latent_channels=video.latent_channels,
        latent_px=video.latent_px,
        text=video.text,
        text_length=video.text_length,
        text_dim=video.text_dim,
        num_layers=video.num_layers,
        num_attention_heads=video.num_attention_heads,
        attention_head_dim=video.attention_head_dim,
        ffn_dim=video.ffn_dim,
        time_embed_dim=video.time_embed_dim,
        patch_height=video.patch_height,
        patch_width=video.patch_width,
        value_width=512,
        value_num_heads=8,
        value_ffn_dim=14336,
        video_prediction=Prediction.FLOW,
        noise=InferenceNoise.FIXED,
    )
