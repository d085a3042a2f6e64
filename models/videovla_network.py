"""The denoiser of VideoVLA: its configuration, and a CogVideoX transformer that carries action tokens.

Inside hops 2 and 8 of the tour (models/videovla.py calls it). The sequence of one example (papers: VideoVLA; CogVideoX,
arXiv:2408.06072)::

    [ L text | h*w present (clean) | F*h*w future (noised) | H actions (noised) ]      full attention, one diffusion time tau

The blocks, their modulation and their weights' names are diffusers' ``CogVideoXTransformer3DModel``, so that CogVideoX-5B
loads as it is; ours are the mappings in and out: two linear layers for actions and learned positions. Action tokens stand
behind the video tokens in the blocks' hidden stream: they share the video's modulation and are not rotated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.normalization import AdaLayerNorm
from torch import nn

from core.errors import ConfigError
from core.windows import WindowSpec


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

    noise: NoiseScheduleConfig = field(default_factory=NoiseScheduleConfig)
    video_weight: float = 0.2
    """Of the video loss against the action loss."""
    denoise_steps: int = 4
    """Passes of the network a draw; divisors of num_train_timesteps end exactly at the clean sample. More steps follow the
    distribution, fewer its mean: 2, 4, 8, 16 steps gave 0.14, 0.17, 0.19, 0.21 mean squared error of held-out actions (see
    NoiseScheduleConfig); of a command that is -1 or 1 at random, 48, 82, 95 % (20 steps: 98 %) came out near either on the
    synthetic task. A draw takes 17 ms at 4 steps and 33 ms at 8, one thread."""
    use_indicator: bool = True
    """False: the advantage indicator is neither trained on nor asked for (BC, AWR, filtered BC)."""
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
    def num_video_tokens(self) -> int:
        """Of the present and the future."""
        _, height, width = self.latent_shape
        return self.num_latents * (height // self.patch_size) * (width // self.patch_size)

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
            "in_channels": self.latent_channels,
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
        }


class JointAttention:
    """Full attention over text, video and actions: what diffusers' ``CogVideoXAttnProcessor2_0`` computes, 1.5 times as fast.

    Three things differ: one complex product rotates all tokens, where diffusers overwrites slices; the products of
    queries and keys stay in float32 on a CPU, because its bfloat16 attention is 8 times slower backwards (torch 2.13);
    and ``image_rotary_emb`` is one complex tensor that covers the text too.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        image_rotary_emb: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend; argument names and order of results are diffusers'."""
        num_words = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            linear(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2) for linear in (attn.to_q, attn.to_k, attn.to_v)
        )
        dtype = torch.float32 if tokens.device.type == "cpu" else value.dtype
        query, key = (_rotated(norm(x), image_rotary_emb).to(dtype) for norm, x in ((attn.norm_q, query), (attn.norm_k, key)))
        with torch.autocast(tokens.device.type, enabled=False):
            mixed = nn.functional.scaled_dot_product_attention(query, key, value.to(dtype), attention_mask)
        out = attn.to_out[0](mixed.transpose(1, 2).flatten(2).to(value.dtype))
        return out[:, num_words:], out[:, :num_words]


def _rotated(tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring channels of [B, heads, N, head dim] by ``rotary`` [N, head dim / 2]; float32."""
    return torch.view_as_real(torch.view_as_complex(tokens.float().unflatten(3, (-1, 2))) * rotary).flatten(3)


class VideoVlaNetwork(nn.Module):
    """The denoiser: tensors in, predicted velocities out."""

    def __init__(self, config: VideoVlaConfig, action_dim: int, transformer: CogVideoXTransformer3DModel | None = None) -> None:
        """Build with fresh weights, or around a pretrained ``transformer``."""
        super().__init__()
        width = config.num_attention_heads * config.attention_head_dim
        is_fresh = transformer is None
        self.transformer = transformer or CogVideoXTransformer3DModel(**config.transformer_config())
        self.transformer.set_attn_processor(JointAttention())
        self.video_position = nn.Parameter(torch.zeros(1, config.num_video_tokens, width))
        self.action_position = nn.Parameter(torch.zeros(1, config.action_horizon, width))
        self.action_in = nn.Linear(action_dim, width)
        self.action_norm = AdaLayerNorm(config.time_embed_dim, output_dim=2 * width, norm_elementwise_affine=True, chunk_dim=1)
        self.action_out = nn.Linear(width, action_dim)
        self._config = config
        self._rotary_by_device: dict[torch.device, torch.Tensor] = {}
        if is_fresh:
            self._initialize()

    def forward(
        self, latents: torch.Tensor, actions: torch.Tensor, text: torch.Tensor, tau: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the velocities of the future latents and of the actions.

        Args:
            latents: [B, 1 + F, C, h, w], the first clean, the others noised to ``tau``.
            actions: [B, H, A], normalised, noised to ``tau``.
            text: [B, L, D].
            tau: int64 [B], diffusion time, 0..num_train_timesteps - 1; larger is noisier.

        Returns:
            [B, F, C, h, w] and [B, H, A].
        """
        net, dtype = self.transformer, self.action_in.weight.dtype
        latents, actions, text = latents.to(dtype), actions.to(dtype), text.to(dtype)
        tau_embedding = net.time_embedding(net.time_proj(tau).to(dtype))
        words, video = net.patch_embed(text, latents).split([text.shape[1], self.video_position.shape[1]], dim=1)
        hidden = torch.cat([video + self.video_position, self.action_in(actions) + self.action_position], dim=1)
        rotary = self._rotary(hidden.device)
        for block in net.transformer_blocks:
            hidden, words = block(hidden, words, tau_embedding, image_rotary_emb=rotary)
        video, action = hidden.split([self.video_position.shape[1], actions.shape[1]], dim=1)
        video = net.proj_out(net.norm_out(net.norm_final(video), temb=tau_embedding))
        action = self.action_out(self.action_norm(action, temb=tau_embedding))
        return self._unpatchify(video)[:, 1:], action

    def _unpatchify(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, (1 + F) h w / p^2, C p^2] -> [B, 1 + F, C, h, w]; the order of channels and pixels is CogVideoX's."""
        channels, height, width = self._config.latent_shape
        p = self._config.patch_size
        grid = tokens.reshape(len(tokens), -1, height // p, width // p, channels, p, p)
        return grid.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def _rotary(self, device: torch.device) -> torch.Tensor:
        """Unit complex numbers [L + video tokens + H, head dim / 2]: video tokens turn by their latent index, the rest by 0.

        Diffusers' pipeline stretches the index to the size of the training video; at other sizes that buys nothing.
        """
        if device not in self._rotary_by_device:
            config = self._config
            _, height, width = (size // config.patch_size for size in config.latent_shape)
            with torch.inference_mode(False):  # The first call may be a sampling one; training uses the same tensor.
                cos, sin = get_3d_rotary_pos_embed(
                    config.attention_head_dim, ((0, 0), (height, width)), (height, width), config.num_latents, device=device
                )
                video = torch.complex(cos[:, ::2], sin[:, ::2])  # diffusers repeats every angle twice
                words, actions = (video.new_ones(count, video.shape[1]) for count in (config.text_length, config.action_horizon))
                self._rotary_by_device[device] = torch.cat([words, video, actions])
        return self._rotary_by_device[device]

    def _initialize(self) -> None:
        """Start every block as the identity and predict velocity 0 (DiT's adaLN-Zero, arXiv:2212.09748).

        Video positions start well above zero: rotary angles alone say where two tokens stand to each other, but an
        action token must learn where in the image something is. On a synthetic reaching task (400 steps of 32) that
        halved the error of sampled actions, 0.33 -> 0.17. Action positions start small, lest they drown the actions.
        Around a pretrained transformer both start at zero, so that its video prediction is unchanged.
        """
        for block in self.transformer.transformer_blocks:
            for norm in (block.norm1, block.norm2):
                nn.init.zeros_(norm.linear.weight)
                nn.init.zeros_(norm.linear.bias)
        for linear in (self.transformer.proj_out, self.action_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.video_position, std=0.5)
        nn.init.normal_(self.action_position, std=0.1)
