"""Jerk-limited joint paths to rest for many environments at once: what :mod:`envs.simpler.motion` asks Ruckig for, in torch.

Each joint has a velocity, no acceleration, a target, and the same limits. Three facts make a short exact method:

- A change of speed by ``x`` from rest of acceleration to rest of acceleration takes at least ``f(x)`` (jerk, constant
  acceleration, jerk back) and its mean velocity is the mean of its two ends, by symmetry.
- A path is therefore known by its cruise velocity ``c``: change to ``c``, cruise, change to zero. What it covers grows with ``c``
  for a given duration, so ``c`` is the root of a monotone function. In the fastest path there is no cruise below the velocity
  limit, and ``c`` lies beyond the start velocity or on the other side of zero.
- Braking needs ``f(v)``, braking in two halves longer than that, ``2 f(v/2)``. For durations in between a joint that has a little
  too much time has no path with a cruise; what the two nearest paths of that duration cover brackets the target, and their
  weighted mean covers it exactly (limits are convex, the motion is linear in the jerk).

A path takes as long as the slowest joint's fastest (Ruckig's time synchronisation). Where a path with a cruise exists it is
Ruckig's; for the weighted means Ruckig has other shapes of equal duration and end
(the difference is measured in ``tests/test_simpler_batched_motion.py``). Source: Berscheid and Kroeger 2021, arXiv:2105.04830.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.simpler.motion import MotionLimits

_HALVINGS = 64
"""Of the interval that holds a cruise velocity: from 3 rad/s to below what float64 resolves."""


class BatchedPlan(NamedTuple):
    """Joint paths sampled at the physics rate: index k is k physics steps after the action."""

    position: Tensor
    """[N, K+1, D], rad, float64."""
    velocity: Tensor
    """[N, K+1, D], rad/s, float64."""
    duration_s: Tensor
    """[N]: when all joints of an environment are at rest at their targets."""
    is_blended: Tensor
    """[N, D] bool: the path is a weighted mean, not Ruckig's."""


def plan_jerk_limited_batch(
    start_position: Tensor,
    start_velocity: Tensor,
    target_position: Tensor,
    limits: MotionLimits,
    *,
    num_steps: int,
    step_s: float,
) -> BatchedPlan:
    """Time-synchronised, jerk-limited paths to rest at the targets, starting with zero acceleration.

    Args:
        start_position: [N, D] rad.
        start_velocity: [N, D] rad/s, within the velocity limit.
        target_position: [N, D] rad.
        limits: shared by all joints.
        num_steps: K, physics steps in one action.
        step_s: duration of a physics step.

    Returns:
        K+1 samples; past the end of a path its last state.
    """
    start_position, start_velocity, target_position = (
        tensor.to(torch.float64) for tensor in (start_position, start_velocity, target_position)
    )
    sign = torch.where(start_velocity < 0, -1.0, 1.0).to(torch.float64)  # mirrored, so that all start forwards
    speed, distance = start_velocity * sign, (target_position - start_position) * sign
    solver = _Solver(speed, distance, limits)
    duration_s = solver.fastest_s().amax(dim=1)
    slower, faster, weight, is_blended = solver.cruise(duration_s[:, None])
    times_s = (torch.arange(num_steps + 1, dtype=torch.float64, device=speed.device) * step_s)[None, :, None]
    (travel, rate), (travel_faster, rate_faster) = (
        _sample(speed[:, None], cruise[:, None], duration_s[:, None, None], times_s, limits) for cruise in (slower, faster)
    )
    travel = travel + weight[:, None] * (travel_faster - travel)
    rate = rate + weight[:, None] * (rate_faster - rate)
    is_over = times_s >= duration_s[:, None, None]
    return BatchedPlan(
        position=torch.where(is_over, target_position[:, None], start_position[:, None] + sign[:, None] * travel),
        velocity=torch.where(is_over, torch.zeros_like(rate), sign[:, None] * rate),
        duration_s=duration_s,
        is_blended=is_blended,
    )


def speed_change_s(change: Tensor, limits: MotionLimits) -> Tensor:
    """Shortest time for a change of speed (rad/s, not negative) that begins and ends without acceleration."""
    ramp_s = _ramp_s(change, limits)
    return ramp_s + change / (limits.jerk_rad_s3 * ramp_s.clamp(min=1e-300))


def _ramp_s(change: Tensor, limits: MotionLimits) -> Tensor:
    """How long the acceleration grows, and shrinks, in such a change."""
    return (change / limits.jerk_rad_s3).sqrt().clamp(max=limits.acceleration_rad_s2 / limits.jerk_rad_s3)


class _Solver:
    """Cruise velocities of many joints, all mirrored so that they start forwards.

    Args:
        speed: [N, D] at the start, rad/s, at least 0.
        distance: [N, D] to the target, rad, either sign.
        limits: of all joints.
    """

    def __init__(self, speed: Tensor, distance: Tensor, limits: MotionLimits) -> None:
        self._speed, self._distance, self._limits = speed, distance, limits

    def fastest_s(self) -> Tensor:
        """[N, D]: the shortest duration."""
        limit = torch.full_like(self._speed, self._limits.velocity_rad_s)
        is_beyond = self._distance >= self._travel(torch.zeros_like(self._speed), 0.0)
        low = torch.where(is_beyond, self._speed, -limit)
        high = torch.where(is_beyond, limit.maximum(self._speed), 0.0)
        cruise = self._root(low, high, 0.0)
        rest = self._distance - self._travel(cruise, 0.0)  # what is left to cruise at the velocity limit
        is_limited = cruise.abs() >= self._limits.velocity_rad_s * (1.0 - 1e-12)
        cruise_s = torch.where(is_limited, rest / torch.where(is_limited, cruise, 1.0), 0.0).clamp(min=0.0)
        return self._changes_s(cruise) + cruise_s

    def cruise(self, duration_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The paths of a given duration.

        Args:
            duration_s: [N, 1], no shorter than the joints' shortest.

        Returns:
            Cruise velocities of two paths, the second path's weight in their mean, and whether they differ; [N, D] each.
        """
        limit, zero = torch.full_like(self._speed, self._limits.velocity_rad_s), torch.zeros_like(self._speed)
        half = self._speed / 2
        has_gap = self._changes_s(half) > duration_s
        edge = self._edge(half, duration_s)  # cruising no faster than this, or no slower than its mirror image
        low_edge, high_edge = torch.where(has_gap, edge, half), torch.where(has_gap, self._speed - edge, half)
        at_low, at_high = self._travel(low_edge, duration_s), self._travel(high_edge, duration_s)
        is_slow, is_fast = self._distance <= at_low, self._distance >= at_high
        low = torch.where(is_slow, -limit, high_edge)
        high = torch.where(is_slow, low_edge, limit.maximum(self._speed))
        root = self._root(low, high, duration_s)
        is_blended = ~is_slow & ~is_fast
        weight = torch.where(is_blended, (self._distance - at_low) / (at_high - at_low).clamp(min=1e-300), zero)
        return torch.where(is_blended, low_edge, root), torch.where(is_blended, high_edge, root), weight, is_blended

    def _changes_s(self, cruise: Tensor) -> Tensor:
        """Time for the change to a cruise velocity and from it to zero."""
        return speed_change_s((cruise - self._speed).abs(), self._limits) + speed_change_s(cruise.abs(), self._limits)

    def _travel(self, cruise: Tensor, duration_s: Tensor | float) -> Tensor:
        """What a path covers, rad; where the duration is too short for its two changes, without any cruise."""
        to_s = speed_change_s((cruise - self._speed).abs(), self._limits)
        from_s = speed_change_s(cruise.abs(), self._limits)
        cruise_s = (duration_s - to_s - from_s).clamp(min=0.0)
        return (self._speed + cruise) / 2 * to_s + cruise * cruise_s + cruise / 2 * from_s

    def _root(self, low: Tensor, high: Tensor, duration_s: Tensor | float) -> Tensor:
        """The cruise velocity in [low, high] with which the distance is covered, or the nearer end."""
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            is_short = self._travel(middle, duration_s) < self._distance
            low, high = torch.where(is_short, middle, low), torch.where(is_short, high, middle)
        return high

    def _edge(self, half: Tensor, duration_s: Tensor) -> Tensor:
        """The largest cruise velocity in [0, half] whose two changes fit in the duration, where that of half does not."""
        low, high = torch.zeros_like(half), half
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            is_fitting = self._changes_s(middle) <= duration_s
            low, high = torch.where(is_fitting, middle, low), torch.where(is_fitting, high, middle)
        return low


def _sample(speed: Tensor, cruise: Tensor, duration_s: Tensor, times_s: Tensor, limits: MotionLimits) -> tuple[Tensor, Tensor]:
    """Distance covered and velocity of paths with a cruise.

    Args:
        speed: [N, 1, D] at the start, rad/s.
        cruise: [N, 1, D] rad/s.
        duration_s: [N, 1, 1].
        times_s: [1, K+1, 1].
        limits: of all joints.

    Returns:
        [N, K+1, D] rad and rad/s: the sum over all jerk steps of what each contributes from its time on.
    """
    travel, velocity = speed * times_s, speed.expand(-1, times_s.shape[1], -1)
    changes = ((cruise - speed, torch.zeros_like(cruise)), (-cruise, duration_s - speed_change_s(cruise.abs(), limits)))
    for change, start_s in changes:
        ramp_s, whole_s = _ramp_s(change.abs(), limits), speed_change_s(change.abs(), limits)
        jerk = limits.jerk_rad_s3 * torch.sign(change)
        for sign, offset_s in ((1.0, 0.0), (-1.0, ramp_s), (-1.0, whole_s - ramp_s), (1.0, whole_s)):
            since_s = (times_s - start_s - offset_s).clamp(min=0.0)
            velocity = velocity + sign * jerk / 2 * since_s**2
            travel = travel + sign * jerk / 6 * since_s**3
    return travel, velocity
