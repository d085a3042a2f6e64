"""Whether a policy listens to the advantage indicator: a policy that does not makes RECAP the same as cloning everything.

Hop 8 of the tour, looked at from outside. The reference warns of it (papers.md 1.10): where the indicator explains little of
the actions, the network learns to ignore it. Then no threshold and no guidance can help, and it is cheap to know before
episodes are played.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from core.labels import Indicator
from core.windows import WindowBatch
from models.policy import Policy


def indicator_effect(policy: Policy, windows: WindowBatch, indicator: NDArray[np.int8], *, seed: int) -> dict[str, float]:
    """Loss of the same windows with the same noise under three stories.

    Args:
        policy: with the weights to be judged.
        windows: B of them, cut by its ``window_spec``.
        indicator: [B], what each step was judged to be; the windows of ABSENT steps are told nothing every time.
        seed: of the noise and of the diffusion times.

    Returns:
        ``loss_told_right``, ``loss_told_nothing``, ``loss_told_wrong`` (positive and negative exchanged), and
        ``indicator_effect``: by what share the loss grows when told wrong instead of right. About 0: it does not listen.
    """
    is_told = indicator != Indicator.ABSENT
    wrong = np.where(is_told, 1 - indicator, indicator).astype(np.int8)
    absent = np.full(len(indicator), Indicator.ABSENT, np.int8)

    def loss(told: NDArray[np.int8]) -> float:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            example = policy.loss(windows, told, generator)
        return float(example.metrics.get("action_loss", float(example.per_example.mean())))

    right, nothing, reversed_ = loss(indicator), loss(absent), loss(wrong)
    return {
        "loss_told_right": right,
        "loss_told_nothing": nothing,
        "loss_told_wrong": reversed_,
        "indicator_effect": reversed_ / right - 1.0 if right > 0 else 0.0,
    }
