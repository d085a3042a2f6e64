"""When a task counts as done: success rules as functions of tensors with one entry per environment.

The one statement of each rule: the scenes with one environment and those of :mod:`envs.simpler.batched` both call these.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIFTED_M, LIFTED_SIGNIFICANTLY_M = 0.01, 0.02
LONG_GRASP_STEPS = LONG_LIFT_STEPS = 5


class PickProgress(NamedTuple):
    """What an episode of picking has counted so far; [N] each."""

    grasped_steps: Tensor
    """In a row, now; int."""
    is_lifted: Tensor
    significant_lifts: Tensor
    """Steps with the object well above the table; int."""
    was_grasped_long: Tensor
    was_grasped: Tensor

    @classmethod
    def start(cls, num_envs: int, device: torch.device | str = "cpu") -> PickProgress:
        """Nothing yet."""
        count = torch.zeros(num_envs, dtype=torch.int64, device=device)
        flag = torch.zeros(num_envs, dtype=torch.bool, device=device)
        return cls(count, flag, count, flag, flag)


class PickVerdict(NamedTuple):
    """Of one step; [N] bool each."""

    is_grasped: Tensor
    is_grasped_long: Tensor
    is_lifted: Tensor
    is_lifted_significantly: Tensor
    success: Tensor


def judge_pick(
    progress: PickProgress,
    *,
    is_grasped: Tensor,
    is_free: Tensor,
    rise_m: Tensor,
    require_lifting: bool,
    success_from_stats: bool,
) -> tuple[PickProgress, PickVerdict]:
    """Judge the state after a step; counts, so once per step.

    Args:
        progress: before the step.
        is_grasped: [N] bool, both fingers press on the object.
        is_free: [N] bool, nothing but the robot touches it.
        rise_m: [N], above where it lay.
        require_lifting: False: a long grasp is enough.
        success_from_stats: also count an object that was lifted well for five steps at any time.
    """
    grasped_steps = torch.where(is_grasped, progress.grasped_steps + 1, 0)
    # As upstream: an object in the air counts as lifted even if this step's grasp test failed.
    is_lifted = (progress.is_lifted & is_grasped) | (is_free & (rise_m > LIFTED_M))
    is_lifted_significantly = is_lifted & (rise_m > LIFTED_SIGNIFICANTLY_M)
    is_grasped_long = grasped_steps >= LONG_GRASP_STEPS
    progress = PickProgress(
        grasped_steps=grasped_steps,
        is_lifted=is_lifted,
        significant_lifts=progress.significant_lifts + is_lifted_significantly,
        was_grasped_long=progress.was_grasped_long | is_grasped_long,
        was_grasped=progress.was_grasped | is_grasped,
    )
    success = is_lifted if require_lifting else is_grasped_long
    if success_from_stats:
        success = success | (progress.significant_lifts >= LONG_LIFT_STEPS)
    return progress, PickVerdict(is_grasped, is_grasped_long, is_lifted, is_lifted_significantly, success)
