"""The WidowX's controllers for many environments: :mod:`envs.simpler.widowx_controllers` with a leading dimension, in torch.

Hop 1 of the tour, inside ``env.step`` of a batched environment. Drive targets are set once per action, so on the GPU they are
handed over once per action too (by ManiSkill's step), not once per physics step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from mani_skill.utils.geometry.rotation_conversions import matrix_to_quaternion
from torch import Tensor

from envs.simpler.batched.controllers import BatchedDrivenJoints, BatchedToolSolver
from envs.simpler.batched.kinematics import rotation_of
from envs.simpler.widowx_controllers import ArmTargetConfig, GripperPositionConfig, finger_position_m


def pivoted_target_poses(previous: Tensor, pivot: Tensor, delta: Tensor) -> Tensor:
    """:func:`envs.simpler.widowx_controllers.pivoted_target_pose` of many: [N, 4, 4], [N, 3] and [N, 6] -> [N, 4, 4]."""
    turn = rotation_of(delta[:, 3:6])
    target = previous.clone()
    target[:, :3, :3] = turn @ previous[:, :3, :3]
    target[:, :3, 3] = pivot + delta[:, :3] + (turn @ (previous[:, :3, 3] - pivot)[..., None])[..., 0]
    return target


class BatchedArmTargetController(BatchedDrivenJoints):
    """:class:`envs.simpler.widowx_controllers.ArmTargetController` for many environments."""

    config: BatchedArmTargetConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        self._solver = BatchedToolSolver.of(self, self.config.tool_link)
        self.target_pose = self._solver.tool_pose(self.target_qpos)
        """[N, 4, 4], base frame: what a delta is relative to."""
        self.ik_failed = torch.zeros(self.scene.num_envs, dtype=torch.bool, device=self.device)
        """[N]: whether the latest target could not be reached, so that the arm stays where it was."""

    def _initialize_action_space(self) -> None:
        high = np.array([1.0] * 3 + [np.pi / 2] * 3, dtype=np.float32)
        self.single_action_space = spaces.Box(-high, high, dtype=np.float32)

    def restart(self, env_idx: Tensor) -> None:
        """As the base; the tool's present pose is the target."""
        super().restart(env_idx)
        self.target_pose[env_idx] = self._solver.tool_pose(self.target_qpos[env_idx])

    def set_action(self, action: Tensor) -> None:
        """Drive towards the target tool poses, each moved by one delta.

        Args:
            action: [N, 6], metres and axis-angle radians along base axes; neither normalised nor clipped.
        """
        position, velocity = self._measured()
        pivot = self._solver.tool_pose(position)[:, :3, 3]
        self.target_pose = pivoted_target_poses(self.target_pose, pivot, action.to(torch.float64))
        self.target_qpos, self.ik_failed = self._solver.solve(self.target_pose, position)
        self._drive_to(self.target_qpos, torch.zeros_like(velocity))

    def get_state(self) -> dict[str, Any]:
        """The targets that a delta is relative to: [N, 7], position then w, x, y, z, base frame."""
        pose = torch.cat([self.target_pose[:, :3, 3], matrix_to_quaternion(self.target_pose[:, :3, :3])], dim=1)
        return {"target_pose": pose.to(torch.float32)}


class BatchedGripperPositionController(BatchedDrivenJoints):
    """:class:`envs.simpler.widowx_controllers.GripperPositionController` for many environments."""

    config: BatchedGripperPositionConfig

    def _initialize_action_space(self) -> None:
        self.single_action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def set_action(self, action: Tensor) -> None:
        """Drive the fingers to a position.

        Args:
            action: [N, 1], clipped to [-1, 1].
        """
        wanted = finger_position_m(action.to(torch.float64), self.config.range_m)
        self.target_qpos = wanted.expand(-1, len(self.joints)).clone()
        self._drive_to(self.target_qpos, torch.zeros_like(self.target_qpos))


@dataclass
class BatchedArmTargetConfig(ArmTargetConfig):
    """The same numbers, played by the batched controller."""

    controller_cls = BatchedArmTargetController


@dataclass
class BatchedGripperPositionConfig(GripperPositionConfig):
    """The same numbers, played by the batched controller."""

    controller_cls = BatchedGripperPositionController
