"""Values as distributions over bins: how a target becomes one, and how one is read (C51, arXiv:1707.06887; pi*0.6, Sec. V-B).

Hops 5 and 8 of the tour, inside models/vlm_value.py. K bins, centres evenly from -1 to 0.
"""

from __future__ import annotations

import enum

import torch
from torch import nn


class BinTarget(enum.Enum):
    """What a scalar target becomes."""

    TWO_HOT = "two_hot"
    """Both neighbours, weighted so that the expectation is the target: both open reproductions of pi*0.6."""
    ONE_HOT = "one_hot"
    """The nearest bin: the other reading of the paper's "discretised"."""
    HL_GAUSSIAN = "hl_gaussian"
    """A Gaussian one bin wide, one bin only at the very ends: the control of WVM's ablation (there with 51 bins)."""


def bin_centres(num_bins: int, device: torch.device | None = None) -> torch.Tensor:
    """[K], float32.

    Example:
        >>> bin_centres(3).tolist()
        [-1.0, -0.5, 0.0]
    """
    return torch.linspace(-1.0, 0.0, num_bins, device=device)


def target_distribution(value: torch.Tensor, num_bins: int, form: BinTarget) -> torch.Tensor:
    """Probabilities [B, K] of targets [B] in [-1, 0].

    Example:
        >>> target_distribution(torch.tensor([-0.375]), 3, BinTarget.TWO_HOT).tolist()
        [[0.0, 0.75, 0.25]]
    """
    place = (value + 1) * (num_bins - 1)
    if form is BinTarget.ONE_HOT:
        return nn.functional.one_hot(place.round().long(), num_bins).float()
    if form is BinTarget.TWO_HOT:
        low = place.floor().clamp(0, num_bins - 2)
        above = (place - low)[:, None]
        one_hot = nn.functional.one_hot(low.long(), num_bins).float()
        return one_hot * (1 - above) + one_hot.roll(1, dims=1) * above
    edges = torch.arange(num_bins + 1, device=value.device) - 0.5
    mass = torch.special.ndtr(edges - place[:, None]).diff(dim=1)
    is_end = (value <= -1 + 1e-6) | (value >= -1e-6)
    hard = nn.functional.one_hot(place.round().long(), num_bins).float()
    return torch.where(is_end[:, None], hard, mass / mass.sum(dim=1, keepdim=True))


def expectation(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [B] of the distributions with these logits [B, K]."""
    probability, centres = logits.float().softmax(dim=1), bin_centres(logits.shape[1], logits.device)
    mean = probability @ centres
    variance = (probability * (centres - mean[:, None]).square()).sum(dim=1)
    return mean.clamp(-1, 0), variance.sqrt()
