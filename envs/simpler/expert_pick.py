"""Picking up, scripted: to a point behind the grasp along the approach axis, in, close, lift.

The part that any expert needs which first takes something into its hand: others go on from the phase ``lift``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.expert_base import Array, Grip, Pose, ScriptedExpert

_CENTER_OFFSET_M = -0.0076
"""Along a can's y axis, from its origin to the middle of its height."""
_STANDING_GRASP_M = 0.022
"""Above the middle of a standing can: where the fingers do not reach the table."""
_FINGER_ROOM_M = 0.013
"""Between tool and table. Closing finger tips swing to 6 mm below the tool, and the tool is a little aslant."""
_ROUND_SHARE = 0.12
_LEFT_BEHIND_M = 0.09
"""A can farther than this from the lifting tool is not in it. (The gripper's closedness does not tell: it closes by a fixed
amount and ends at 0.83, empty or not quite.)"""


def grasp_pose(item: Pose, tool: Pose) -> Pose:
    """Where the tool should be when the fingers close on a can (its long axis is y; the tool closes along y, looks along z).

    The tool keeps looking where it looks (turning its approach direction too would run the wrist into its limit, where the
    inverse kinematics fail and the arm freezes). For a lying can it turns about that direction, the shorter way, until it
    closes across the can.
    """
    axis = item.axis(1)
    center = item.position + _CENTER_OFFSET_M * axis
    if abs(axis[2]) > 0.7:
        return Pose(center + np.array([0.0, 0.0, _STANDING_GRASP_M]), tool.rotation)
    return Pose(center, closing_along(np.cross([0.0, 0.0, 1.0], axis), tool))


def closing_along(across: Array, tool: Pose) -> Rotation:
    """The tool turned about its approach direction until it closes along a direction [3], the shorter way."""
    approach = tool.axis(2)
    across = across * np.sign(np.dot(across, tool.axis(1)))  # both directions of closing are equal: take the nearer
    closing = across - np.dot(across, approach) * approach
    closing = closing / np.linalg.norm(closing)
    return Rotation.from_matrix(np.stack([np.cross(closing, approach), closing, approach], axis=1))


def box_grasp_pose(item: Pose, bounds: Array, tool: Pose, *, finger_room_m: float = _FINGER_ROOM_M) -> Pose:
    """Where the tool should be when the fingers close on an object of which only the box is known.

    They close across the shorter of its horizontal sides (a round one as the tool comes), at the middle of its height, or
    above it where it is so tall or so flat that the fingers would reach the table.

    Args:
        item: of the object.
        bounds: smallest and largest corner [2, 3] of the box in the object's frame, m.
        tool: present pose; the grasp keeps looking where it looks.
        finger_room_m: at least between the tool and what the object lies on.
    """
    axes, half = item.rotation.as_matrix(), (bounds[1] - bounds[0]) / 2
    center = item.position + item.rotation.apply(bounds.mean(axis=0))
    vertical = int(np.argmax(np.abs(axes[2])))
    first, second = (axis for axis in range(3) if axis != vertical)
    if abs(half[first] - half[second]) < _ROUND_SHARE * max(half[first], half[second]):
        rotation = tool.rotation
    else:
        shorter = first if half[first] < half[second] else second
        rotation = closing_along(axes[:, shorter], tool)
    is_tall = half[vertical] > 1.3 * max(half[first], half[second])
    rise = _STANDING_GRASP_M if is_tall else max(0.0, finger_room_m - half[vertical])
    return Pose(center + np.array([0.0, 0.0, rise]), rotation)


class PickExpert(ScriptedExpert):
    """Picks up the object that the instruction is about.

    Phases: approach, advance, close, lift, then rest; hesitate and retreat interrupt the first two.
    """

    grasp_tolerance = 1.0
    """How exactly the tool must be in place before it closes, in multiples of 12 mm and 0.08 rad."""

    def _first_phase(self) -> str:
        self._lift_goal: Pose | None = None
        is_near = float(np.linalg.norm(self._item().position - self._start.position)) < 0.05
        return "close" if self._env.gripper_closedness() > 0.2 and is_near else "approach"

    def _item(self) -> Pose:
        return Pose.of(self._env.object_pose().base)

    def _grasp_of(self, item: Pose, tool: Pose) -> Pose:
        """Where a tool should be when it closes on the object."""
        return grasp_pose(item, tool)

    def _look(self, tool: Pose) -> None:
        # The tool's orientation is planned from where it started, so that it does not follow its own turning.
        self._grasp = self._short(self._grasp_of(self._item(), Pose(tool.position, self._start.rotation)))
        grasp = self._grasp
        self._pre_grasp = Pose(grasp.position - self.config.standoff_m * grasp.axis(2), grasp.rotation)

    def _distance(self, tool: Pose) -> float:
        return float(np.linalg.norm(self._grasp.position - tool.position))

    def _advance_phase(self, tool: Pose) -> None:
        config, behaviour = self.config, self.behaviour
        if self.phase == "approach" and self._is_at(self._pre_grasp, tool, 2.5):
            self._enter("advance")
        elif self.phase == "advance":
            is_early = behaviour.early_grip_m is not None and self._distance(tool) < behaviour.early_grip_m
            if is_early or self._is_at(self._grasp, tool, self.grasp_tolerance) or self._phase_steps >= 14:
                self._enter("close")
        elif self.phase == "close" and self._phase_steps >= (1 if behaviour.is_late_grip else config.close_steps):
            self._lift_goal = tool.raised(config.lift_m)
            self._enter("lift")
        elif self.phase == "lift" and self._phase_steps >= 3 and self._has_missed(tool):
            self._miss("approach")

    def _has_missed(self, tool: Pose) -> bool:
        return float(np.linalg.norm(self._item().position - tool.position)) > _LEFT_BEHIND_M

    def _intend(self, tool: Pose) -> NDArray[np.float32]:
        if self.phase == "approach":
            is_open = self._env.gripper_closedness() < 0.05
            return self._servo(tool, self._detour(tool, self._pre_grasp), Grip.KEEP if is_open else Grip.OPEN)
        if self.phase == "advance":
            return self._servo(tool, self._grasp, Grip.KEEP)
        if self.phase == "close":
            keeps_coming = self.behaviour.early_grip_m is not None
            return self._servo(tool, self._grasp if keeps_coming else tool, Grip.CLOSE)
        if self.phase == "lift" and self._lift_goal is not None:
            return self._servo(tool, self._lift_goal, Grip.CLOSE)
        return self._stand_still()


class PickAnyExpert(PickExpert):
    """Picks up whatever the instruction is about, by its box."""

    grasp_tolerance = 0.5

    def _grasp_of(self, item: Pose, tool: Pose) -> Pose:
        return box_grasp_pose(item, self._env.object_bounds(), tool)
