"""The denoiser of VideoVLA: a CogVideoX transformer that carries action tokens.

Inside hops 2 and 8 of the tour (models/videovla.py calls it). The sequence of one example (papers: VideoVLA; CogVideoX,
arXiv:2408.06072)::

    [ L text | h*w present (clean) | F*h*w future (noised) | H actions (noised) ]      conditioning=prefix (paper)
    [ L text | (1 + F)*h*w video (noised, the present beside it on channels) | H actions ]      channels (released code)

The layers and their weights' names are diffusers' ``CogVideoXTransformer3DModel``, so that CogVideoX-5B loads as it is; ours
are the mappings in and out and the order of computation: diffusers' blocks modulate all video tokens by one diffusion time
and read all tokens at once, where here each *stream* of tokens has a time of its own, and one stream can be computed before
the others. Action tokens stand behind the video tokens: they share the video's modulation and are not rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.normalization import AdaLayerNorm, CogVideoXLayerNormZero
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import nn

from models.videovla_config import AttentionMask, Conditioning, VideoVlaConfig


@dataclass(frozen=True)
class _Stream:
    """Tokens that stand together in the sequence and are modulated alike."""

    tokens: torch.Tensor
    """[B, N, W]."""
    is_text: bool
    """CogVideoX has one modulation for text and one for all else."""
    tau_embedding: torch.Tensor
    """[B, D]."""

    def of(self, tokens: torch.Tensor) -> _Stream:
        """The same stream, one layer on."""
        return _Stream(tokens, self.is_text, self.tau_embedding)


KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""Each [B, heads, N, head dim]; keys are rotated."""

PrefixCache = tuple[KeysAndValues, ...]
"""What text and present offer to the other tokens, a layer."""


class VideoVlaNetwork(nn.Module):
    """The denoiser: tensors in, predicted velocities out."""

    def __init__(self, config: VideoVlaConfig, action_dim: int, transformer: CogVideoXTransformer3DModel | None = None) -> None:
        """Build with fresh weights, or around a pretrained ``transformer``."""
        super().__init__()
        width = config.num_attention_heads * config.attention_head_dim
        is_fresh = transformer is None
        self.transformer = transformer or CogVideoXTransformer3DModel(**config.transformer_config())
        self.transformer.transformer_blocks = nn.ModuleList(JointBlock(block) for block in self.transformer.transformer_blocks)
        self.video_position = nn.Parameter(torch.zeros(1, config.num_video_tokens, width))
        self.action_position = nn.Parameter(torch.zeros(1, config.action_horizon, width))
        if config.conditioning is Conditioning.CHANNELS:
            self.text_position = nn.Parameter(torch.zeros(1, config.text_length, width))
        if config.num_robots:
            self.robot_embedding = nn.Embedding(config.num_robots, width)
        self.action_in = nn.Linear(action_dim, width)
        self.action_norm = AdaLayerNorm(
            config.time_embed_dim,
            output_dim=2 * width,
            norm_elementwise_affine=True,
            norm_eps=config.norm_eps,
            chunk_dim=1,
        )
        self.action_out = nn.Linear(width, action_dim)
        self._config = config
        self._tables: dict[tuple[str, torch.device], torch.Tensor] = {}
        if is_fresh:
            self._initialize()

    def forward(
        self,
        present: torch.Tensor,
        video: torch.Tensor,
        actions: torch.Tensor,
        text: torch.Tensor,
        video_tau: torch.Tensor,
        action_tau: torch.Tensor,
        prefix: PrefixCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the velocities of the noised latents and of the actions.

        Args:
            present: [B, C, h, w], the clean latent of what is seen now.
            video: [B, V, C, h, w], noised to ``video_tau``: the F future latents, or with ``conditioning=channels`` all 1 + F.
            actions: [B, H, A], normalised, noised to ``action_tau``.
            text: [B, L, D].
            video_tau: int64 [B], diffusion time, 0..num_train_timesteps - 1; larger is noisier.
            action_tau: int64 [B]; equal to ``video_tau`` where the coupling is synchronous.
            prefix: what :meth:`encode_prefix` gave for the same ``present`` and ``text``; None: computed here.

        Returns:
            [B, V, C, h, w] and [B, H, A].
        """
        config = self._config
        seen = self._seen(present, video)
        # One embedding for both where they cannot differ, so that streams of equal time are computed as one.
        video_time = self._tau_embedding(video_tau)
        action_time = video_time if action_tau is video_tau else self._tau_embedding(action_tau)
        frames = _Stream(self._video_tokens(seen), False, video_time)
        controls = _Stream(self._action_tokens(actions), False, action_time)
        if config.attention is AttentionMask.BLOCK_CAUSAL:
            prefix = prefix if prefix is not None else self.encode_prefix(present, text)
            streams = self._through_blocks([frames, controls], prefix)
        else:
            words = _Stream(self._text_tokens(text), True, video_time)
            streams = self._through_blocks([words, frames, controls], None, self._mask(actions.device))[1:]
        return self._latents(streams[0])[:, -video.shape[1] :], self._actions(streams[1])

    def encode_prefix(self, present: torch.Tensor, text: torch.Tensor) -> PrefixCache:
        """Keys and values of text and present in every layer, which under ``attention=block_causal`` no noise reaches.

        Args:
            present: [B, C, h, w].
            text: [B, L, D].
        """
        clean = self._tau_embedding(torch.zeros(len(present), dtype=torch.long, device=present.device))
        words = _Stream(self._text_tokens(text), True, clean)
        frame = _Stream(self._video_tokens(present[:, None], first=0), False, clean)
        cache: list[KeysAndValues] = []
        self._through_blocks([words, frame], None, remember=cache)
        return tuple(cache)

    # -- tokens in ------------------------------------------------------------------------------------------------

    def _seen(self, present: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """What becomes noised or bidirectional video tokens: [B, V', C', h, w]."""
        if self._config.conditioning is Conditioning.CHANNELS:
            condition = torch.zeros_like(video)
            condition[:, 0] = present
            return torch.cat([video, condition], dim=2)
        if self._config.attention is AttentionMask.BLOCK_CAUSAL:
            return video
        return torch.cat([present[:, None], video], dim=1)

    def _video_tokens(self, latents: torch.Tensor, first: int | None = None) -> torch.Tensor:
        """[B, V', C', h, w] -> [B, N, W]; the frames are the last ones of the clip unless ``first`` says which they are."""
        embedded = self.transformer.patch_embed.proj(latents.flatten(0, 1).to(self.dtype))
        tokens = embedded.flatten(2).transpose(1, 2).reshape(len(latents), -1, embedded.shape[1])
        begin = self.video_position.shape[1] - tokens.shape[1] if first is None else first * self._config.num_frame_tokens
        return tokens + self.video_position[:, begin : begin + tokens.shape[1]]

    def _text_tokens(self, text: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.transformer.patch_embed.text_proj(text.to(self.dtype))
        return tokens + self.text_position if self._config.conditioning is Conditioning.CHANNELS else tokens

    def _action_tokens(self, actions: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.action_in(actions.to(self.dtype)) + self.action_position[:, : actions.shape[1]]
        return tokens + self.robot_embedding.weight[self._config.robot_id] if self._config.num_robots else tokens

    def _tau_embedding(self, tau: torch.Tensor) -> torch.Tensor:
        net = self.transformer
        embedding: torch.Tensor = net.time_embedding(net.time_proj(tau).to(self.dtype))
        return embedding

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.action_in.weight.dtype

    # -- layers ---------------------------------------------------------------------------------------------------

    def _through_blocks(
        self,
        streams: Sequence[_Stream],
        prefix: PrefixCache | None,
        mask: torch.Tensor | None = None,
        *,
        remember: list[KeysAndValues] | None = None,
    ) -> list[_Stream]:
        """All layers; ``streams`` are neighbours in the sequence, and its last ones if there is a ``prefix``.

        Args:
            streams: what is computed.
            prefix: keys and values of the tokens before them.
            mask: bool [N, N'], true where a token (row) reads another (column); None: all read all.
            remember: each layer's keys and values are appended to it.
        """
        counts = [stream.tokens.shape[1] for stream in streams]
        begin = 0 if prefix is None else prefix[0][0].shape[2]
        rotary = self._rotary(streams[0].tokens.device)[begin : begin + sum(counts)]
        tokens = torch.cat([stream.tokens for stream in streams], dim=1)
        groups = _groups(streams)
        for index, block in enumerate(self.transformer.transformer_blocks):
            tokens, own = block(tokens, groups, rotary, None if prefix is None else prefix[index], mask)
            if remember is not None:
                remember.append(own)
        return [stream.of(part) for stream, part in zip(streams, tokens.split(counts, dim=1), strict=True)]

    # -- tokens out -----------------------------------------------------------------------------------------------

    def _latents(self, stream: _Stream) -> torch.Tensor:
        """[B, N, W] -> velocities [B, V', C, h, w]; the order of channels and pixels is CogVideoX's."""
        net, config = self.transformer, self._config
        tokens = net.proj_out(net.norm_out(net.norm_final(stream.tokens), temb=stream.tau_embedding))
        channels, height, width = config.latent_shape
        p = config.patch_size
        grid = tokens.reshape(len(tokens), -1, height // p, width // p, channels, p, p)
        return grid.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def _actions(self, stream: _Stream) -> torch.Tensor:
        is_released = self._config.conditioning is Conditioning.CHANNELS
        tokens = self.transformer.norm_final(stream.tokens) if is_released else stream.tokens
        velocity: torch.Tensor = self.action_out(self.action_norm(tokens, temb=stream.tau_embedding))
        return velocity

    # -- tables ---------------------------------------------------------------------------------------------------

    def _mask(self, device: torch.device) -> torch.Tensor | None:
        """Bool [N, N] over text, video and actions; None where all read all."""
        config = self._config
        if config.attention is AttentionMask.BIDIRECTIONAL:
            return None
        key = ("mask", device)
        if key not in self._tables:
            frames = torch.arange(1, config.num_latents + 1).repeat_interleave(config.num_frame_tokens)
            last = torch.full((config.action_horizon,), config.num_latents + 1)
            group = torch.cat([torch.zeros(config.text_length, dtype=torch.long), frames, last])
            self._tables[key] = (group[:, None] >= group[None, :]).to(device)
        return self._tables[key]

    def _rotary(self, device: torch.device) -> torch.Tensor:
        """Unit complex numbers [L + video tokens + H, head dim / 2]: video tokens turn by their latent index, the rest by 0.

        Diffusers' pipeline stretches the index to the size of the training video; at other sizes that buys nothing.
        """
        key = ("rotary", device)
        if key not in self._tables:
            config = self._config
            _, height, width = (size // config.patch_size for size in config.latent_shape)
            with torch.inference_mode(False):  # The first call may be a sampling one; training uses the same tensor.
                cos, sin = get_3d_rotary_pos_embed(
                    config.attention_head_dim, ((0, 0), (height, width)), (height, width), config.num_latents, device=device
                )
                video = torch.complex(cos[:, ::2], sin[:, ::2])  # diffusers repeats every angle twice
                words, actions = (video.new_ones(count, video.shape[1]) for count in (config.text_length, config.action_horizon))
                self._tables[key] = torch.cat([words, video, actions])
        return self._tables[key]

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


class JointBlock(nn.Module):
    """One of CogVideoX's blocks, with its weights under its names, computed over any number of streams.

    A module that is called, so that whatever works on calls (sharding, recomputing activations) works on it.
    """

    def __init__(self, block: CogVideoXBlock | JointBlock) -> None:
        """Take over the parts of ``block``."""
        super().__init__()
        self.norm1: CogVideoXLayerNormZero = block.norm1
        self.attn1: Attention = block.attn1
        self.norm2: CogVideoXLayerNormZero = block.norm2
        self.ff: nn.Module = block.ff

    def forward(
        self,
        tokens: torch.Tensor,
        groups: Sequence[_Group],
        rotary: torch.Tensor,
        before: KeysAndValues | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, KeysAndValues]:
        """Tokens [B, N, W], one layer on, and their keys and values; arguments as in ``VideoVlaNetwork``."""
        read, gate = _modulated(self.norm1, tokens, groups)
        mixed, own = _attend(self.attn1, read, rotary, before, mask)
        tokens = tokens + gate * mixed
        read, gate = _modulated(self.norm2, tokens, groups)
        return tokens + gate * self.ff(read), own


@dataclass(frozen=True)
class _Group:
    """Neighbouring streams with one modulation, computed as one."""

    count: int
    """Tokens."""
    is_text: bool
    tau_embedding: torch.Tensor


def _groups(streams: Sequence[_Stream]) -> list[_Group]:
    groups: list[_Group] = []
    for stream in streams:
        count = stream.tokens.shape[1]
        last = groups[-1] if groups else None
        if last is not None and last.is_text == stream.is_text and last.tau_embedding is stream.tau_embedding:
            groups[-1] = _Group(last.count + count, last.is_text, last.tau_embedding)
        else:
            groups.append(_Group(count, stream.is_text, stream.tau_embedding))
    return groups


def _modulated(norm: CogVideoXLayerNormZero, tokens: torch.Tensor, groups: Sequence[_Group]) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise, scale and shift each group; also the gates [B, N, W] of what is made of it. Adaptive layer norm of CogVideoX."""
    by_time: dict[int, tuple[torch.Tensor, ...]] = {}
    normed, gates = [], []
    for group, part in zip(groups, norm.norm(tokens).split([group.count for group in groups], dim=1), strict=True):
        time = id(group.tau_embedding)
        if time not in by_time:
            by_time[time] = norm.linear(norm.silu(group.tau_embedding))[:, None].chunk(6, dim=2)
        shift, scale, gate = by_time[time][3:] if group.is_text else by_time[time][:3]
        normed.append(part * (1 + scale) + shift)
        gates.append(gate.expand(-1, group.count, -1))
    return torch.cat(normed, dim=1), torch.cat(gates, dim=1)


def _attend(
    attn: Attention, tokens: torch.Tensor, rotary: torch.Tensor, before: KeysAndValues | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor, KeysAndValues]:
    """Attention over tokens and those ``before`` them: what diffusers' ``CogVideoXAttnProcessor2_0`` computes, 1.5 times as fast.

    Two things differ: one complex product rotates all tokens, where diffusers overwrites slices; and the products of queries
    and keys stay in float32 on a CPU, because its bfloat16 attention is 8 times slower backwards (torch 2.13).

    Returns:
        [B, N, W], and the tokens' own keys and values.
    """
    query, key, value = (
        linear(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2) for linear in (attn.to_q, attn.to_k, attn.to_v)
    )
    dtype = torch.float32 if tokens.device.type == "cpu" else value.dtype
    query, key = (_rotated(norm(x), rotary).to(dtype) for norm, x in ((attn.norm_q, query), (attn.norm_k, key)))
    own = key, value.to(dtype)
    keys, values = own if before is None else (torch.cat(pair, dim=2) for pair in zip(before, own, strict=True))
    with torch.autocast("cpu", enabled=False):
        mixed = nn.functional.scaled_dot_product_attention(query, keys, values, mask)
    return attn.to_out[0](mixed.transpose(1, 2).flatten(2).to(value.dtype)), own


def _rotated(tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring channels of [B, heads, N, head dim] by ``rotary`` [N, head dim / 2]; float32."""
    return torch.view_as_real(torch.view_as_complex(tokens.float().unflatten(3, (-1, 2))) * rotary).flatten(3)
