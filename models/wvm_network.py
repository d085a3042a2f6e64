"""WVM's network: a Wan video transformer and a small value transformer that share their attention (mixture of transformers).

Hops 5 and 8 of the tour, inside models/wvm.py. In every layer (arXiv:2606.24742, Sec. 2.2 of our notes: papers.md)::

    video tokens    Wan's own q, k, v      attend to video tokens
    value tokens    512 -> 3072 -> 512     attend to value tokens and to the video tokens of the *current* frames

Video never reads value, so one attention over both with that mask is the same as the video's pass first, whose keys and values
of the current frames (:class:`VideoContext`) every value pass then reads: once a window, not once a denoising step. With
``VideoAttention.CAUSAL`` the current frames do not read the future either, and the future is left out at inference; both
equalities are tested.

Letters: N video tokens, M value tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanTimeTextImageEmbedding, WanTransformerBlock
from torch import nn

from models.flow import NUM_TRAIN_TIMESTEPS
from models.wvm_config import PrefixToken, VideoAttention, WvmConfig

Rotary = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class VideoContext:
    """What the value transformer reads of B clips."""

    key: tuple[torch.Tensor, ...]
    """A layer, [B, N, heads, head_dim], of the current frames, rotated to their place."""
    value: tuple[torch.Tensor, ...]
    """Like ``key``."""
    rotary: Rotary
    """[1, N, 1, head_dim] of the current frames."""

    def rows(self, index: torch.Tensor) -> VideoContext:
        """The context of the clips ``index`` [B'], repetitions allowed."""
        return VideoContext(
            key=tuple(key[index] for key in self.key), value=tuple(value[index] for value in self.value), rotary=self.rotary
        )


def read_video(
    transformer: WanTransformer3DModel,
    current: torch.Tensor,
    future: torch.Tensor | None,
    tau: torch.Tensor,
    text: torch.Tensor,
    attention: VideoAttention,
) -> tuple[VideoContext, torch.Tensor | None]:
    """Run the video transformer.

    Args:
        transformer: Wan's, :func:`with_joint_blocks`.
        current: clean latents [B, C, F, h, w].
        future: noised latents [B, C, F', h, w], or None to leave them out.
        tau: [B], diffusion time of the future; current frames have time 0, as in Wan's image-to-video.
        text: [B, L, D], or [1, L, D] for all.
        attention: what current frames attend to.

    Returns:
        What the value transformer reads, and the network's output for the future frames (None without them), like ``future``.
    """
    dtype = transformer.patch_embedding.weight.dtype
    latents = (current if future is None else torch.cat([current, future], dim=2)).to(dtype)
    rotary = transformer.rope(latents)
    patches = transformer.patch_embedding(latents)
    grid, hidden = patches.shape[2:], patches.flatten(2).transpose(1, 2).contiguous()
    num_current = current.shape[2] * grid[1] * grid[2]
    is_future = torch.arange(hidden.shape[1], device=hidden.device) >= num_current
    time, modulation, words = _conditions(transformer.condition_embedder, tau, text.to(dtype), is_future)
    mask = None
    if future is not None and attention is VideoAttention.CAUSAL:
        mask = is_future[:, None] | ~is_future[None, :]
    keys, values = [], []
    for block in transformer.blocks:
        hidden, key, value = block(hidden, words, modulation, rotary, mask)
        keys.append(key[:, :num_current])
        values.append(value[:, :num_current])
    places = (rotary[0][:, :num_current], rotary[1][:, :num_current])
    context = VideoContext(key=tuple(keys), value=tuple(values), rotary=places)
    if future is None:
        return context, None
    output = _output(transformer, hidden[:, num_current:], time[:, num_current:], transformer.scale_shift_table)
    patch_height, patch_width = transformer.config.patch_size[1:]
    frames = output.unflatten(2, (patch_height, patch_width, -1)).unflatten(1, (-1, grid[1], grid[2]))
    return context, frames.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).float()


class ValueTransformer(nn.Module):
    """The value's side: own input and output, norms, cross-attention and feed-forward; attention joined with the video's."""

    def __init__(self, config: WvmConfig, frames_per_latent: int) -> None:
        """``frames_per_latent`` (the codec's temporal ratio) places a value token beside the latent that holds its frame."""
        super().__init__()
        width = config.value_width
        num_tokens = config.num_predicted + 1
        self.value_in = nn.Linear(1, width)
        self.place = nn.Parameter(torch.randn(num_tokens, width) / width**0.5)
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=width, time_freq_dim=config.time_embed_dim, time_proj_dim=6 * width, text_embed_dim=config.text_dim
        )
        self.blocks = nn.ModuleList(_value_block(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.proj_out = nn.Linear(width, 1)
        self.tokens_per_latent = (config.latent_shape[1] // config.patch_height) * (config.latent_shape[2] // config.patch_width)
        first = -1 if config.prefix is PrefixToken.EXTRA else 0
        self.latent_of_token = [max(0, first + token) // frames_per_latent for token in range(num_tokens)]

    def forward(self, chunk: torch.Tensor, tau: torch.Tensor, text: torch.Tensor, context: VideoContext) -> torch.Tensor:
        """Predict the output of all M value tokens but the first, which is the prefix and clean.

        Args:
            chunk: [B, M], the prefix and the noised values, in [-1, 1] where clean.
            tau: [B], diffusion time of the noised values.
            text: [B, L, D], or [1, L, D] for all.
            context: of the same B clips.

        Returns:
            [B, M - 1] float32.
        """
        dtype = self.value_in.weight.dtype
        hidden = self.value_in(chunk[..., None].to(dtype)) + self.place
        is_noised = torch.arange(chunk.shape[1], device=chunk.device) > 0
        time, modulation, words = _conditions(self.condition_embedder, tau, text.to(dtype), is_noised)
        corners = torch.tensor(self.latent_of_token, device=chunk.device) * self.tokens_per_latent
        rotary = (context.rotary[0][:, corners], context.rotary[1][:, corners])
        for block, key, value in zip(self.blocks, context.key, context.value, strict=True):
            hidden, _, _ = block(hidden, words, modulation, rotary, None, read=(key, value))
        return _output(self, hidden, time, self.scale_shift_table)[:, 1:, 0].float()


class JointBlock(nn.Module):
    """A Wan block, with its weights under its names, that can also read other tokens and be masked.

    A module that is called, so that whatever works on calls (sharding, recomputing activations) works on it.
    """

    def __init__(self, block: WanTransformerBlock | JointBlock) -> None:
        """Take over the parts of ``block``."""
        super().__init__()
        self.norm1: nn.Module = block.norm1
        self.attn1: WanAttention = block.attn1
        self.norm2: nn.Module = block.norm2
        self.attn2: WanAttention = block.attn2
        self.norm3: nn.Module = block.norm3
        self.ffn: nn.Module = block.ffn
        self.scale_shift_table: nn.Parameter = block.scale_shift_table

    def forward(
        self,
        hidden: torch.Tensor,
        words: torch.Tensor,
        modulation: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None,
        read: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What ``WanTransformerBlock.forward`` does, with a mask, or keys and values of other tokens to ``read`` as well.

        Returns:
            Hidden states [B, N, D], and this block's own keys and values [B, N, heads, head_dim].
        """
        table = self.scale_shift_table.unsqueeze(0) + modulation.float()
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(dim=2)
        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        attention = self.attn1
        heads = (attention.heads, -1)
        query = _rotated(attention.norm_q(attention.to_q(normed)).unflatten(2, heads), rotary)
        key = _rotated(attention.norm_k(attention.to_k(normed)).unflatten(2, heads), rotary)
        value = attention.to_v(normed).unflatten(2, heads)
        keys, values = (key, value) if read is None else (torch.cat([read[0], key], dim=1), torch.cat([read[1], value], dim=1))
        attended = nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
        )
        attended = attention.to_out[0](attended.transpose(1, 2).flatten(2))
        hidden = (hidden.float() + attended * gate).type_as(hidden)
        hidden = hidden + self.attn2(self.norm2(hidden.float()).type_as(hidden), words)
        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        return (hidden.float() + self.ffn(normed).float() * ffn_gate).type_as(hidden), key, value


def with_joint_blocks(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Turn the blocks of a video transformer into :class:`JointBlock`; it can then only be read by :func:`read_video`."""
    transformer.blocks = nn.ModuleList(JointBlock(block) for block in transformer.blocks)
    return transformer


def _value_block(config: WvmConfig) -> JointBlock:
    """Wan's block at the value's width, with the video's attention heads."""
    block = WanTransformerBlock(config.value_width, config.value_ffn_dim, config.value_num_heads, cross_attn_norm=True)
    block.attn1 = WanAttention(dim=config.value_width, heads=config.num_attention_heads, dim_head=config.attention_head_dim)
    return JointBlock(block)


def _conditions(
    embedder: WanTimeTextImageEmbedding, tau: torch.Tensor, text: torch.Tensor, is_noised: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Time [B, N, D], modulation [B, N, 6, D] and the text's words of tokens whose time is ``tau`` where noised, else 0."""
    times = torch.stack([torch.zeros_like(tau), tau], dim=1) * NUM_TRAIN_TIMESTEPS
    time, modulation, words, _ = embedder(times.flatten(), text, None, timestep_seq_len=2)
    which = is_noised.long()
    return time[:, which], modulation.unflatten(2, (6, -1))[:, which], words


def _rotated(heads: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Wan's rotary embedding of [B, N, heads, head_dim]: pairs of neighbouring channels turn by one angle."""
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotary[0][..., 0::2], rotary[1][..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).type_as(heads)


def _output(
    side: WanTransformer3DModel | ValueTransformer, hidden: torch.Tensor, time: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """The last norm, modulated by the time [B, N, D], and the output projection."""
    shift, scale = (table.unsqueeze(0) + time.unsqueeze(2)).unbind(dim=2)
    normed: torch.Tensor = side.norm_out(hidden.float()) * (1 + scale) + shift
    projected: torch.Tensor = side.proj_out(normed.type_as(hidden))
    return projected
