"""Diffusers' Wan transformer from tensors or from a diffusers directory, strictly: every weight, and no other.

Hops 5 and 8 of the tour, when a model is built. Different from ``WanTransformer3DModel.from_pretrained``: that fills weights
that are missing with random ones and warns, and it cannot load this class at all without the accelerate package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanRotaryPosEmbed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from core.errors import AssetError, CheckpointError
from models.loading import load_exactly

_WEIGHTS = "diffusion_pytorch_model.safetensors"


class SharedText(WanAttnProcessor):  # type: ignore[misc]
    """Cross-attention to a text that all examples share, given once: its keys and values are then computed once.

    Words have no place and are not masked, so the queries of all examples are one long sequence. With 512 words at ``5b`` this
    is 7 % of ViVa's pass and half of WVM's. Where every example has its text, it is diffusers' own attention.
    """

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend from [B, N, D] to [B, L, D], or to [1, L, D]."""
        words, queries = encoder_hidden_states, hidden_states
        if words is not None and len(words) == 1:
            queries = hidden_states.flatten(0, 1)[None]
        attended: torch.Tensor = super().__call__(attn, queries, words, attention_mask, rotary_emb)
        return attended.reshape(hidden_states.shape)


def share_text(blocks: nn.ModuleList) -> None:
    """Let blocks of a Wan transformer take a text of one row for all examples."""
    for block in blocks:
        attention: Any = block.attn2
        attention.set_processor(SharedText())


def transformer_from_tensors(sizes: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], what: str) -> WanTransformer3DModel:
    """Build a transformer and give it copies of ``tensors``, in their own precision.

    Args:
        sizes: arguments of ``WanTransformer3DModel``.
        tensors: all of its weights.
        what: names their origin in messages.

    Raises:
        CheckpointError: listing keys that are missing or unexpected, or the first tensor of another shape.
        NonFiniteError: if a tensor holds NaN or infinity.
    """
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**sizes)
    load_exactly(transformer, tensors, what)
    # The tables of the rotary embedding are no weights, so they are still on the meta device.
    config = transformer.config
    transformer.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    return transformer


def read_transformer(directory: Path, sizes: Mapping[str, Any], dtype: torch.dtype | None = None) -> WanTransformer3DModel:
    """Load ``directory/transformer`` of a local diffusers directory, in one file or in shards.

    Args:
        directory: as Wan2.2-TI2V-5B is laid out.
        sizes: arguments of ``WanTransformer3DModel`` that it must have been made with.
        dtype: to convert weights to, but for the few that diffusers keeps in float32 (norms, time embedding); None: as stored.

    Raises:
        AssetError: if a file is missing.
        CheckpointError: if it has other sizes or weights, or a file is damaged.
    """
    folder = Path(directory) / "transformer"
    _require_sizes(folder, sizes)
    tensors: dict[str, torch.Tensor] = {}
    for file in _weight_files(folder):
        if not file.is_file():
            raise AssetError(f"{file} is missing; download the directory again")
        try:
            stored = load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged ({error}); download it again") from None
        tensors |= stored if dtype is None else {name: in_precision(name, tensor, dtype) for name, tensor in stored.items()}
    return transformer_from_tensors(sizes, tensors, str(folder))


def _require_sizes(folder: Path, sizes: Mapping[str, Any]) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise AssetError(f"{file} is missing; expected a diffusers directory with transformer/")
    with torch.device("meta"):
        expected = dict(WanTransformer3DModel(**sizes).config)
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(file.read_text()).items()}
    differing = {key: (found[key], expected[key]) for key in found.keys() & expected.keys() if found[key] != expected[key]}
    if differing:
        raise CheckpointError(f"{folder} differs from the configuration in (found, expected): {differing}; use a matching preset")


def _weight_files(folder: Path) -> list[Path]:
    index = folder / f"{_WEIGHTS}.index.json"
    if not index.is_file():
        return [folder / _WEIGHTS]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def in_precision(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight ``name`` in ``dtype``, or in float32 where diffusers keeps it there (norms, time embedding, modulation)."""
    is_kept = not set(WanTransformer3DModel._keep_in_fp32_modules).isdisjoint(name.split("."))  # noqa: SLF001
    return tensor.to(torch.float32 if is_kept else dtype)
