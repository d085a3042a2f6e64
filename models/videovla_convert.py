"""Brings the released VideoVLA checkpoint into this project: another naming of the same network.

Not on the tour. The release (VideoVLA_Cogvideobase_Pretrained) names its weights as CogVideo's SAT code does; the layout here
was read from that code (``dit_video_concat_withact.py``). Queries, keys and values are one matrix there and three here; one
matrix of twelve modulations a layer becomes two of six; tables of rotary angles are not weights and are left out; its learned
positions of text and video are one table there.

Not in the release, so not here either: action statistics, the robots' numbers, and the order of the seven action entries (a
note on the paper says rotation first; the data sets it names have translation first): ``action_order`` says which one to
believe. A pickled ``.pt`` is not read: see docs/models/videovla.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from core.errors import CheckpointError
from models.loading import load_exactly
from models.videovla_config import Conditioning, Guidance, Sampler, VideoVlaConfig
from models.videovla_network import VideoVlaNetwork

_PREFIX = "model.diffusion_model."
_NO_WEIGHTS = ("mixins.pos_embed.freqs_sin", "mixins.pos_embed.freqs_cos")
_OTHER_PARTS = ("first_stage_model.", "conditioner.")
"""The autoencoder and T5, where a file carries them: they are loaded from diffusers directories."""

_NAMES = {
    "time_embed.0": "transformer.time_embedding.linear_1",
    "time_embed.2": "transformer.time_embedding.linear_2",
    "mixins.patch_embed.proj": "transformer.patch_embed.proj",
    "mixins.patch_embed.text_proj": "transformer.patch_embed.text_proj",
    "mixins.patch_embed.action_proj": "action_in",
    "mixins.pos_embed.action_robotid_embedding": "robot_embedding",
    "mixins.final_layer.norm_final": "transformer.norm_out.norm",
    "mixins.final_layer.adaLN_modulation.1": "transformer.norm_out.linear",
    "mixins.final_layer.linear": "transformer.proj_out",
    "mixins.final_layer.action_norm_final": "action_norm.norm",
    "mixins.final_layer.action_adaLN_modulation.1": "action_norm.linear",
    "mixins.final_layer.action_linear": "action_out",
    "transformer.final_layernorm": "transformer.norm_final",
}
_LAYER_NAMES = {
    r"transformer\.layers\.(\d+)\.input_layernorm": "norm1.norm",
    r"transformer\.layers\.(\d+)\.post_attention_layernorm": "norm2.norm",
    r"transformer\.layers\.(\d+)\.attention\.dense": "attn1.to_out.0",
    r"transformer\.layers\.(\d+)\.mlp\.dense_h_to_4h": "ff.net.0.proj",
    r"transformer\.layers\.(\d+)\.mlp\.dense_4h_to_h": "ff.net.2",
    r"mixins\.adaln_layer\.query_layernorm_list\.(\d+)": "attn1.norm_q",
    r"mixins\.adaln_layer\.key_layernorm_list\.(\d+)": "attn1.norm_k",
}
_QUERY_KEY_VALUE = re.compile(r"transformer\.layers\.(\d+)\.attention\.query_key_value")
_MODULATIONS = re.compile(r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1")


def released_config(**changes: object) -> VideoVlaConfig:
    """The released network and how its script runs it, but for guidance (see docs/adr/0018).

    Args:
        **changes: for example the ``camera``, the ``robot_id``, or a smaller network.
    """
    released: dict[str, object] = {
        "image_height_px": 256,
        "image_width_px": 256,
        "codec": "cogvideox_vae",
        "latent_channels": 16,
        "latent_px": 8,
        "temporal_ratio": 4,
        "text": "precomputed_t5",
        "text_length": 226,
        "text_dim": 4096,
        "num_future_frames": 48,
        "future_frame_interval_steps": 1,
        "num_layers": 42,
        "num_attention_heads": 48,
        "attention_head_dim": 64,
        "time_embed_dim": 512,
        "patch_size": 2,
        "norm_eps": 1e-6,
        "conditioning": Conditioning.CHANNELS,
        "num_robots": 100,
        "robot_id": 1,
        "video_weight": 1.0,
        "is_condition_noised": True,
        "condition_dropout": 0.05,
        "text_dropout": 0.1,
        "sampler": Sampler.DPM_SDE,
        "denoise_steps": 50,
        "guidance": Guidance.TEXT,
    }
    return VideoVlaConfig(**{**released, **changes})  # type: ignore[arg-type]


def released_network(
    config: VideoVlaConfig,
    tensors: Mapping[str, torch.Tensor],
    *,
    action_dim: int = 7,
    action_order: Sequence[int] | None = None,
) -> VideoVlaNetwork:
    """The released weights in our network, in their own precision: give it to :class:`models.videovla.VideoVla`.

    Args:
        config: such as :func:`released_config`.
        tensors: by the release's names, with or without ``model.diffusion_model.``.
        action_dim: A.
        action_order: entry i of our action is their entry ``action_order[i]``; None: the same order.

    Raises:
        CheckpointError: listing keys that are missing or unexpected, or the first tensor of another shape.
        NonFiniteError: if a weight is NaN or infinite.
    """
    if action_order is not None and sorted(action_order) != list(range(action_dim)):
        raise CheckpointError(f"action_order is {list(action_order)}; expected each of 0..{action_dim - 1} once")
    with torch.device("meta"):
        network = VideoVlaNetwork(config, action_dim)
    converted = convert_names(tensors, config.text_length)
    if action_order is not None:
        converted = _reordered(converted, list(action_order))
    load_exactly(network, converted, "released VideoVLA checkpoint")
    return network


def convert_names(tensors: Mapping[str, torch.Tensor], text_length: int) -> dict[str, torch.Tensor]:
    """The release's tensors by the names of :class:`VideoVlaNetwork`; names that are not the release's stay as they are.

    Args:
        tensors: by the release's names.
        text_length: how many of the learned positions are the text's.
    """
    converted: dict[str, torch.Tensor] = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(_PREFIX)
        if name not in _NO_WEIGHTS and not name.startswith(_OTHER_PARTS):
            converted |= _converted(name, tensor, text_length)
    return converted


def _converted(name: str, tensor: torch.Tensor, text_length: int) -> dict[str, torch.Tensor]:
    if name == "mixins.pos_embed.pos_embedding":
        return {"text_position": tensor[:, :text_length], "video_position": tensor[:, text_length:]}
    if name == "mixins.pos_embed.action_pos_embedding":
        return {"action_position": tensor}
    owner, _, kind = name.rpartition(".")
    if match := _QUERY_KEY_VALUE.fullmatch(owner):
        names = ("to_q", "to_k", "to_v")
        parts = tensor.chunk(3)
        return {f"{_block(match)}.attn1.{part}.{kind}": piece for part, piece in zip(names, parts, strict=True)}
    if match := _MODULATIONS.fullmatch(owner):
        # Theirs: shift, scale, gate of attention, then of the feed-forward part, for video; then the same six for text.
        video_attention, video_feed, text_attention, text_feed = tensor.chunk(4)
        return {
            f"{_block(match)}.norm1.linear.{kind}": torch.cat([video_attention, text_attention]),
            f"{_block(match)}.norm2.linear.{kind}": torch.cat([video_feed, text_feed]),
        }
    for pattern, ours in _LAYER_NAMES.items():
        if match := re.fullmatch(pattern, owner):
            return {f"{_block(match)}.{ours}.{kind}": tensor}
    return {f"{_NAMES[owner]}.{kind}" if owner in _NAMES else name: tensor}


def _block(match: re.Match[str]) -> str:
    return f"transformer.transformer_blocks.{match[1]}"


def _reordered(tensors: dict[str, torch.Tensor], order: list[int]) -> dict[str, torch.Tensor]:
    changed = {
        "action_in.weight": lambda tensor: tensor[:, order],
        "action_out.weight": lambda tensor: tensor[order],
        "action_out.bias": lambda tensor: tensor[order],
    }
    return {name: changed[name](tensor) if name in changed else tensor for name, tensor in tensors.items()}
