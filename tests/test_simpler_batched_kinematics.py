"""Kinematics for many environments: against definitions, and against pinocchio as the controllers call it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from envs.simpler.batched.kinematics import Chain, log_jacobian, log_of_pose, rotation_of, skew, solve_inverse


def twist_matrix(twist):
    matrix = torch.zeros(*twist.shape[:-1], 4, 4, dtype=torch.float64)
    matrix[..., :3, :3], matrix[..., :3, 3] = skew(twist[..., 3:]), twist[..., :3]
    return matrix


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1e-3, 0.02, 0.5, 1.7])
def test_the_logarithm_undoes_the_exponential(size):
    twist = size * torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twist = twist * torch.clamp(3.0 / twist[:, 3:].norm(dim=1, keepdim=True), max=1.0)
    torch.testing.assert_close(log_of_pose(torch.linalg.matrix_exp(twist_matrix(twist))), twist, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 0.005, 0.5, 1.2])
def test_the_jacobian_of_the_logarithm_is_its_derivative(size):
    generator = torch.Generator().manual_seed(1)
    twist = size * torch.randn(20, 6, dtype=torch.float64, generator=generator)
    twist = twist * torch.clamp(2.9 / twist[:, 3:].norm(dim=1, keepdim=True), max=1.0)
    pose, small = torch.linalg.matrix_exp(twist_matrix(twist)), 1e-6
    moves = torch.linalg.matrix_exp(twist_matrix(small * torch.eye(6, dtype=torch.float64)))
    back = torch.linalg.matrix_exp(twist_matrix(-small * torch.eye(6, dtype=torch.float64)))
    column = (log_of_pose(pose[:, None] @ moves) - log_of_pose(pose[:, None] @ back)) / (2 * small)
    torch.testing.assert_close(log_jacobian(twist), column.mT, rtol=1e-6, atol=1e-7)


def test_a_rotation_is_scipys():
    rotvec = np.random.default_rng(0).normal(0, 1, (20, 3))
    expected = Rotation.from_rotvec(rotvec).as_matrix()
    np.testing.assert_allclose(rotation_of(torch.from_numpy(rotvec)), expected, atol=1e-12)


def random_poses(chain, present, random, count):
    """Present joints and wanted tool poses: steps of a policy, some of them out of reach."""
    joints = torch.from_numpy(present + random.normal(0, 0.3, (count, len(present))))
    wanted = chain.tool_pose(joints)
    reach = random.choice([0.02, 0.1, 1.0], (count, 1))
    wanted[:, :3, 3] += torch.from_numpy(reach * random.uniform(-1, 1, (count, 3)))
    wanted[:, :3, :3] = rotation_of(torch.from_numpy(reach * random.normal(0, 0.7, (count, 3)))) @ wanted[:, :3, :3]
    return joints, wanted


@pytest.mark.sim
@pytest.mark.parametrize("task", ["google_robot_pick_standing_coke_can", "widowx_stack_cube"])
def test_the_inverse_is_the_scalar_controllers(task):
    import sapien

    from envs import simpler

    env = simpler.make(task, urdf_version="", render=False)
    env.reset(seed=0)
    arm = env.scene.agent.controller.controllers["arm"]
    robot, solver = arm._robot, arm._solver
    chain = Chain.to_link(robot, solver._tool)
    index = list(chain.active_index)
    home, random = robot.get_qpos(), np.random.default_rng(0)
    joints, wanted = random_poses(chain, home[index].astype(np.float64), random, 40)
    solution = solve_inverse(chain, wanted, joints)
    for i in range(len(joints)):
        qpos = home.copy()
        qpos[index] = joints[i]
        robot.set_qpos(qpos)
        np.testing.assert_allclose(
            solver.measured_pose().to_transformation_matrix(), chain.tool_pose(joints[i : i + 1])[0], atol=2e-6
        )
        expected, success, _ = solver._kinematics.compute_inverse_kinematics(
            solver._tool.index,
            sapien.Pose(wanted[i].numpy()),
            initial_qpos=_filled(home, index, joints[i]),
            active_qmask=solver._free,
            max_iterations=100,
        )
        assert bool(solution.has_failed[i]) is not success
        # On failure pinocchio returns its best try, the controller the joints it began with.
        wanted_joints = np.asarray(expected).reshape(-1)[index] if success else joints[i]
        np.testing.assert_allclose(solution.qpos[i], wanted_joints, atol=1e-5)
    assert 3 < solution.has_failed.sum() < len(joints) - 10
    env.close()


def _filled(home, index, joints):
    qpos = home.astype(np.float64)
    qpos[index] = joints
    return qpos
