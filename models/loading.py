"""Puts a checkpoint's tensors into a module, all of them or none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from core.errors import CheckpointError, NonFiniteError


def load_exactly(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Give ``module`` (it may be on the meta device) copies of ``tensors``, in their own precision.

    Raises:
        CheckpointError: listing keys that are missing or unexpected, or the first tensor of another shape.
        NonFiniteError: if a tensor holds NaN or infinity.
    """
    expected = module.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(f"{what}: missing {missing}, unexpected {unexpected}; it was saved by another version or model")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(f"{what}: {name} is {tuple(tensor.shape)}; expected {tuple(expected[name].shape)}")
    require_finite_tensors(tensors, what)
    module.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)


def require_finite_tensors(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: naming the first tensor that holds one.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{what}: {name} holds NaN or infinity; restore or retrain it")


def require_prefixes(tensors: Mapping[str, torch.Tensor], prefixes: set[str], *, who: str) -> None:
    """Refuse tensors that belong to none of a checkpoint's parts.

    Raises:
        CheckpointError: listing them.
    """
    unexpected = sorted(name for name in tensors if name.partition(".")[0] not in prefixes)
    if unexpected:
        raise CheckpointError(f"{who}: unexpected {unexpected}; it was saved by another version or model")


def tensors_under(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``name.``, without that prefix.

    Example:
        >>> tensors_under({"codec.mean": torch.zeros(1), "text.mask": torch.zeros(1)}, "codec")
        {'mean': tensor([0.])}
    """
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
