"""The Google robot's controllers for many environments: :mod:`envs.simpler.controllers` with a leading dimension, in torch.

Hop 1 of the tour, inside ``env.step`` of a batched environment. What the WidowX's controllers share with these is here too.
Inverse kinematics and path are computed once per action for all environments; per physics step the targets are one row of the
path, written to PhysX's target buffers on the GPU, joint by joint on the CPU. An episode that begins restarts its own environment
only (:meth:`BatchedDrivenJoints.restart`): ManiSkill's ``reset`` of controllers is for all at once, and so does nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from mani_skill.agents.controllers.base_controller import BaseController
from torch import Tensor

from envs.simpler.batched.kinematics import Chain, Solution, rotation_of, solve_inverse
from envs.simpler.batched.motion import plan_jerk_limited_batch
from envs.simpler.controllers import ArmPlannerConfig, DriveConfig, GripperPlannerConfig


def aligned_target_poses(pose: Tensor, delta: Tensor) -> Tensor:
    """:func:`envs.simpler.controllers.aligned_target_pose` of many: [N, 4, 4] and [N, 6] -> [N, 4, 4]."""
    target = pose.clone()
    target[:, :3, :3] = rotation_of(delta[:, 3:6]) @ pose[:, :3, :3]
    target[:, :3, 3] += delta[:, :3]
    return target


class BatchedDrivenJoints(BaseController):
    """Joints with a PD drive, in every environment; what all batched controllers of both robots share."""

    sets_target_qpos = True
    sets_target_qvel = False
    config: DriveConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        self.target_qpos = torch.zeros(self.scene.num_envs, len(self.joints), dtype=torch.float64, device=self.device)
        """[N, D]: where the latest action sends the joints, rad or m."""

    def set_drive_property(self) -> None:
        """Gains of the PD drives, in force mode, without joint friction; before GPU simulation starts."""
        gains = (self.config.stiffness, self.config.damping, self.config.force_limit)
        for joint, stiffness, damping, force_limit in zip(
            self.joints, *(np.broadcast_to(gain, len(self.joints)).tolist() for gain in gains), strict=True
        ):
            joint.set_drive_properties(stiffness, damping, force_limit=force_limit, mode="force")
            joint.set_friction(0.0)

    def restart(self, env_idx: Tensor) -> None:
        """Hold the joints of some environments where they are.

        Args:
            env_idx: [n] of the environments whose episode begins; their joints are in place.
        """
        measured = self._measured()[0]
        self.target_qpos[env_idx] = measured[env_idx]
        self._drive_to(measured, torch.zeros_like(measured), env_idx)

    def _measured(self) -> tuple[Tensor, Tensor]:
        """Measured joint positions [N, D] rad and velocities [N, D] rad/s."""
        return self.qpos.to(torch.float64), self.qvel.to(torch.float64)

    def _drive_to(self, position: Tensor, velocity: Tensor, env_idx: Tensor | None = None) -> None:
        """Set drive targets, [N, D] each (velocities where the controller sets any); of some environments, or of all."""
        px = self.scene.px
        if self.scene.gpu_sim_enabled:
            rows, columns = self.articulation.get_joint_target_indices(self.joints)
            chosen = slice(None) if env_idx is None else env_idx
            index = (rows[chosen], columns[chosen])
            px.cuda_articulation_target_qpos.torch()[index] = position[chosen].to(torch.float32)
            if self.sets_target_qvel:
                px.cuda_articulation_target_qvel.torch()[index] = velocity[chosen].to(torch.float32)
            return
        for joint, target, rate in zip(self.joints, position[0].tolist(), velocity[0].tolist(), strict=True):
            (native,) = joint._objs  # noqa: SLF001 (one environment on the CPU; setting through ManiSkill costs more than the step)
            native.set_drive_target(target)
            if self.sets_target_qvel:
                native.set_drive_velocity_target(rate)


class BatchedToolSolver:
    """:class:`envs.simpler.controllers.ToolSolver` for many environments.

    Args:
        chain: J joints on the way to the tool.
        in_chain: [J], where these are among a controller's D joints; the others do not move.
    """

    def __init__(self, chain: Chain, in_chain: Tensor) -> None:
        self._chain = chain
        self._in_chain = in_chain

    @classmethod
    def of(cls, controller: BaseController, tool_link: str) -> BatchedToolSolver:
        """Read robot and joints off a controller; all environments have the same robot."""
        articulation = controller.articulation
        (tool,) = (link for link in articulation.links if link.name == tool_link)
        chain = Chain.to_link(articulation._objs[0], tool._objs[0]).to(controller.device)  # noqa: SLF001
        joints = controller.active_joint_indices.tolist()
        return cls(chain, torch.tensor([joints.index(active) for active in chain.active_index], device=controller.device))

    def tool_pose(self, position: Tensor) -> Tensor:
        """The tool in the robot's base frame: [N, D] joint positions -> [N, 4, 4]."""
        return self._chain.tool_pose(position[:, self._in_chain])

    def solve(self, tool_pose: Tensor, present: Tensor, *, iterations: int = 100) -> Solution:
        """Joint positions [N, D] that put the tool there (base frame), from the present ones; on failure the present ones."""
        solution = solve_inverse(self._chain, tool_pose, present[:, self._in_chain], iterations=iterations)
        target = present.clone()
        target[:, self._in_chain] = solution.qpos
        return Solution(target, solution.has_failed)


class BatchedPlannedJoints(BatchedDrivenJoints):
    """Drive targets that follow jerk-limited plans, one plan per environment."""

    config: ArmPlannerConfig | GripperPlannerConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        self._has_plan = torch.zeros(self.scene.num_envs, dtype=torch.bool, device=self.device)
        self._end_position = torch.zeros_like(self.target_qpos)
        """Where the plan is when its action ends; the start of the next."""
        self._end_velocity = torch.zeros_like(self.target_qpos)
        self._positions = torch.zeros(0)
        self._velocities = torch.zeros(0)
        self._substep = 0

    def restart(self, env_idx: Tensor) -> None:
        """As the base, and forget the plans."""
        super().restart(env_idx)
        self._has_plan[env_idx] = False
        self._end_position[env_idx], self._end_velocity[env_idx] = self.target_qpos[env_idx], 0.0

    def before_simulation_step(self) -> None:
        """Set the drive targets of this physics step (on the GPU the robot applies them, once for all its controllers)."""
        if not len(self._positions):
            return
        self._substep = min(self._substep + 1, self._sim_steps)
        self._drive_to(self._positions[self._substep], self._velocities[self._substep])

    def _begin(self, start: Tensor, velocity: Tensor, target: Tensor) -> None:
        plan = plan_jerk_limited_batch(
            start, velocity, target, self.config.limits, num_steps=self._sim_steps, step_s=self.articulation.px.timestep
        )
        self._positions, self._velocities = plan.position.transpose(0, 1), plan.velocity.transpose(0, 1)
        self._end_position, self._end_velocity = self._positions[-1].clone(), self._velocities[-1].clone()
        self._has_plan[:] = True
        self._substep = 0

    def _within_limit(self, velocity: Tensor) -> Tensor:
        bound = self.config.limits.velocity_rad_s
        return velocity.clamp(-bound, bound)


class BatchedArmController(BatchedPlannedJoints):
    """:class:`envs.simpler.controllers.ArmPlannerController` for many environments."""

    config: BatchedArmConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        self._solver = BatchedToolSolver.of(self, self.config.tool_link)
        self.ik_failed = torch.zeros_like(self._has_plan)
        """[N]: whether the latest target could not be reached, so that the arm stays where it was."""

    def _initialize_action_space(self) -> None:
        high = np.array([1.0] * 3 + [np.pi / 2] * 3, dtype=np.float32)
        self.single_action_space = spaces.Box(-high, high, dtype=np.float32)

    def set_action(self, action: Tensor) -> None:
        """Plan towards the tool poses one delta from the measured ones.

        Args:
            action: [N, 6], metres and axis-angle radians along base axes; neither normalised nor clipped.
        """
        position, velocity = self._measured()
        wanted = aligned_target_poses(self._solver.tool_pose(position), action.to(torch.float64))
        self.target_qpos, self.ik_failed = self._solver.solve(wanted, position, iterations=self.config.ik_iterations)
        is_going_on = self._has_plan[:, None]
        self._begin(
            torch.where(is_going_on, self._end_position, position),
            torch.where(is_going_on, self._end_velocity, self._within_limit(velocity)),
            self.target_qpos,
        )


class BatchedGripperController(BatchedPlannedJoints):
    """:class:`envs.simpler.controllers.GripperPlannerController` for many environments."""

    sets_target_qvel = True
    config: BatchedGripperConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        limits = self.articulation.get_qlimits()[:, self.active_joint_indices].to(torch.float64)
        self._low, self._high = limits[..., 0] - self.config.over_close_rad, limits[..., 1] + self.config.over_close_rad

    def _initialize_action_space(self) -> None:
        self.single_action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def set_drive_property(self) -> None:
        """As the base, and the rotor inertia."""
        super().set_drive_property()
        for joint in self.joints:
            for native in joint._objs:  # noqa: SLF001 (ManiSkill's wrapper has no armature)
                native.set_armature(np.array([self.config.armature], dtype=np.float32))

    def set_action(self, action: Tensor) -> None:
        """Plan towards the last drive targets plus a delta.

        Args:
            action: [N, 1], clipped to [-1, 1].
        """
        delta = action.to(torch.float64).clamp(-1.0, 1.0) * self.config.stroke_rad
        wanted = (self._end_position + delta).clamp(self._low, self._high)
        self.target_qpos = torch.where(delta.abs() >= self.config.dead_band_rad, wanted, self.target_qpos)
        position, velocity = self._measured()
        planned = torch.where(self._has_plan[:, None], self._end_velocity, velocity)  # why: the scalar controller says
        self._begin(position, self._within_limit(planned), self.target_qpos)

    def get_state(self) -> dict[str, Any]:
        """The targets that a delta is relative to, [N, 2], as upstream's observation carries them."""
        return {"target_qpos": self.target_qpos.to(torch.float32)}


@dataclass
class BatchedArmConfig(ArmPlannerConfig):
    """The same numbers, played by the batched controller."""

    controller_cls = BatchedArmController


@dataclass
class BatchedGripperConfig(GripperPlannerConfig):
    """The same numbers, played by the batched controller."""

    controller_cls = BatchedGripperController
