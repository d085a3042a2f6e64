"""When a task counts as done: success rules as functions of tensors with one entry per environment.

The one statement of each rule: the scenes with one environment and those of :mod:`envs.simpler.batched` both call these.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIFTED_M, LIFTED_SIGNIFICANTLY_M = 0.01, 0.02
LONG_GRASP_STEPS = LONG_LIFT_STEPS = 5
MOVED_M = 0.03
"""Horizontally, from where an object lay: beyond this it has been moved."""
NEAR_M = 0.10
"""Between two objects beyond their half diagonals: "near"."""
_TIED_M = 0.01  # an object this much nearer than the target is not nearer
_FALLEN_M, _OFF_THE_TABLE_M = 0.02, 0.15  # a bystander that tipped over, and source or target on their way to the floor
_BESIDE_M = 0.003
OPEN_M, CLOSED_M = 0.15, 0.05
"""A drawer is open from the one on, closed up to the other."""


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


class MoveNearVerdict(NamedTuple):
    """Of one step; [N] bool each."""

    is_all_standing: Tensor
    is_source_moved: Tensor
    """More than any other object."""
    is_other_moved: Tensor
    """More than the source."""
    is_near: Tensor
    is_closest: Tensor
    """No other object is nearer to the source than the target is."""
    success: Tensor


def judge_move_near(
    *,
    positions_m: Tensor,
    centers_m: Tensor,
    settled_m: Tensor,
    is_present: Tensor,
    source: Tensor,
    target: Tensor,
    reach_m: Tensor,
) -> MoveNearVerdict:
    """Judge the state after a step; of the moment only.

    Args:
        positions_m: [N, M, 3], origins of the objects, world frame.
        centers_m: [N, M, 3], their centres of mass; only source's and target's matter.
        settled_m: [N, M, 3], their origins when the episode began.
        is_present: [N, M] bool, which of them take part.
        source: [N], index of the object to move.
        target: [N], index of the one to move it to.
        reach_m: [N], sum of their half diagonals.
    """
    index = torch.arange(positions_m.shape[1], device=positions_m.device)
    is_source, is_target = index == source[:, None], index == target[:, None]
    is_other = is_present & ~is_source
    rise_m = positions_m[..., 2] - settled_m[..., 2]
    center_rise_m = centers_m[..., 2] - settled_m[..., 2]
    is_up = torch.where(is_source | is_target, center_rise_m > -_OFF_THE_TABLE_M, (-rise_m < _FALLEN_M) | ~is_present)

    moved_m = (positions_m - settled_m)[..., :2].norm(dim=-1)
    source_moved_m = _pick(moved_m, source)[:, None]
    is_source_moved = (source_moved_m[:, 0] > MOVED_M) & ((moved_m < source_moved_m) | ~is_other).all(dim=1)
    is_other_moved = (is_other & (moved_m > MOVED_M) & (moved_m > source_moved_m)).any(dim=1)

    source_center_m = _pick(centers_m, source)
    distance_m = (source_center_m - _pick(centers_m, target))[:, :2].norm(dim=-1)
    to_others_m = (positions_m - source_center_m[:, None])[..., :2].norm(dim=-1)
    is_near = distance_m < reach_m + NEAR_M
    is_closest = ((distance_m[:, None] < to_others_m + _TIED_M) | ~is_other).all(dim=1)
    is_all_standing = is_up.all(dim=1)
    success = is_all_standing & is_source_moved & is_near & is_closest
    return MoveNearVerdict(is_all_standing, is_source_moved, is_other_moved, is_near, is_closest, success)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """One of M entries for each environment: [N, M, ...] and [N] -> [N, ...]."""
    return values[torch.arange(len(values), device=values.device), index]


class PutOnVerdict(NamedTuple):
    """Of one step; [N] bool each."""

    is_source_moved: Tensor
    """More than the target."""
    is_target_moved: Tensor
    """More than the source."""
    is_grasped: Tensor
    is_grasped_long: Tensor
    success: Tensor
    """The source lies on the target, or is held right above it."""


def judge_put_on(
    grasped_steps: Tensor,
    *,
    is_grasped: Tensor,
    source_center_m: Tensor,
    target_center_m: Tensor,
    target_m: Tensor,
    settled_m: Tensor,
    half_m: Tensor,
    gap_m: float,
    is_free: Tensor,
) -> tuple[Tensor, PutOnVerdict]:
    """Judge the state after a step; counts, so once per step.

    Args:
        grasped_steps: [N] int, in a row before the step.
        is_grasped: [N] bool, both fingers press on the source.
        source_center_m: [N, 3], the source's centre of mass, world frame.
        target_center_m: [N, 3], the target's.
        target_m: [N, 3], the target's origin.
        settled_m: [N, 2, 3], origins of source and target when the episode began.
        half_m: [N, 2, 3], half their boxes along world axes when the episode began.
        gap_m: at most between the boxes, vertically.
        is_free: [N] bool, the source pushes on nothing but the target and the robot, or that does not matter.

    Returns:
        Grasped steps in a row, and the verdict.
    """
    grasped_steps = torch.where(is_grasped, grasped_steps + 1, 0)
    source_moved_m = (settled_m[:, 0] - source_center_m)[:, :2].norm(dim=-1)
    target_moved_m = (settled_m[:, 1] - target_m)[:, :2].norm(dim=-1)
    offset_m = source_center_m - target_center_m
    is_above = offset_m[:, :2].norm(dim=-1) <= half_m[:, 1, :2].norm(dim=-1) + _BESIDE_M
    is_close = offset_m[:, 2] - half_m[:, :, 2].sum(dim=1) <= gap_m
    return grasped_steps, PutOnVerdict(
        is_source_moved=(source_moved_m > MOVED_M) & (target_moved_m < source_moved_m),
        is_target_moved=(target_moved_m > MOVED_M) & (target_moved_m > source_moved_m),
        is_grasped=is_grasped,
        is_grasped_long=grasped_steps >= LONG_GRASP_STEPS,
        success=is_above & (offset_m[:, 2] > 0) & is_close & is_free,
    )


def judge_drawer(position_m: Tensor, *, verb: str) -> Tensor:
    """Whether a drawer is where the instruction wants it: [N] m out of the cabinet -> [N] bool.

    Args:
        position_m: of the drawer that the instruction names.
        verb: ``open`` or ``close``.

    Example:
        >>> judge_drawer(torch.tensor([0.04, 0.1, 0.15]), verb="open").tolist()
        [False, False, True]
    """
    return position_m >= OPEN_M if verb == "open" else position_m <= CLOSED_M
