"""Between what is asked and what an arm is told: a pure function, tick by tick, that keeps every limit whatever is asked.

Two steps. :meth:`SafetyFilter.compose` turns a policy's action, once, into the pose at which it ends: on the last *commanded*
end, not the measured one (that would lose the part not yet moved), with a bounded lead over the measured pose (else commands
wind up against an obstacle). :meth:`SafetyFilter.tick` moves the commanded pose towards a goal, along a velocity, or to a
standstill.

Why it cannot leave the box: a candidate for the next tick is taken only if a full brake from *it* stays inside box, cone and out
of the keep-out boxes; else this tick brakes, which the same test has proven safe one tick ago. The brakes and the jerk-limited
motion are ruckig's (Berscheid and Kröger, RSS 2021), each axis by itself: every axis then brakes as short as it can. Speed,
acceleration and jerk are limited to 1/sqrt(3) of the configured ones an axis, so that their lengths keep the limit in every
direction.

An arm that came to rest at a limit may stand a little beyond it (overshoot, sag, the sensors' last digit). It may begin to move
there, and goes no further out.

No clock, no random number, no input but the arguments: a recorded stream of requests gives the same bits again.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruckig
from numpy.typing import NDArray

from core.errors import RecapError
from robot_drivers import poses
from robot_drivers.driver import Pose
from robot_drivers.limits import ArmLimits, Box

ACTION_DIM = 7
"""An arm's action: dx, dy, dz [m], rx, ry, rz [rad] in the base frame, gripper opening 0 closed .. 1 open."""
_AXES = 6
_GOAL_MARGIN_M = 1e-5
_CONE_MARGIN_RAD = 1e-3
BEYOND_M = 0.003
"""So far beyond a limit an arm may stand and still begin to move, back inside; further out it is not overshoot any more."""
BEYOND_RAD = 0.01
_TOUCH_M = 1e-9
Vector = NDArray[np.float64]


class UnsafeError(RecapError, RuntimeError):
    """Motion cannot begin here, or a limit cannot be kept: the supervisor latches a fault."""


class Clip(enum.IntFlag):
    """Why something else was executed than was requested; a bitmask in every step's record."""

    NONE = 0
    NOT_FINITE = 1
    """A NaN or an infinity: the action is not executed at all."""
    SHAPE = 2
    LATE = 4
    """Came after its time: dropped."""
    GENERATION = 8
    """Of a motion that was ended: dropped."""
    STEP = 16
    """Longer than one action may be."""
    LEAD = 32
    """Too far ahead of the measured pose."""
    BOX = 64
    KEEP_OUT = 128
    CONE = 256
    SPEED = 512
    GRIPPER = 1024
    """Outside 0 .. 1."""


@dataclass(frozen=True, kw_only=True)
class Commanded:
    """What one arm was last told, with the derivatives that the next tick continues."""

    pose: Pose
    velocity: Vector
    """[6]: m/s, rad/s, base frame."""
    acceleration: Vector
    """[6]: m/s^2, rad/s^2."""
    goal: Pose
    """Where the last action ends; the next one is composed on it."""
    gripper_opening: float | None


@dataclass(frozen=True, kw_only=True)
class ToGoal:
    """Move to ``Commanded.goal`` and stand."""


@dataclass(frozen=True, kw_only=True)
class AlongTwist:
    """Move at a velocity, for this tick."""

    twist: Vector
    """[6]: m/s, rad/s, base frame."""


@dataclass(frozen=True, kw_only=True)
class Brake:
    """Come to a standstill."""


Motion = ToGoal | AlongTwist | Brake


class SafetyFilter:
    """One arm's limits, applied."""

    def __init__(self, limits: ArmLimits, period_s: float) -> None:
        self._limits = limits
        self._period_s = period_s
        self._low = np.array(limits.box.low_m)
        self._high = np.array(limits.box.high_m)
        self._cone_axis = np.array(limits.cone_axis) / np.linalg.norm(limits.cone_axis)
        self._planner = ruckig.Ruckig(_AXES, period_s)
        self._max_speed = self._per_axis(limits.max_linear_speed_m_s, limits.max_angular_speed_rad_s)
        self._max_acceleration = self._per_axis(limits.max_linear_acceleration_m_s2, limits.max_angular_acceleration_rad_s2)
        self._max_jerk = self._per_axis(limits.max_linear_jerk_m_s3, limits.max_angular_jerk_rad_s3)

    def start(self, measured: Pose) -> Commanded:
        """Begin at rest, where the arm is.

        Raises:
            UnsafeError: if it stands outside its limits by more than ``BEYOND_M`` or ``BEYOND_RAD``; it has to be brought back by
                other means.
        """
        position = measured.position_m
        if np.maximum(self._low - position, position - self._high).max() > BEYOND_M:
            raise UnsafeError(
                f"the tool is at {_round(position)} m, outside its box {_round(self._low)} to {_round(self._high)}; move it "
                "inside by hand or with the vendor's pendant"
            )
        for box in self._limits.keep_out:
            if _depth_m(box, position).min() > min(BEYOND_M, _thickness_m(box) / 4):
                raise UnsafeError(f"the tool is at {_round(position)} m, inside the keep-out box {box.low_m} to {box.high_m}")
        if (tilt := self._tilt_rad(measured)) > self._limits.cone_half_angle_rad + BEYOND_RAD:
            raise UnsafeError(f"the tool is tilted by {tilt:.2f} rad; at most {self._limits.cone_half_angle_rad} is allowed")
        zero = np.zeros(_AXES)
        return Commanded(pose=measured, velocity=zero, acceleration=zero, goal=measured, gripper_opening=None)

    def compose(self, commanded: Commanded, action: Sequence[float], *, measured: Pose) -> tuple[Commanded, Clip]:
        """Put one action on top of the last.

        Args:
            commanded: of the last tick.
            action: [7]; see ``ACTION_DIM``.
            measured: where the arm was last seen.

        Returns:
            With the new goal, or unchanged if the action is not one; and what was clipped.
        """
        values = np.array(action, dtype=np.float64)
        if values.shape != (ACTION_DIM,):
            return commanded, Clip.SHAPE
        if not np.isfinite(values).all():
            return commanded, Clip.NOT_FINITE
        limits, clip = self._limits, Clip.NONE
        translation, step_clip = _shortened(values[:3], limits.max_step_m, Clip.STEP)
        rotation, turn_clip = _shortened(values[3:6], limits.max_step_rad, Clip.STEP)
        goal = poses.moved(commanded.goal, translation_m=translation, rotation_rad=rotation)
        goal, goal_clip = self.allowed(goal, measured=measured)
        opening = min(1.0, max(0.0, float(values[6])))
        if opening != values[6]:
            clip |= Clip.GRIPPER
        changed = Commanded(
            pose=commanded.pose,
            velocity=commanded.velocity,
            acceleration=commanded.acceleration,
            goal=goal,
            gripper_opening=opening,
        )
        return changed, clip | step_clip | turn_clip | goal_clip

    def allowed(self, goal: Pose, *, measured: Pose) -> tuple[Pose, Clip]:
        """The nearest goal that is inside lead, box and cone. Keep-out boxes are left to :meth:`tick`: it stops before them."""
        limits = self._limits
        ahead, turned = poses.delta(measured, goal)
        ahead, lead_clip = _shortened(ahead, limits.max_lead_m, Clip.LEAD)
        turned, turn_clip = _shortened(turned, limits.max_lead_rad, Clip.LEAD)
        clip = lead_clip | turn_clip
        if clip:
            goal = poses.moved(measured, translation_m=ahead, rotation_rad=turned)
        inside = np.clip(goal.position_m, self._low + _GOAL_MARGIN_M, self._high - _GOAL_MARGIN_M)
        if np.abs(inside - goal.position_m).max() > 2 * _GOAL_MARGIN_M:
            clip |= Clip.BOX
        excess = self._tilt_rad(goal) - (limits.cone_half_angle_rad - 2 * _CONE_MARGIN_RAD)
        back = np.zeros(3)
        if excess > 0:
            clip |= Clip.CONE
            back = excess * self._towards_cone_axis(goal)
        return poses.moved(
            Pose(position_m=inside, quaternion_wxyz=goal.quaternion_wxyz), translation_m=np.zeros(3), rotation_rad=back
        ), clip

    def tick(self, commanded: Commanded, motion: Motion, *, measured: Pose) -> tuple[Commanded, Clip]:
        """The next commanded pose, one period later.

        Raises:
            UnsafeError: if the planner finds no motion at all, which is a bug or numbers beyond all reason.
        """
        planned, clip = self._planned(commanded, motion, measured)
        braking = self._advance(commanded, self._plan(commanded, np.zeros(_AXES), is_velocity=True))
        if planned is None:
            return braking, clip
        candidate = planned
        low, high = self._brake_extent(candidate)
        lowest, highest = np.minimum(self._low, commanded.pose.position_m), np.maximum(self._high, commanded.pose.position_m)
        is_out = np.concatenate([(low < lowest) | (high > highest), np.zeros(3, bool)])
        if is_out.any():
            clip |= Clip.BOX
            candidate = self._mixed(candidate, braking, is_out, commanded)
            low, high = self._brake_extent(candidate)
        low = np.minimum(low, commanded.pose.position_m)
        high = np.maximum(high, commanded.pose.position_m)
        if any(_overlap(_left_from(box, commanded.pose.position_m), low, high) for box in self._limits.keep_out):
            clip |= Clip.KEEP_OUT
            candidate = self._mixed(candidate, braking, np.array([True] * 3 + [False] * 3), commanded)
        if not self._brakes_inside_cone(candidate, self._tilt_rad(commanded.pose)):
            clip |= Clip.CONE
            candidate = self._mixed(candidate, braking, np.array([False] * 3 + [True] * 3), commanded)
        return candidate, clip

    def executed(self, before: Commanded, after: Commanded) -> tuple[float, ...]:
        """[7]: the motion commanded between two moments, in action units; 0 for a gripper that is not there."""
        translation, rotation = poses.delta(before.pose, after.pose)
        return (*translation.tolist(), *rotation.tolist(), after.gripper_opening or 0.0)

    def _planned(self, commanded: Commanded, motion: Motion, measured: Pose) -> tuple[Commanded | None, Clip]:
        if isinstance(motion, Brake):
            return None, Clip.NONE
        if isinstance(motion, ToGoal):
            goal, clip = self.allowed(commanded.goal, measured=measured)
            translation, rotation = poses.delta(commanded.pose, goal)
            steps = np.concatenate([translation, rotation])
            return self._advance(commanded, self._plan(commanded, steps, is_velocity=False)), clip
        if motion.twist.shape != (_AXES,) or not np.isfinite(motion.twist).all():
            return None, Clip.NOT_FINITE
        twist, clip = motion.twist.copy(), Clip.NONE
        for part in (slice(0, 3), slice(3, 6)):
            excess = float((np.abs(twist[part]) / self._max_speed[part]).max())
            if excess > 1:
                twist[part] /= excess
                clip |= Clip.SPEED
        lead = poses.delta(measured, commanded.pose)
        bounds = (self._limits.max_lead_m, self._limits.max_lead_rad)
        for part, ahead, bound in zip((slice(0, 3), slice(3, 6)), lead, bounds, strict=True):
            if np.linalg.norm(ahead) > bound and twist[part] @ ahead > 0:
                twist[part] = 0.0
                clip |= Clip.LEAD
        following = self._advance(commanded, self._plan(commanded, twist, is_velocity=True))
        return Commanded(
            pose=following.pose,
            velocity=following.velocity,
            acceleration=following.acceleration,
            goal=following.pose,
            gripper_opening=following.gripper_opening,
        ), clip

    def _plan(self, commanded: Commanded, target: Vector, *, is_velocity: bool) -> ruckig.Trajectory:
        """From the commanded pose, as zero, to a displacement [6] or a velocity [6]."""
        problem = ruckig.InputParameter(_AXES)
        problem.synchronization = ruckig.Synchronization.No
        problem.current_position = [0.0] * _AXES
        problem.current_velocity = commanded.velocity.tolist()
        problem.current_acceleration = commanded.acceleration.tolist()
        problem.max_velocity = self._max_speed.tolist()
        problem.max_acceleration = self._max_acceleration.tolist()
        problem.max_jerk = self._max_jerk.tolist()
        if is_velocity:
            problem.control_interface = ruckig.ControlInterface.Velocity
            problem.target_velocity = target.tolist()
        else:
            problem.target_position = target.tolist()
        trajectory = ruckig.Trajectory(_AXES)
        result = self._planner.calculate(problem, trajectory)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise UnsafeError(
                f"no motion found: {result}; from velocity {commanded.velocity} to {target}, velocity={is_velocity}"
            )
        return trajectory

    def _advance(self, commanded: Commanded, trajectory: ruckig.Trajectory) -> Commanded:
        step, velocity, acceleration = (np.array(values) for values in trajectory.at_time(self._period_s))
        return Commanded(
            pose=poses.moved(commanded.pose, translation_m=step[:3], rotation_rad=step[3:]),
            velocity=velocity,
            acceleration=acceleration,
            goal=commanded.goal,
            gripper_opening=commanded.gripper_opening,
        )

    def _mixed(self, candidate: Commanded, braking: Commanded, is_braked: NDArray[np.bool_], before: Commanded) -> Commanded:
        """The candidate, with some axes braked instead; axes do not depend on each other."""
        turn = braking if is_braked[3] else candidate
        position = np.where(is_braked[:3], braking.pose.position_m, candidate.pose.position_m)
        return Commanded(
            pose=Pose(position_m=position, quaternion_wxyz=turn.pose.quaternion_wxyz),
            velocity=np.where(is_braked, braking.velocity, candidate.velocity),
            acceleration=np.where(is_braked, braking.acceleration, candidate.acceleration),
            goal=candidate.goal,
            gripper_opening=before.gripper_opening,
        )

    def _brake_extent(self, candidate: Commanded) -> tuple[Vector, Vector]:
        """Lowest and highest position [3] on the way to a standstill."""
        extrema = self._plan(candidate, np.zeros(_AXES), is_velocity=True).position_extrema[:3]
        position = candidate.pose.position_m
        lowest = position + np.array([min(0.0, bound.min) for bound in extrema])
        highest = position + np.array([max(0.0, bound.max) for bound in extrema])
        return lowest, highest

    def _brakes_inside_cone(self, candidate: Commanded, tilt_rad: float) -> bool:
        """Whether the tool stays in the cone, or within its present tilt, on the way to a standstill, tick by tick."""
        bound = max(self._limits.cone_half_angle_rad - _CONE_MARGIN_RAD, tilt_rad)
        trajectory = self._plan(candidate, np.zeros(_AXES), is_velocity=True)
        reach = math.sqrt(sum(max(abs(axis.min), abs(axis.max)) ** 2 for axis in trajectory.position_extrema[3:]))
        if self._tilt_rad(candidate.pose) + reach <= bound:
            return True
        pose, turned = candidate.pose, np.zeros(3)
        for index in range(math.ceil(trajectory.duration / self._period_s) + 1):
            now = np.array(trajectory.at_time(index * self._period_s)[0][3:])
            pose, turned = poses.moved(pose, translation_m=np.zeros(3), rotation_rad=now - turned), now
            if self._tilt_rad(pose) > bound:
                return False
        return True

    def _tilt_rad(self, pose: Pose) -> float:
        axis = poses.direction(pose, self._limits.tool_axis)
        return math.atan2(float(np.linalg.norm(np.cross(axis, self._cone_axis))), float(axis @ self._cone_axis))

    def _towards_cone_axis(self, pose: Pose) -> Vector:
        """[3]: unit rotation axis that turns the tool back into the cone."""
        axis = np.cross(poses.direction(pose, self._limits.tool_axis), self._cone_axis)
        length = float(np.linalg.norm(axis))
        if length < 1e-9:  # pointing the opposite way: any axis across will do
            axis = np.cross(self._cone_axis, np.eye(3)[int(np.argmin(np.abs(self._cone_axis)))])
            length = float(np.linalg.norm(axis))
        return np.asarray(axis / length)

    @staticmethod
    def _per_axis(linear: float, angular: float) -> Vector:
        return np.array([linear] * 3 + [angular] * 3) / math.sqrt(3)


def _shortened(vector: Vector, longest: float, reason: Clip) -> tuple[Vector, Clip]:
    length = float(np.linalg.norm(vector))
    return (vector, Clip.NONE) if length <= longest else (vector * (longest / length), reason)


def _depth_m(box: Box, position: Vector) -> Vector:
    """[6]: how far inside each face, low ones first; negative where outside it."""
    return np.concatenate([position - np.array(box.low_m), np.array(box.high_m) - position])


def _thickness_m(box: Box) -> float:
    return float((np.array(box.high_m) - np.array(box.low_m)).min())


def _left_from(box: Box, position: Vector) -> tuple[Vector, Vector]:
    """Lowest and highest corner of a keep-out box; if ``position`` is in it, of the part behind, seen from the nearest face."""
    corners, depth = np.array([box.low_m, box.high_m]), _depth_m(box, position)
    if (depth >= 0).all():
        side, axis = divmod(int(depth.argmin()), 3)
        corners[side, axis] = position[axis] + (_TOUCH_M if side == 0 else -_TOUCH_M)
    return corners[0], corners[1]


def _overlap(corners: tuple[Vector, Vector], low: Vector, high: Vector) -> bool:
    return bool((high >= corners[0]).all() and (low <= corners[1]).all())


def _round(vector: Vector) -> list[float]:
    return [round(float(value), 4) for value in vector]
