"""Pure functions of losses and weights.

Hop 8 of the tour: the losses of single examples -> the scalar that is differentiated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

_EPSILON = 1e-6


def weighted_mean(per_example: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L = sum_i w_i l_i / (sum_i w_i + 1e-6); WVM, policy extraction (reference papers.md 2.10).

    Where all weights are 0 the result is 0 with a zero gradient, so that a batch without a good example changes nothing.

    Args:
        per_example: [B], differentiable.
        weight: [B], at least 0.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item()
        1.999999...
    """
    return share_of_weighted_mean(per_example, weight, weight.sum())


def share_of_weighted_mean(per_example: torch.Tensor, weight: torch.Tensor, total_weight: torch.Tensor) -> torch.Tensor:
    """What some of a batch's examples contribute to its :func:`weighted_mean`; the shares of all add up to it.

    Args:
        per_example: [b], differentiable.
        weight: [b], at least 0.
        total_weight: scalar, of the whole batch.
    """
    return (weight * per_example).sum() / (total_weight.to(per_example.device) + _EPSILON)


def effective_examples(weight: NDArray[np.float32]) -> float:
    """How many equally weighted examples carry as much information: (sum w)^2 / sum w^2 (Kish 1965); 0 for no weight.

    Args:
        weight: [B], at least 0.

    Example:
        >>> effective_examples(np.float32([1, 1, 0, 0]))
        2.0
    """
    squares = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def cosine_with_warmup(step: int, *, warmup_steps: int, num_steps: int, final_ratio: float) -> float:
    """Learning rate as a share of its peak: linear from 0 over the warm-up, then a half cosine down to ``final_ratio``.

    Args:
        step: learner steps already taken.
        warmup_steps: length of the rise.
        num_steps: length of the whole schedule; the ratio stays at ``final_ratio`` after it.
        final_ratio: in [0, 1].

    Example:
        >>> [round(cosine_with_warmup(s, warmup_steps=2, num_steps=6, final_ratio=0.0), 3) for s in (0, 1, 2, 4, 6)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
