"""Jerk-limited joint paths: a pure function of arrays around Ruckig (Berscheid and Kroeger 2021, arXiv:2105.04830).

Used by the controllers at every action; needs no simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ruckig import InputParameter, Ruckig, RuckigError, Trajectory

from core.errors import NonFiniteError


@dataclass(frozen=True, kw_only=True)
class MotionLimits:
    """Limits of one joint-space plan, the same for every joint."""

    velocity_rad_s: float
    acceleration_rad_s2: float
    jerk_rad_s3: float


class JointPlan(NamedTuple):
    """A joint path sampled at the physics rate: index k is k physics steps after the action."""

    position: NDArray[np.float64]
    """[K+1, D], rad."""
    velocity: NDArray[np.float64]
    """[K+1, D], rad/s."""


def plan_jerk_limited(
    start_position: NDArray[np.float64],
    start_velocity: NDArray[np.float64],
    target_position: NDArray[np.float64],
    limits: MotionLimits,
    *,
    num_steps: int,
    step_s: float,
) -> JointPlan:
    """Time-synchronised, jerk-limited path to rest at the target, starting with zero acceleration.

    Args:
        start_position: [D] rad.
        start_velocity: [D] rad/s, within the velocity limit.
        target_position: [D] rad.
        limits: shared by all joints.
        num_steps: K, physics steps in one action.
        step_s: duration of a physics step.

    Returns:
        K+1 samples; past the end of the path its last state.

    Raises:
        NonFiniteError: if the joints are not finite, or beyond what can be planned.
    """
    dim = len(start_position)
    request = InputParameter(dim)
    request.current_position = start_position.tolist()
    request.current_velocity = start_velocity.tolist()
    request.current_acceleration = [0.0] * dim
    request.target_position = target_position.tolist()
    request.target_velocity = [0.0] * dim
    request.target_acceleration = [0.0] * dim
    request.max_velocity = [limits.velocity_rad_s] * dim
    request.max_acceleration = [limits.acceleration_rad_s2] * dim
    request.min_acceleration = [-limits.acceleration_rad_s2] * dim
    request.max_jerk = [limits.jerk_rad_s3] * dim
    trajectory = Trajectory(dim)
    try:
        Ruckig(dim).calculate(request, trajectory)
    except RuckigError as error:
        raise NonFiniteError(
            f"no joint path from position {start_position} rad at {start_velocity} rad/s to {target_position} rad: "
            f"{' '.join(str(error).split())}. The simulation has diverged; reset the environment."
        ) from error
    position, velocity = np.empty((num_steps + 1, dim)), np.empty((num_steps + 1, dim))
    last = num_steps
    for k in range(num_steps + 1):
        time_s = k * step_s
        position[k], velocity[k], _ = trajectory.at_time(min(time_s, trajectory.duration))
        if time_s >= trajectory.duration:
            last = k
            break
    position[last + 1 :], velocity[last + 1 :] = position[last], velocity[last]
    return JointPlan(position, velocity)
