"""Where a tool is, and which joints put it somewhere, for many environments at once: what SAPIEN asks pinocchio for, in torch.

The inverse is the closed-loop iteration that :class:`envs.simpler.controllers.ToolSolver` runs (pinocchio's, as SAPIEN calls
it): the same steps, damping, number of iterations and tolerance, so that it stops at the same joints and fails where that fails.
Joint limits are in neither. Twists are linear part first; poses are homogeneous matrices, float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import ConfigError

_TOLERANCE, _STEP, _DAMPING = 1e-4, 0.1, 1e-6
"""Of the error twist's norm (m and rad), of one iteration, and on the diagonal: SAPIEN's defaults."""


@dataclass(frozen=True)
class Chain:
    """Revolute joints one after the other, each about its own x axis, from the robot's base to a tool."""

    offsets: Tensor
    """[J, 4, 4]: from the joint before (the base, for the first) to this joint, unturned."""
    to_tool: Tensor
    """[4, 4]: from the last joint to the tool."""
    active_index: tuple[int, ...]
    """Where these joints are among the robot's active ones."""

    @classmethod
    def to_link(cls, articulation: Any, link: Any) -> Chain:
        """Read the chain of a robot in a scene.

        Args:
            articulation: SAPIEN's, of any one environment.
            link: its tool.
        """
        names = [joint.name for joint in articulation.active_joints]
        offsets, index, after = [], [], torch.eye(4, dtype=torch.float64)
        while link.joint.parent_link is not None:
            joint = link.joint
            in_parent, in_child = (
                torch.from_numpy(pose.to_transformation_matrix()).to(torch.float64)
                for pose in (joint.pose_in_parent, joint.pose_in_child)
            )
            if joint.type == "fixed":
                after = in_parent @ torch.linalg.inv(in_child) @ after
            elif joint.type.startswith("revolute"):
                offsets.append(torch.linalg.inv(in_child) @ after)
                index.append(names.index(joint.name))
                after = in_parent
            else:
                raise ConfigError(f"joint {joint.name!r} on the way to the tool is {joint.type}; only revolute ones are known")
            link = joint.parent_link
        moves = [after, *reversed(offsets)]
        return cls(torch.stack(moves[:-1]), moves[-1], tuple(reversed(index)))

    def to(self, device: torch.device) -> Chain:
        """The same on another device."""
        return Chain(self.offsets.to(device), self.to_tool.to(device), self.active_index)

    def joint_frames(self, qpos: Tensor) -> Tensor:
        """Each joint's frame, turned, in the base's: [N, J] rad -> [N, J, 4, 4]."""
        cosine, sine = qpos.cos(), qpos.sin()
        turn = torch.zeros(*qpos.shape, 4, 4, dtype=qpos.dtype, device=qpos.device)
        turn[..., 0, 0] = turn[..., 3, 3] = 1.0
        turn[..., 1, 1] = turn[..., 2, 2] = cosine
        turn[..., 1, 2], turn[..., 2, 1] = -sine, sine
        moves = self.offsets @ turn
        frames = [moves[:, 0]]
        for joint in range(1, moves.shape[1]):
            frames.append(frames[-1] @ moves[:, joint])
        return torch.stack(frames, dim=1)

    def tool_pose(self, qpos: Tensor) -> Tensor:
        """The tool in the base frame: [N, J] rad -> [N, 4, 4]."""
        return self.joint_frames(qpos)[:, -1] @ self.to_tool


class Solution(NamedTuple):
    """Of one inverse problem per environment."""

    qpos: Tensor
    """[N, J] rad; where it failed, the joints it started from."""
    has_failed: Tensor
    """[N] bool."""


def solve_inverse(chain: Chain, tool_pose: Tensor, present: Tensor, *, iterations: int = 100) -> Solution:
    """Joints that put the tool there, all or nothing.

    Args:
        chain: J joints.
        tool_pose: wanted, [N, 4, 4], base frame.
        present: joints to start from, [N, J] rad.
        iterations: at most.
    """
    wanted = tool_pose @ torch.linalg.inv(chain.to_tool)  # of the last joint: the error is measured in its frame
    qpos = present.clone()
    for iteration in range(iterations + 1):
        frames = chain.joint_frames(qpos)
        error = log_of_pose(inverse_pose(frames[:, -1]) @ wanted)
        is_open = error.norm(dim=1) >= _TOLERANCE
        if iteration == iterations or not is_open.any():
            break
        jacobian = -log_jacobian(-error) @ _jacobian(frames)
        gram = jacobian @ jacobian.mT + _DAMPING * torch.eye(6, dtype=qpos.dtype, device=qpos.device)
        step = -(jacobian.mT @ torch.linalg.solve_ex(gram, error[..., None]).result)[..., 0]
        qpos = torch.where(is_open[:, None], qpos + _STEP * step, qpos)
    return Solution(torch.where(is_open[:, None], present, qpos), is_open)


def _jacobian(frames: Tensor) -> Tensor:
    """Twist of the last joint's frame, along its own axes, per joint velocity: [N, J, 4, 4] -> [N, 6, J]."""
    relative = inverse_pose(frames[:, -1])[:, None] @ frames
    axis, position = relative[..., :3, 0], relative[..., :3, 3]
    return torch.cat([torch.linalg.cross(position, axis), axis], dim=-1).mT


def inverse_pose(pose: Tensor) -> Tensor:
    """[..., 4, 4]."""
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = pose[..., :3, :3].mT
    inverse[..., :3, 3] = -(pose[..., :3, :3].mT @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def skew(vector: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3], the matrix of the cross product with it."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, dim=-2)


def rotation_of(rotvec: Tensor) -> Tensor:
    """Axis-angle, rad, [..., 3] -> rotation matrix [..., 3, 3]."""
    return torch.linalg.matrix_exp(skew(rotvec))


def log_of_pose(pose: Tensor) -> Tensor:
    """The twist [..., 6] that leads from the identity to a pose [..., 4, 4] in unit time; its angle is below pi."""
    rotation = pose[..., :3, :3]
    twice_sine_axis = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    angle = torch.atan2(twice_sine_axis.norm(dim=-1) / 2, (trace - 1) / 2)
    is_small = angle < 1e-4
    safe = torch.where(is_small, 1.0, angle)
    angular = torch.where(is_small, 0.5 + angle**2 / 12, safe / (2 * safe.sin()))[..., None] * twice_sine_axis
    bend = torch.where(is_small, 1 / 12 + angle**2 / 720, 1 / safe**2 - (1 + safe.cos()) / (2 * safe * safe.sin()))
    position = pose[..., :3, 3]
    once = torch.linalg.cross(angular, position)
    linear = position - once / 2 + bend[..., None] * torch.linalg.cross(angular, once)
    return torch.cat([linear, angular], dim=-1)


def log_jacobian(twist: Tensor) -> Tensor:
    """How the twist of a pose changes when the pose is moved along its own axes: [..., 6] -> [..., 6, 6].

    The inverse of the right Jacobian of SE(3), as a polynomial in the twist's adjoint (Bullo and Murray 1995).
    """
    linear, angular = skew(twist[..., :3]), skew(twist[..., 3:])
    adjoint = torch.cat([torch.cat([angular, linear], dim=-1), torch.cat([torch.zeros_like(angular), angular], dim=-1)], dim=-2)
    angle = twist[..., 3:].norm(dim=-1)[..., None, None]
    is_small = angle < 1e-2
    safe = torch.where(is_small, 1.0, angle)
    second = 2 / safe**2 + (safe + 3 * safe.sin()) / (4 * safe * (safe.cos() - 1))
    fourth = 1 / safe**4 + (safe + safe.sin()) / (4 * safe**3 * (safe.cos() - 1))
    square = adjoint @ adjoint
    return (
        torch.eye(6, dtype=twist.dtype, device=twist.device)
        + adjoint / 2
        + torch.where(is_small, 1 / 12, second) * square
        + torch.where(is_small, -1 / 720, fourth) * square @ square
    )
