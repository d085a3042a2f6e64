"""Putting one thing onto another with the WidowX, scripted: spoon on towel, carrot on plate, cube on cube, eggplant in basket.

Hop 1 of the tour, on the acting side. Unlike the Google robot's, this arm's commands are relative to where the last one sent
it, and it follows slowly (a third of a second): the expert steers the commanded pose, and waits until the tool has come.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.expert_base import WIDOWX_GRIPPER, Array, Grip, Pose
from envs.simpler.expert_pick import box_grasp_pose
from envs.simpler.expert_place import PlaceExpert

_LOOKS_ALONG_Z = Rotation.from_matrix([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""From the experts' tool axes (z looks, y closes) to the WidowX's (x looks, y closes)."""
_FINGER_ROOM_M = 0.019
"""Between tool and table: the fingers end 16 mm beyond the tool."""
_SPOON_HANDLE_M = 0.03
"""From the middle of the spoon's box, where its neck is too thin for the fingers, to the thick of its handle."""
_LEFT_BEHIND_M = 0.045
"""What is farther than this from where it should be in the hand is not in it."""
_BASKET_DROP_M = 0.03
"""The gripper is wider than the basket's floor and must stay above its rim."""


def lowest(rotation: Rotation, bounds: Array) -> float:
    """Height of the lowest corner of a box over the origin of its frame, m.

    Args:
        rotation: of the frame.
        bounds: smallest and largest corner [2, 3] in it, m.
    """
    corners = np.array(list(itertools.product(*np.asarray(bounds).T)))
    return float(rotation.apply(corners)[:, 2].min())


class PutOnExpert(PlaceExpert):
    """Puts the source object on the middle of the target."""

    gripper = WIDOWX_GRIPPER
    grasp_tolerance = 0.35
    place_tolerance_m = 0.008

    def _first_phase(self) -> str:
        if "into" in self._env.instruction:
            self.drop_m = _BASKET_DROP_M
        return super()._first_phase()

    def _tool(self) -> Pose:
        return _turned(super()._tool())

    def _grasp_of(self, item: Pose, tool: Pose) -> Pose:
        grasp = box_grasp_pose(item, self._env.object_bounds(), tool, finger_room_m=_FINGER_ROOM_M)
        along_m = _SPOON_HANDLE_M if "spoon" in self._env.instruction else 0.0
        return Pose(grasp.position + along_m * item.axis(0), grasp.rotation)

    def _has_missed(self, tool: Pose) -> bool:
        return float(np.linalg.norm(self._grasp_of(self._item(), tool).position - tool.position)) > _LEFT_BEHIND_M

    def _choose_place(self, item: Pose) -> Array:
        target, bounds, item_bounds = Pose.of(self._env.target_pose().base), self._env.target_bounds(), self._env.object_bounds()
        middle = target.position + target.rotation.apply(bounds.mean(axis=0)) - item.rotation.apply(item_bounds.mean(axis=0))
        top = target.position[2] - lowest(target.rotation, -bounds)
        return np.array([*middle[:2], top - lowest(item.rotation, item_bounds)])

    def _servo(self, tool: Pose, goal: Pose, grip: Grip, *, max_step_m: float | None = None) -> NDArray[np.float32]:
        """One bounded step of the commanded pose towards a pose."""
        commanded = _turned(Pose.of(self._env.commanded_tcp_pose()))
        action = super()._servo(commanded, goal, grip, max_step_m=max_step_m)
        # The controller turns the commanded pose about the measured point: undo what that shifts.
        lead = commanded.position - tool.position
        action[:3] += (lead - Rotation.from_rotvec(action[3:6]).apply(lead)).astype(np.float32)
        return action


def _turned(tool: Pose) -> Pose:
    return Pose(tool.position, tool.rotation * _LOOKS_ALONG_Z)
