"""SIMPLER's WidowX controllers: an end-effector delta pose for the arm, a position for the gripper.

Hop 1 of the tour, inside ``env.step``. Unlike the Google robot's (:mod:`envs.simpler.controllers`) nothing is planned: each
action sets the drive targets once. The pose delta is relative to the previous *target*, not to the measured pose, and turns it
about the *measured* tool point. An inverse-kinematics failure means "go to where the arm is now", but the target pose moves on.
Numbers: SIMPLER, Li et al. 2024, arXiv:2405.05941, and its public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sapien
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.controllers import DriveConfig, DrivenJoints, ToolSolver
from envs.simpler.native import unwrap


def pivoted_target_pose(previous: sapien.Pose, pivot: NDArray[np.floating[Any]], delta: NDArray[np.float64]) -> sapien.Pose:
    """Turn a target pose about a point and shift it, both along the axes of the robot's base.

    Args:
        previous: target of the last action, in the base frame.
        pivot: [3], where the tool is measured to be, m.
        delta: [6], position (m) and axis-angle rotation (rad).

    Returns:
        Position ``pivot + d + R(delta) (p - pivot)``, rotation ``R(delta) R``.
    """
    x, y, z, w = Rotation.from_rotvec(delta[3:6]).as_quat()
    return sapien.Pose(pivot) * sapien.Pose(delta[:3], [w, x, y, z]) * sapien.Pose(-pivot) * previous


def finger_position_m(command: Any, range_m: tuple[float, float]) -> Any:
    """Where a command sends the fingers: +1 to the upper end of the range, -1 to the lower; clipped.

    Args:
        command: number, array or tensor of any shape.
        range_m: closed and open.

    Example:
        >>> float(finger_position_m(np.float64(-3.0), (0.014, 0.038)))
        0.014
    """
    low, high = range_m
    return low + (command.clip(-1.0, 1.0) + 1.0) / 2.0 * (high - low)


class ArmTargetController(DrivenJoints):
    """``arm_pd_ee_target_delta_pose_align2``: six numbers move the target tool pose of six joints."""

    config: ArmTargetConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        tool = unwrap(next(link for link in self.articulation.links if link.name == self.config.tool_link))
        self._solver = ToolSolver(self._robot, tool, self._index)
        self.target_qpos = np.zeros(len(self._index))
        self.target_pose = sapien.Pose()

    def _initialize_action_space(self) -> None:
        high = np.array([1.0] * 3 + [np.pi / 2] * 3, dtype=np.float32)
        self.single_action_space = spaces.Box(-high, high, dtype=np.float32)

    @property
    def ik_failed(self) -> bool:
        """Whether the latest target could not be reached, so that the arm stays where it was."""
        return self._solver.has_failed

    def reset(self) -> None:
        """Hold where the joints are; the tool's present pose is the target."""
        super().reset()
        self.target_qpos = self._measured()[0]
        self.target_pose = self._solver.measured_pose()

    def set_action(self, action: torch.Tensor) -> None:
        """Drive towards the target tool pose, moved by one delta.

        Args:
            action: [1, 6], metres and axis-angle radians along base axes; neither normalised nor clipped.
        """
        delta = np.asarray(action, dtype=np.float64)[0]
        self.target_pose = pivoted_target_pose(self.target_pose, self._solver.measured_pose().p, delta)
        self.target_qpos = self._solver.solve(self.target_pose)
        self._drive_to(self.target_qpos)

    def get_state(self) -> dict[str, Any]:
        """The target that a delta is relative to: [1, 7], position then w, x, y, z, base frame."""
        pose = np.concatenate([self.target_pose.p, self.target_pose.q]).astype(np.float32)
        return {"target_pose": torch.from_numpy(pose[None])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` gave."""
        pose = np.asarray(state["target_pose"])[0]
        self.target_pose = sapien.Pose(pose[:3], pose[3:])


class GripperPositionController(DrivenJoints):
    """``gripper_pd_joint_pos``: one number opens (+1) or closes (-1) both fingers, and anything between."""

    config: GripperPositionConfig

    def _initialize_action_space(self) -> None:
        self.single_action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def reset(self) -> None:
        """Hold where the fingers are."""
        super().reset()
        self.target_qpos = self._measured()[0]

    def set_action(self, action: torch.Tensor) -> None:
        """Drive the fingers to a position.

        Args:
            action: [1, 1], clipped to [-1, 1].
        """
        command = np.asarray(action, dtype=np.float64)[0, 0]
        self.target_qpos = np.full(len(self._index), finger_position_m(command, self.config.range_m))
        self._drive_to(self.target_qpos)


@dataclass
class ArmTargetConfig(DriveConfig):
    """Six joints, their gains, and how the tool is found."""

    tool_link: str
    controller_cls = ArmTargetController


@dataclass
class GripperPositionConfig(DriveConfig):
    """Two fingers that share one command."""

    stiffness: float | list[float] = 1000.0
    damping: float | list[float] = 200.0
    force_limit: float | list[float] = 60.0
    range_m: tuple[float, float] = (0.014, 0.038)
    """Closed and open. A millimetre beyond the joints' limits on either side: that is what supplies the grip force."""
    controller_cls = GripperPositionController
