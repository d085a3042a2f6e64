"""SigLIP-class encoders from a local directory, through transformers, strictly: every weight of the part that is used.

Hops 5 and 8 of the tour, when a VLM-style value model is built (SigLIP: arXiv:2303.15343).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from core.errors import AssetError, CheckpointError
from models.loading import load_exactly
from models.text import PrecomputedT5


def read_vision(directory: Path, sizes: dict[str, Any]) -> SiglipVisionModel:
    """Load the image encoder of a local SigLIP or SigLIP 2 directory (fixed resolution), without its pooling head.

    Args:
        directory: holds ``config.json`` and ``model.safetensors``, as SigLIP-so400m-patch14-384 does.
        sizes: arguments of ``SiglipVisionConfig`` that it must have been made with.

    Raises:
        AssetError: if the directory lacks a part.
        CheckpointError: if it has other sizes or weights.
    """
    found = _config(directory).get("vision_config", {})
    expected = SiglipVisionConfig(**sizes)
    given = SiglipVisionConfig(**found)
    compared = sorted(sizes.keys() - {"vision_use_head"})
    differing = {name: (getattr(given, name), getattr(expected, name)) for name in compared}
    differing = {name: pair for name, pair in differing.items() if pair[0] != pair[1]}
    if differing:
        raise CheckpointError(
            f"{directory} differs from the configuration in (found, expected): {differing}; use a matching preset"
        )
    loaded = _from_directory(SiglipVisionModel, directory)
    encoder = SiglipVisionModel(expected)
    tensors = {
        name: tensor for name, tensor in loaded.state_dict().items() if not name.removeprefix("vision_model.").startswith("head.")
    }
    load_exactly(encoder, tensors, str(directory))
    return encoder


def siglip_text(texts: Sequence[str], directory: Path, *, length: int = 64) -> PrecomputedT5:
    """Run the text encoder of a local SigLIP directory once; a value model then carries its answers, not its weights.

    Args:
        texts: every instruction that the value model will be given.
        directory: as for :func:`read_vision`, with the tokenizer's files.
        length: tokens; SigLIP pads every text to 64 and attends to the padding.

    Raises:
        AssetError: if the directory lacks a part.
        CheckpointError: if it lacks weights.
    """
    _config(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{directory} holds no tokenizer that transformers can read ({error}); download the directory again"
        ) from None
    distinct = list(dict.fromkeys(texts))
    tokens = tokenizer(distinct, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = _from_directory(SiglipTextModel, directory)(input_ids=tokens.input_ids).last_hidden_state
    return PrecomputedT5(distinct, hidden.clone(), torch.ones(hidden.shape[:2], dtype=torch.bool))


def _config(directory: Path) -> dict[str, Any]:
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise AssetError(f"{file} is missing; expected a local SigLIP directory, as transformers saves one")
    config: dict[str, Any] = json.loads(file.read_text())
    if config.get("model_type") != "siglip":
        raise CheckpointError(f"{file} describes a {config.get('model_type')!r}; expected 'siglip'")
    return config


def _from_directory(model_class: Any, directory: Path) -> Any:
    try:
        model, report = model_class.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise AssetError(f"{directory} holds no safetensors weights ({error}); download the directory again") from None
    if report["missing_keys"]:
        raise CheckpointError(f"{directory}: missing {sorted(report['missing_keys'])}; download the directory again")
    return model
