"""Batched controllers with several environments, on made-up measurements; pose arithmetic against SAPIEN's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.simpler.batched.controllers import BatchedArmController, BatchedGripperController, BatchedToolSolver
from envs.simpler.batched.kinematics import Chain, rotation_of
from envs.simpler.batched.widowx_controllers import (
    BatchedArmTargetController,
    BatchedGripperPositionController,
    pivoted_target_poses,
)
from envs.simpler.controllers import ARM_LIMITS, GRIPPER_LIMITS
from envs.simpler.widowx_controllers import finger_position_m

N = 3
OUT_OF_REACH = 9.0


def chain_of_six():
    """Joints about x, y, z, x, y, z, 20 cm apart."""
    generator = torch.Generator().manual_seed(0)
    offsets = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    offsets[:, :3, :3] = rotation_of(torch.randn(6, 3, dtype=torch.float64, generator=generator))
    offsets[:, 0, 3] = 0.2
    to_tool = torch.eye(4, dtype=torch.float64)
    to_tool[0, 3] = 0.1
    return Chain(offsets, to_tool, tuple(range(6)))


def made_up(kind, position, **config):
    """A controller of a robot that is where ``position`` [N, D] says; ``driven`` collects its drive targets."""

    class OnPaper(kind):
        def __init__(self):
            self.config = type("Config", (), config)()
            self.joints = [None] * position.shape[1]
            self.position, self.velocity = position.clone(), torch.zeros_like(position)
            self.target_qpos = torch.zeros_like(position)
            self.ik_failed = torch.zeros(N, dtype=torch.bool)
            self._has_plan = torch.zeros(N, dtype=torch.bool)
            self._end_position, self._end_velocity = torch.zeros_like(position), torch.zeros_like(position)
            self._positions, self._velocities, self._substep, self._sim_steps = torch.zeros(0), torch.zeros(0), 0, 100
            self.articulation = type("Robot", (), {"px": type("Physics", (), {"timestep": 1 / 513}), "device": "cpu"})
            self.driven = []

        __repr__ = object.__repr__

        def _measured(self):
            return self.position.clone(), self.velocity.clone()

        def _drive_to(self, position, velocity, env_idx=None):
            self.driven.append((position.clone(), None if env_idx is None else env_idx.tolist()))

    return OnPaper()


@pytest.fixture
def joints():
    return 0.3 * torch.randn(N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def widowx_arm(joints):
    arm = made_up(BatchedArmTargetController, joints)
    arm._solver = BatchedToolSolver(chain_of_six(), torch.arange(6))
    arm.target_pose = torch.eye(4, dtype=torch.float64).repeat(N, 1, 1)
    arm.restart(torch.arange(N))
    return arm


def test_a_delta_moves_the_target_not_the_measurement(widowx_arm):
    """Two actions while the arm lags behind: the second one starts at the first one's target."""
    before = widowx_arm.target_pose.clone()
    delta = torch.tensor([[0.01, 0.0, 0.02, 0.0, 0.0, 0.0]]).expand(N, -1)
    widowx_arm.set_action(delta)
    widowx_arm.set_action(delta)
    torch.testing.assert_close(
        widowx_arm.target_pose[:, :3, 3] - before[:, :3, 3], torch.tensor([[0.02, 0.0, 0.04]]).double().expand(N, -1)
    )
    torch.testing.assert_close(widowx_arm._solver.tool_pose(widowx_arm.target_qpos), widowx_arm.target_pose, rtol=0, atol=2e-4)
    assert widowx_arm.driven[-1][1] is None
    torch.testing.assert_close(widowx_arm.driven[-1][0], widowx_arm.target_qpos)


def test_a_rotation_turns_the_target_about_the_measured_tool_point(widowx_arm):
    before = widowx_arm.target_pose.clone()
    widowx_arm.set_action(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.2]]).expand(N, -1))
    torch.testing.assert_close(widowx_arm.target_pose[:, :3, 3], before[:, :3, 3])  # the tool is where it was sent
    widowx_arm.position += 0.1
    pivot = widowx_arm._solver.tool_pose(widowx_arm.position)[:, :3, 3]
    before = widowx_arm.target_pose.clone()
    widowx_arm.set_action(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.2]]).expand(N, -1))
    radius = (before[:, :3, 3] - pivot).norm(dim=1)
    torch.testing.assert_close((widowx_arm.target_pose[:, :3, 3] - pivot).norm(dim=1), radius)
    assert ((widowx_arm.target_pose - before)[:, :3, 3].norm(dim=1) > 1e-3).all()


def test_where_the_inverse_fails_the_arm_stays_and_the_target_moves_on(widowx_arm, joints):
    before = widowx_arm.target_pose.clone()
    action = torch.zeros(N, 6)
    action[1, 0] = OUT_OF_REACH
    widowx_arm.set_action(action)
    assert widowx_arm.ik_failed.tolist() == [False, True, False]
    torch.testing.assert_close(widowx_arm.target_qpos[1], joints[1])
    assert widowx_arm.target_pose[1, 0, 3] - before[1, 0, 3] == pytest.approx(OUT_OF_REACH)


def test_an_episode_that_begins_restarts_its_environment_only(widowx_arm):
    widowx_arm.set_action(torch.full((N, 6), 0.02))
    moved = widowx_arm.target_pose.clone()
    widowx_arm.position[1] += 0.05
    widowx_arm.restart(torch.tensor([1]))
    torch.testing.assert_close(widowx_arm.target_pose[[0, 2]], moved[[0, 2]])
    torch.testing.assert_close(widowx_arm.target_pose[1], widowx_arm._solver.tool_pose(widowx_arm.position)[1])
    assert widowx_arm.driven[-1][1] == [1]


def test_the_targets_are_reported_as_poses(widowx_arm):
    state = widowx_arm.get_state()["target_pose"]
    assert state.shape == (N, 7)
    assert state.dtype == torch.float32
    torch.testing.assert_close(state[:, :3].double(), widowx_arm.target_pose[:, :3, 3], rtol=0, atol=1e-6)
    torch.testing.assert_close(state[:, 3:].norm(dim=1), torch.ones(N))


def test_fingers_go_where_the_command_says():
    gripper = made_up(BatchedGripperPositionController, torch.full((N, 2), 0.03, dtype=torch.float64), range_m=(0.014, 0.038))
    gripper.set_action(torch.tensor([[1.0], [-7.0], [0.5]]))
    np.testing.assert_allclose(gripper.target_qpos, [[0.038] * 2, [0.014] * 2, [0.032] * 2])
    torch.testing.assert_close(gripper.driven[-1][0], gripper.target_qpos)
    assert finger_position_m(np.array([0.0, 9.0]), (0.0, 1.0)).tolist() == [0.5, 1.0]


def test_plans_go_on_where_the_last_one_was_except_in_an_episode_that_begins(joints):
    arm = made_up(BatchedArmController, joints, limits=ARM_LIMITS, ik_iterations=100)
    arm._solver = BatchedToolSolver(chain_of_six(), torch.arange(6))
    arm.restart(torch.arange(N))
    arm.set_action(torch.full((N, 6), 0.03))
    ends = arm._end_position.clone()
    assert (ends - joints).abs().max() > 0.01
    arm.restart(torch.tensor([2]))
    arm.set_action(torch.full((N, 6), 0.03))  # the robot has not moved
    torch.testing.assert_close(arm._positions[0, :2], ends[:2])
    torch.testing.assert_close(arm._positions[0, 2], joints[2])
    for substep in range(1, 4):
        arm.before_simulation_step()
        torch.testing.assert_close(arm.driven[-1][0], arm._positions[substep])


def test_a_relative_gripper_command_starts_at_the_last_target_and_small_ones_hold():
    fingers = torch.full((N, 2), 0.2, dtype=torch.float64)
    gripper = made_up(
        BatchedGripperController, fingers, limits=GRIPPER_LIMITS, stroke_rad=1.31, dead_band_rad=1e-3, over_close_rad=0.01
    )
    gripper._low, gripper._high = torch.zeros(N, 2).double() - 0.01, torch.full((N, 2), 1.3).double() + 0.01
    gripper.restart(torch.arange(N))
    gripper.set_action(torch.tensor([[1.0], [0.0], [-1.0]]))
    np.testing.assert_allclose(gripper.target_qpos, [[1.31] * 2, [0.2] * 2, [-0.01] * 2])


@pytest.mark.sim
def test_a_pivoted_pose_is_sapiens():
    import sapien

    from envs.simpler.widowx_controllers import pivoted_target_pose

    random = np.random.default_rng(0)
    poses = [sapien.Pose(random.normal(0, 0.3, 3), q / np.linalg.norm(q)) for q in random.normal(0, 1, (20, 4))]
    pivots, deltas = random.normal(0, 0.3, (20, 3)), random.normal(0, 0.5, (20, 6))
    expected = [
        pivoted_target_pose(pose, pivot.astype(np.float32), delta).to_transformation_matrix()
        for pose, pivot, delta in zip(poses, pivots, deltas, strict=True)
    ]
    previous = torch.from_numpy(np.array([pose.to_transformation_matrix() for pose in poses])).double()
    ours = pivoted_target_poses(previous, torch.from_numpy(pivots), torch.from_numpy(deltas))
    np.testing.assert_allclose(ours, expected, atol=2e-6)
