"""What a client is told about the robot before anything else."""

from __future__ import annotations

import math

from robot_drivers import messages as m
from robot_drivers.limits import RobotConfig
from robot_drivers.states import Role

_NAMES = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
_UNITS = ("m", "m", "m", "rad", "rad", "rad", "1")


def welcome(config: RobotConfig, role: Role) -> m.Welcome:
    """Arms, actions and limits, for a client of that role.

    An entry's bounds are the longest step's share of one axis, so that no action within them is shortened.
    """
    bounds = [(arm.limits.max_step_m / math.sqrt(3), arm.limits.max_step_rad / math.sqrt(3)) for arm in config.arms]
    return m.Welcome(
        version=m.VERSION,
        role=role,
        robot=config.name,
        arms=tuple(arm.name for arm in config.arms),
        action_names=tuple(f"{arm.name}.{name}" for arm in config.arms for name in _NAMES),
        action_units=_UNITS * len(config.arms),
        action_low=tuple(v for step, turn in bounds for v in (-step, -step, -step, -turn, -turn, -turn, 0.0)),
        action_high=tuple(v for step, turn in bounds for v in (step, step, step, turn, turn, turn, 1.0)),
        control_hz=config.control_hz,
        limits_digest=config.digest,
        lease_ttl_s=config.lease_ttl_s,
    )
