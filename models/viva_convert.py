"""Brings a ViVa checkpoint of the released code into this project: another naming of the same Wan transformer.

Not on the tour. The released code saves one ``model.safetensors`` (825 tensors, bfloat16) whose names are those of Wan's own
repository behind ``video_model.wan_model.``; diffusers' own conversion for single Wan files renames them. State statistics are
not in the file: the released code computes them from its data set, so they must be given here as normalisation.

Cameras: the released network was trained on left wrist, right wrist, head, in this order, and was shown black where a camera is
missing: ``VivaConfig.cameras`` may name ``"black"`` for such a view.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.errors import AssetError, CheckpointError
from models.viva_config import VivaConfig
from models.wan import transformer_from_tensors

_PREFIXES = ("module.", "video_model.wan_model.", "dit.")
"""Of distributed training, of the released model, and of other trainers of the same network; each at most once, in this order."""
_OTHER_PARTS = ("video_model.vae.",)
"""The autoencoder, where a file carries it: it is loaded from a diffusers directory."""


def read_released_transformer(file: Path, config: VivaConfig) -> WanTransformer3DModel:
    """Read the released code's ``model.safetensors``: give the result to :class:`models.viva.Viva`.

    Args:
        file: as the released training script writes it.
        config: such as ``viva_config("5b")``.

    Raises:
        AssetError: if there is no such file.
        CheckpointError: if it is damaged, or its weights are not those of ``config``'s network.
        NonFiniteError: if a weight is NaN or infinite.
    """
    file = Path(file)
    if not file.is_file():
        raise AssetError(f"no ViVa checkpoint at {file}; expected the model.safetensors of the released training script")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again") from None
    return released_transformer(tensors, config, what=str(file))


def released_transformer(
    tensors: Mapping[str, torch.Tensor], config: VivaConfig, *, what: str = "released ViVa checkpoint"
) -> WanTransformer3DModel:
    """The same of tensors in memory, in their own precision.

    Raises:
        CheckpointError: listing keys that are missing or unexpected, by diffusers' names, or the first tensor of another shape.
        NonFiniteError: if a weight is NaN or infinite.
    """
    plain = {name.removeprefix(_PREFIXES[0]): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in plain.items() if not name.startswith(_OTHER_PARTS)}
    named: dict[str, torch.Tensor] = {}
    for name, tensor in kept.items():
        short = name
        for prefix in _PREFIXES[1:]:
            short = short.removeprefix(prefix)
        if short in named:
            raise CheckpointError(f"{what} holds {short} twice, once as {name}; expected one network")
        named[short] = tensor
    return transformer_from_tensors(config.transformer_config(), convert_wan_transformer_to_diffusers(named), what)
