"""SIMPLER's Google-robot controllers: an end-effector delta pose for the arm, a relative command for the gripper.

Hop 1 of the tour, inside ``env.step``. Both turn one action into a jerk-limited joint path (Ruckig), computed once per
action as an array; per physics step only drive targets are set. What differs from a textbook operational-space
controller: the pose delta is relative to the *measured* tool pose, but the joint path continues from where the
*previous plan* was, and an inverse-kinematics failure means "go to where the arm is now" (reached often near the wrist
limit, and then the arm freezes). Numbers: SIMPLER, Li et al. 2024, arXiv:2405.05941, and its public code.

The planning itself is a pure function of arrays (:mod:`envs.simpler.motion`), so that a batched controller can replace
:meth:`set_action` and be checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sapien
import torch
from gymnasium import spaces
from mani_skill.agents.controllers.base_controller import BaseController, ControllerConfig
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.motion import JointPlan, MotionLimits, plan_jerk_limited
from envs.simpler.native import unwrap

ARM_LIMITS = MotionLimits(velocity_rad_s=1.5, acceleration_rad_s2=2.0, jerk_rad_s3=50.0)
GRIPPER_LIMITS = MotionLimits(velocity_rad_s=1.0, acceleration_rad_s2=7.0, jerk_rad_s3=50.0)


def aligned_target_pose(pose: sapien.Pose, delta: NDArray[np.float64]) -> sapien.Pose:
    """Move a pose by a delta whose axes are the base's and whose pivot is the pose's own origin.

    Args:
        pose: tool in the robot's base frame.
        delta: [6], position (m) and axis-angle rotation (rad), both along base axes.

    Returns:
        Position ``p + d``, rotation ``R(delta) R``.
    """
    x, y, z, w = Rotation.from_rotvec(delta[3:6]).as_quat()
    rotated = sapien.Pose([0, 0, 0], [w, x, y, z]) * sapien.Pose([0, 0, 0], pose.q)
    return sapien.Pose(pose.p + delta[:3], rotated.q)


@dataclass
class DriveConfig(ControllerConfig):
    """Joints and their PD gains: one number for all, or one a joint."""

    joint_names: list[str]
    stiffness: float | list[float]
    damping: float | list[float]
    force_limit: float | list[float]


class DrivenJoints(BaseController):
    """Joints with a PD drive; what all controllers of both robots share."""

    sets_target_qpos = True
    sets_target_qvel = False
    config: DriveConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        if self.scene.num_envs != 1:
            raise NotImplementedError("control is computed per environment: num_envs must be 1 on the CPU backend")
        self._robot = unwrap(self.articulation)
        self._index = self.active_joint_indices.cpu().numpy()
        self._drives = [self._robot.active_joints[index] for index in self._index]

    def set_drive_property(self) -> None:
        """Gains of the PD drives, in force mode, without joint friction."""
        count = len(self._drives)
        gains = (self.config.stiffness, self.config.damping, self.config.force_limit)
        for joint, stiffness, damping, force_limit in zip(
            self._drives, *(np.broadcast_to(gain, count).tolist() for gain in gains), strict=True
        ):
            joint.set_drive_properties(stiffness, damping, force_limit=force_limit, mode="force")
            joint.set_friction(0.0)

    def reset(self) -> None:
        """Hold where the joints are."""
        self.set_drive_property()
        self._drive_to(self._measured()[0])
        for joint in self._drives:
            joint.set_drive_velocity_target(0.0)

    def _drive_to(self, position: NDArray[np.float64]) -> None:
        """Set drive position targets [D]."""
        for joint, target in zip(self._drives, position.tolist(), strict=True):
            joint.set_drive_target(target)

    def _measured(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measured joint positions [D] rad and velocities [D] rad/s."""
        return (
            self._robot.get_qpos()[self._index].astype(np.float64),
            self._robot.get_qvel()[self._index].astype(np.float64),
        )


class ToolSolver:
    """Inverse kinematics of one tool link, all or nothing.

    Args:
        robot: SAPIEN's articulation.
        tool: its link.
        index: which active joints may move, [D].
        iterations: at most.
    """

    def __init__(self, robot: Any, tool: Any, index: NDArray[np.integer[Any]], *, iterations: int = 100) -> None:
        self._robot = robot
        self._tool = tool
        self._index = index
        self._iterations = iterations
        self._kinematics = robot.create_pinocchio_model()
        self._free = np.zeros(robot.dof, dtype=np.int32)
        self._free[index] = 1
        self.has_failed = False
        """In the latest :meth:`solve`."""

    def measured_pose(self) -> sapien.Pose:
        """The tool in the robot's base frame."""
        return self._robot.pose.inv() * self._tool.entity_pose

    def solve(self, tool_pose: sapien.Pose) -> NDArray[np.float64]:
        """Joint positions [D] that put the tool there (base frame), from the present ones; on failure the present ones."""
        present = self._robot.get_qpos().astype(np.float64)
        qpos, success, _ = self._kinematics.compute_inverse_kinematics(
            self._tool.index, tool_pose, initial_qpos=present, active_qmask=self._free, max_iterations=self._iterations
        )
        self.has_failed = not success
        return (np.asarray(qpos).reshape(-1) if success else present)[self._index]


class _PlannedJoints(DrivenJoints):
    """Drive targets that follow a jerk-limited plan; the part that both of the Google robot's controllers share."""

    config: ArmPlannerConfig | GripperPlannerConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        self._plan: JointPlan | None = None
        self._substep = 0

    def reset(self) -> None:
        """Forget the plan; hold where the joints are."""
        super().reset()
        self._plan, self._substep = None, 0

    def _begin(self, start: NDArray[np.float64], velocity: NDArray[np.float64], target: NDArray[np.float64]) -> None:
        self._plan = plan_jerk_limited(
            start, velocity, target, self.config.limits, num_steps=self._sim_steps, step_s=self.articulation.px.timestep
        )
        self._substep = 0
        self._position_rows = self._plan.position.tolist()
        self._velocity_rows = self._plan.velocity.tolist()


class ArmPlannerController(_PlannedJoints):
    """``arm_pd_ee_delta_pose_align_interpolate_by_planner``: six numbers, a tool-pose delta, drive nine joints.

    The head joints are in the inverse kinematics too; they do not move the tool, so they hold.
    """

    config: ArmPlannerConfig

    def _initialize_joints(self) -> None:
        super()._initialize_joints()
        tool = unwrap(next(link for link in self.articulation.links if link.name == self.config.tool_link))
        self._solver = ToolSolver(self._robot, tool, self._index, iterations=self.config.ik_iterations)
        self.target_qpos = np.zeros(len(self._index))

    @property
    def ik_failed(self) -> bool:
        """Whether the latest target could not be reached, so that the arm stays where it was."""
        return self._solver.has_failed

    def _initialize_action_space(self) -> None:
        high = np.array([1.0] * 3 + [np.pi / 2] * 3, dtype=np.float32)
        self.single_action_space = spaces.Box(-high, high, dtype=np.float32)

    def set_action(self, action: torch.Tensor) -> None:
        """Plan towards the tool pose one delta from the measured one.

        Args:
            action: [1, 6], metres and axis-angle radians along base axes; neither normalised nor clipped.
        """
        delta = np.asarray(action, dtype=np.float64)[0]
        position, velocity = self._measured()
        self.target_qpos = self._solver.solve(aligned_target_pose(self._solver.measured_pose(), delta))
        if self._plan is None:
            bound = self.config.limits.velocity_rad_s
            self._begin(position, np.clip(velocity, -bound, bound), self.target_qpos)
        else:
            self._begin(self._plan.position[-1], self._plan.velocity[-1], self.target_qpos)

    def before_simulation_step(self) -> None:
        """Set the drive position targets of this physics step."""
        if self._plan is None:
            return
        self._substep += 1
        row = self._position_rows[min(self._substep, self._sim_steps)]
        for joint, target in zip(self._drives, row, strict=True):
            joint.set_drive_target(target)


class GripperPlannerController(_PlannedJoints):
    """``gripper_pd_joint_target_delta_pos_interpolate_by_planner``: one number closes (+1) or opens (-1), 0 holds.

    Both fingers share the value. The reference is the last drive target, not the measurement, and the target may pass
    the joint limit a little: that over-close is what supplies the grip force.
    """

    sets_target_qvel = True
    config: GripperPlannerConfig

    def _initialize_action_space(self) -> None:
        self.single_action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def set_drive_property(self) -> None:
        """As the base, and the rotor inertia."""
        super().set_drive_property()
        for joint in self._drives:
            joint.set_armature(np.array([self.config.armature], dtype=np.float32))

    def reset(self) -> None:
        """Forget the plan; the fingers' present position is the target."""
        super().reset()
        self.target_qpos = self._measured()[0]
        self._last_drive_target = self.target_qpos
        limits = self._robot.get_qlimits()[self._index].astype(np.float64)
        self._low, self._high = limits[:, 0] - self.config.over_close_rad, limits[:, 1] + self.config.over_close_rad

    def set_action(self, action: torch.Tensor) -> None:
        """Plan towards the last drive target plus a delta.

        Args:
            action: [1, 1], clipped to [-1, 1].
        """
        value = float(np.clip(np.asarray(action, dtype=np.float64)[0, 0], -1.0, 1.0))
        delta = value * self.config.stroke_rad
        if abs(delta) >= self.config.dead_band_rad:
            self.target_qpos = np.clip(self._last_drive_target + delta, self._low, self._high)
        position, velocity = self._measured()
        if self._plan is not None:
            # Upstream starts at the measured velocity, which in SAPIEN 2 equals the planned one in free motion and
            # exceeds the limit (so it is clipped to it) where a finger presses on an object. SAPIEN 3 reports a
            # reaction velocity of the other sign there; a plan that starts with it backs away and drops the object.
            velocity = self._plan.velocity[-1]
        bound = self.config.limits.velocity_rad_s
        self._begin(position, np.clip(velocity, -bound, bound), self.target_qpos)

    def before_simulation_step(self) -> None:
        """Set the drive position and velocity targets of this physics step."""
        if self._plan is None:
            return
        self._substep = min(self._substep + 1, self._sim_steps)
        positions, velocities = self._position_rows[self._substep], self._velocity_rows[self._substep]
        for joint, position, velocity in zip(self._drives, positions, velocities, strict=True):
            joint.set_drive_target(position)
            joint.set_drive_velocity_target(velocity)
        self._last_drive_target = self._plan.position[self._substep]

    def get_state(self) -> dict[str, Any]:
        """The target that a delta is relative to, as upstream's observation carries it."""
        return {"target_qpos": torch.from_numpy(self.target_qpos[None].astype(np.float32))}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` gave."""
        self.target_qpos = np.asarray(state["target_qpos"], dtype=np.float64)[0]


@dataclass
class ArmPlannerConfig(DriveConfig):
    """Nine joints, their gains, and how the tool is found."""

    tool_link: str
    limits: MotionLimits = ARM_LIMITS
    ik_iterations: int = 100
    controller_cls = ArmPlannerController


@dataclass
class GripperPlannerConfig(DriveConfig):
    """Two finger joints that share one command."""

    stiffness: float | list[float] = 200.0
    damping: float | list[float] = 8.0
    force_limit: float | list[float] = 60.0
    armature: float = 0.01
    """kg m^2, ours alone. PhysX 5 (SAPIEN 3) does not converge where 60 N m drives press 33 g fingers on something: the
    contact then pushes the whole arm, by 0.1 rad within seconds, without any object. This much rotor inertia ends that,
    and changes free motion by less than 1e-4 rad."""
    stroke_rad: float = 1.31
    over_close_rad: float = 0.01
    dead_band_rad: float = 1e-3
    limits: MotionLimits = GRIPPER_LIMITS
    controller_cls = GripperPlannerController
