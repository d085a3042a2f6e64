"""A hold by a leader arm: since the press the robot's tool is to have moved as the leader's has.

The supervisor takes velocities from a person (:class:`robot_drivers.messages.HumanInput`). The velocity asked for here is in
proportion to what is left between where the tool was last commanded and where it is to be, so that what a limit of the supervisor
took away is made up for, and errors do not add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from console.leader_arm import LeaderArm, LeaderGoneError, LeaderReading
from console.page_messages import Lead
from robot_drivers import messages as m
from robot_drivers.driver import Pose
from robot_drivers.poses import delta, moved
from robot_drivers.states import State

_GAIN_PER_S = 5.0
"""Velocity per distance left. With a status every 50 ms and input every 33 ms it settles without overshoot; 20 would swing."""
_ACTION_DIM = 7
Twist = tuple[float, float, float, float, float, float]
_STILL: Twist = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What is asked of the supervisor: the fields of a HumanInput."""

    twist: tuple[Twist, ...]
    """[N, 6]: m/s and rad/s, base frame."""
    gripper_opening: tuple[float | None, ...]
    """[N]."""
    age_s: float
    """Of the leader's reading."""


class LeaderHold:
    """One page's way to drive with the leader arm.

    Consumes: the leader's readings, the supervisor's statuses. Produces: velocities. Waits for: nothing. Invariant: each new
    fence number begins anew from where robot and leader are then; before the supervisor's word that it counts, nothing is asked.
    """

    def __init__(self, leader: LeaderArm) -> None:
        """Nothing is held yet."""
        self._leader = leader
        self._held: tuple[str, int, int] | None = None
        self._last: LeaderReading | None = None
        self._target: Pose | None = None

    def motion(self, message: Lead, welcome: m.Welcome, status: m.Status | None) -> Motion:
        """What the hold asks for now.

        Args:
            message: of the page that holds; its ``scale`` makes the robot's motion smaller than the leader's.
            welcome: of the robot's supervisor.
            status: its newest; None before the first.

        Raises:
            LeaderGoneError: if the leader is lost, silent for longer than the lease, or another's; or the robot has no such arm.
        """
        arm, num_arms = message.arm, len(welcome.arms)
        if arm >= num_arms:
            raise LeaderGoneError(f"no arm {arm} to lead; this robot has {num_arms}")
        self._leader.use(self, welcome.lease_ttl_s)
        reading = self._leader.latest(welcome.lease_ttl_s)
        held = (message.robot, message.fence, arm)
        if held != self._held:
            self._held, self._target = held, None
        twist, opening = _STILL, None
        has_control = status is not None and status.state is State.HUMAN and status.fence == message.fence
        if status is not None and has_control and len(status.arms) == num_arms:
            twist, opening = self._follow(message, welcome, status.arms[arm], reading), reading.gripper_opening
        return Motion(
            twist=tuple(twist if index == arm else _STILL for index in range(num_arms)),
            gripper_opening=tuple(opening if index == arm else None for index in range(num_arms)),
            age_s=self._leader.age_s(reading),
        )

    def _follow(self, message: Lead, welcome: m.Welcome, arm: m.ArmStatus, reading: LeaderReading) -> Twist:
        commanded = Pose(position_m=np.array(arm.commanded_position_m), quaternion_wxyz=np.array(arm.commanded_quaternion_wxyz))
        if self._target is None or self._last is None:
            self._target = commanded
        else:
            # By the change since the last frame, so that another scale counts from now on, and half a turn is no ambiguity.
            translation_m, rotation_rad = delta(self._last.pose, reading.pose)
            self._target = moved(
                self._target, translation_m=message.scale * translation_m, rotation_rad=message.scale * rotation_rad
            )
        self._last = reading
        wanted = _GAIN_PER_S * np.concatenate(delta(commanded, self._target))
        first = _ACTION_DIM * message.arm
        fastest = welcome.control_hz * np.array(welcome.action_high[first : first + 6])
        ratio = float((np.abs(wanted) / fastest).max())
        x, y, z, about_x, about_y, about_z = (wanted / max(ratio, 1.0)).tolist()  # slower, in the same direction
        return x, y, z, about_x, about_y, about_z
