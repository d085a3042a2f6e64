"""VideoVLA's numbers: the configuration, and the named choices where the paper and the released code differ.

Inside hops 2 and 8 of the tour. What differs between paper and release, and why the defaults are what they are:
docs/adr/0018; every shape: docs/models/videovla.md.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import CogVideoXDDIMScheduler

from core.errors import CheckpointError, ConfigError
from core.windows import WindowSpec


class Conditioning(enum.Enum):
    """How the network is told the present frame."""

    PREFIX = "prefix"
    """The paper's: the present's latent is the first of the video, clean, never noised nor supervised."""
    CHANNELS = "channels"
    """The released code's (as CogVideoX-I2V): all latents, the present one too, are noised and supervised, and a second set of
    channels holds the clean present in the first latent and zeros in the others. With it come that network's two other
    details: learned positions of the text tokens, and the last layer norm on action tokens too."""


class AttentionMask(enum.Enum):
    """Which tokens read which. Every token reads its own group."""

    BIDIRECTIONAL = "bidirectional"
    """All read all: the paper's default and the released code."""
    CAUSAL = "causal"
    """Text, each latent frame in order of time, actions: a group reads those before it, so that video never reads actions."""
    BLOCK_CAUSAL = "block_causal"
    """Text and present read each other only, and are modulated as clean (tau 0); future and actions read everything. What the
    first group computes then depends neither on noise nor on tau: a draw computes it once (``VideoVlaNetwork.encode_prefix``)."""


class NoiseCoupling(enum.Enum):
    """How the diffusion times of video and actions belong together."""

    SYNCHRONOUS = "synchronous"
    """One tau for both, in training and in sampling: the paper's default and the released code."""
    ASYNCHRONOUS = "asynchronous"
    """Trained at two independent times; sampled one after the other: the video first, beside pure-noise actions, then the
    actions beside the finished video. Twice the passes of the network."""


class Sampler(enum.Enum):
    """Which of diffusers' solvers draws."""

    DDIM = "ddim"
    """Deterministic, first order (arXiv:2010.02502): what the paper says."""
    DPM_SDE = "dpmpp_2m_sde"
    """DPM-Solver++ (2M) SDE (arXiv:2211.01095), second order, draws fresh noise at every step: what the released code runs."""
    DPM = "dpmpp_2m"
    """DPM-Solver++ (2M), second order, deterministic, at times that are even in log signal-to-noise ratio: for few steps. The
    other two take times that are even in tau, as the paper and CogVideoX do, whose last stride to the clean sample is long.
    Where data are N(0.7, 0.3^2) and the velocity is exact, 4, 8, 10, 20 steps end 0.19, 0.13, 0.12, 0.07 from the exact flow
    with DDIM, and 0.19, 0.03, 0.01, 0.003 with this."""


class Guidance(enum.Enum):
    """What guidance leads away from."""

    INDICATOR = "indicator"
    """The same instruction without the advantage indicator (RECAP)."""
    TEXT = "text"
    """No text at all, a zero embedding (classifier-free guidance, the released code); needs ``text_dropout`` in training."""


@dataclass(frozen=True, kw_only=True)
class NoiseScheduleConfig:
    """How much noise diffusion time tau means; always v-prediction and zero terminal SNR, so that tau = last is pure noise.

    The defaults are CogVideoX-5B's, and are the best found for actions too. Can-picking demonstrations (``tiny``, 800
    steps, mean squared error of held-out normalised actions, 8 denoising steps): scaled_linear 0.19, squaredcos_cap_v2
    0.22. ``snr_shift_scale`` 3 spends more of training where actions must come from the image: 13 % less error on a
    synthetic task, but less decided between two equally good actions (0.79 of gripper commands near -1 or 1, against
    0.95), and 46 % against 48 % success on the can, which is no difference.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    """``linear``, ``scaled_linear`` or ``squaredcos_cap_v2``."""
    snr_shift_scale: float = 1.0
    """Above 1: more noise at equal tau (CogVideoX-2B: 3, CogVideoX-5B: 1)."""

    def scheduler(self) -> CogVideoXDDIMScheduler:
        """A fresh DDIM scheduler; trailing spacing, so that sampling starts at the noisiest tau."""
        return CogVideoXDDIMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            beta_schedule=self.beta_schedule,
            snr_shift_scale=self.snr_shift_scale,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
            set_alpha_to_one=True,
        )


@dataclass(frozen=True, kw_only=True)
class VideoVlaConfig:
    """Everything needed to rebuild a VideoVLA but its weights and statistics; the defaults are the ``tiny`` preset."""

    camera: str = "overhead_camera"
    image_height_px: int = 128
    image_width_px: int = 160
    """Images of another size are resized to this."""
    codec: str = "patch"
    """Kind of models.codecs."""
    latent_channels: int = 160
    latent_px: int = 32
    """Pixels a latent is wide and high."""
    temporal_ratio: int = 1
    """Frames a latent beyond the first."""
    text: str = "hashed"
    """Kind of models.text."""
    text_length: int = 12
    text_dim: int = 64

    num_future_frames: int = 1
    """A multiple of temporal_ratio."""
    future_frame_interval_steps: int = 6
    """Environment steps from one future frame to the next; the first is that far from the present."""
    action_horizon: int = 6
    """H."""

    num_layers: int = 5
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    """A multiple of 16: the rotary embedding splits it 2 : 3 : 3 over time, height and width."""
    time_embed_dim: int = 64
    patch_size: int = 1
    """Latents a video token is wide and high."""

    norm_eps: float = 1e-5
    """Of the layer norms: diffusers' CogVideoX; the released network has 1e-6."""

    conditioning: Conditioning = Conditioning.PREFIX
    attention: AttentionMask = AttentionMask.BIDIRECTIONAL
    coupling: NoiseCoupling = NoiseCoupling.SYNCHRONOUS
    num_robots: int = 0
    """Rows of the learned robot embedding that is added to the action tokens (released: 100); 0: none."""
    robot_id: int = 0
    """This policy's row."""

    noise: NoiseScheduleConfig = field(default_factory=NoiseScheduleConfig)
    video_weight: float = 0.2
    """Of the video loss against the action loss; 0 switches it off (the paper's ablation)."""
    is_condition_noised: bool = False
    """Train with Gaussian noise on the present frame's pixels, log sigma ~ N(-3, 0.5) on a scale of -1..1 (released code)."""
    condition_dropout: float = 0.0
    """How often training replaces the present's latent by zeros (released code: 0.05)."""
    text_dropout: float = 0.0
    """How often training replaces the text by zeros (released code: 0.1)."""
    sampler: Sampler = Sampler.DDIM
    denoise_steps: int = 4
    """Passes of the network a draw; divisors of num_train_timesteps end exactly at the clean sample. More steps follow the
    distribution, fewer its mean: 2, 4, 8, 16 steps gave 0.14, 0.17, 0.19, 0.21 mean squared error of held-out actions (see
    NoiseScheduleConfig); of a command that is -1 or 1 at random, 48, 82, 95 % (20 steps: 98 %) came out near either on the
    synthetic task. A draw takes 17 ms at 4 steps and 33 ms at 8, one thread."""
    use_indicator: bool = True
    """False: the advantage indicator is neither trained on nor asked for (BC, AWR, filtered BC)."""
    guidance: Guidance = Guidance.INDICATOR
    guidance_scale: float = 1.0
    """beta of v = v_absent + beta (v_positive - v_absent); 1 needs one forward pass a step, anything else two."""
    action_clip: float = 1.1
    """Largest normalised action, of training targets and of samples: q01..q99 is -1..1, and what lies far outside is
    neither learned nor ever sent."""

    def __post_init__(self) -> None:
        for name in ("action_horizon", "num_future_frames", "future_frame_interval_steps", "denoise_steps", "num_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.denoise_steps > self.noise.num_train_timesteps:
            raise ConfigError(f"denoise_steps is {self.denoise_steps}; expected at most {self.noise.num_train_timesteps}")
        if self.num_future_frames % self.temporal_ratio:
            raise ConfigError(f"num_future_frames is {self.num_future_frames}; expected a multiple of {self.temporal_ratio}")
        step_px = self.latent_px * self.patch_size
        if self.image_height_px % step_px or self.image_width_px % step_px:
            raise ConfigError(f"image of {self.image_height_px}x{self.image_width_px} px; expected multiples of {step_px} px")
        if self.num_robots and not 0 <= self.robot_id < self.num_robots:
            raise ConfigError(f"robot_id is {self.robot_id}; expected 0..{self.num_robots - 1} (num_robots is {self.num_robots})")
        for name in ("condition_dropout", "text_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a probability below 1")
        if self.attention is AttentionMask.BLOCK_CAUSAL and self.conditioning is Conditioning.CHANNELS:
            raise ConfigError("attention=block_causal needs a clean prefix; expected conditioning=prefix, found channels")
        if self.attention_head_dim % 16:
            raise ConfigError(f"attention_head_dim is {self.attention_head_dim}; expected a multiple of 16")

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.image_height_px, self.image_width_px

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.latent_channels, self.image_height_px // self.latent_px, self.image_width_px // self.latent_px

    @property
    def num_latents(self) -> int:
        """Latent frames, the present one included."""
        return 1 + self.num_future_frames // self.temporal_ratio

    @property
    def num_noised_latents(self) -> int:
        """V, latent frames that are noised, predicted and supervised: without the present one where it is a prefix."""
        return self.num_latents - (self.conditioning is Conditioning.PREFIX)

    @property
    def num_frame_tokens(self) -> int:
        """Video tokens of one latent frame."""
        _, height, width = self.latent_shape
        return (height // self.patch_size) * (width // self.patch_size)

    @property
    def num_video_tokens(self) -> int:
        """Of the present and the future."""
        return self.num_latents * self.num_frame_tokens

    def window_spec(self) -> WindowSpec:
        """What a training window holds: present and future frames, and the actions to imitate."""
        offsets = tuple(k * self.future_frame_interval_steps for k in range(self.num_future_frames + 1))
        return WindowSpec(image_offsets=offsets, state_offsets=(0,), action_horizon=self.action_horizon)

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of diffusers' ``CogVideoXTransformer3DModel``, as CogVideoX-5B's ``transformer/config.json`` has them."""
        _, height, width = self.latent_shape
        return {
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "in_channels": self.latent_channels * (2 if self.conditioning is Conditioning.CHANNELS else 1),
            "out_channels": self.latent_channels,
            "time_embed_dim": self.time_embed_dim,
            "text_embed_dim": self.text_dim,
            "num_layers": self.num_layers,
            "sample_height": height,
            "sample_width": width,
            "sample_frames": (self.num_latents - 1) * self.temporal_ratio + 1,
            "patch_size": self.patch_size,
            "temporal_compression_ratio": self.temporal_ratio,
            "max_text_seq_length": self.text_length,
            "use_rotary_positional_embeddings": True,
            "norm_eps": self.norm_eps,
        }


_ENUMS: dict[str, type[enum.Enum]] = {
    "conditioning": Conditioning,
    "attention": AttentionMask,
    "coupling": NoiseCoupling,
    "sampler": Sampler,
    "guidance": Guidance,
}


def config_to_json(config: VideoVlaConfig) -> dict[str, Any]:
    """As a JSON-like record; :func:`config_from_json` is the exact inverse."""
    return {**dataclasses.asdict(config), **{name: getattr(config, name).value for name in _ENUMS}}


def config_from_json(record: Mapping[str, Any]) -> VideoVlaConfig:
    """Rebuild a configuration; what an older version of this code did not know yet has its default, which is what it did.

    Raises:
        CheckpointError: if it has unknown keys or impossible values.
    """
    try:
        enums = {name: kind(record[name]) for name, kind in _ENUMS.items() if name in record}
        return VideoVlaConfig(**{**record, **enums, "noise": NoiseScheduleConfig(**record["noise"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"VideoVLA configuration in the checkpoint is not one of this version: {error}") from None
