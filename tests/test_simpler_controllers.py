"""The planned controllers in the simulator."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.sim
ARM = [0, 1, 2, 3, 4, 5, 6]
FINGERS = [7, 8]


@pytest.fixture(scope="module")
def env():
    from envs import simpler

    env = simpler.make("google_robot_pick_standing_coke_can", assets="builtin", urdf_version="", render=False)
    yield env
    env.close()


@pytest.fixture
def controllers(env):
    """Arm and gripper controllers at the first posture, the can out of reach."""
    env.reset(seed=0, options={"obj_init_options": {"init_xy": [-0.35, 0.0]}})
    return env.scene.agent.controller.controllers


def act(env, *values):
    """One action; returns the measured joints."""
    obs, *_ = env.step(np.array(values, dtype=np.float32))
    return obs["agent"]["qpos"]


def test_an_aligned_delta_turns_in_place_about_the_base_axes():
    import sapien

    from envs.simpler.controllers import aligned_target_pose

    quarter = np.sqrt(0.5)
    start = sapien.Pose([0.5, 0.1, 0.9], [quarter, quarter, 0, 0])  # turned about x
    target = aligned_target_pose(start, np.array([0.01, 0.02, 0.03, 0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(target.p, [0.51, 0.12, 0.93], atol=1e-6)
    expected = sapien.Pose([0, 0, 0], [quarter, 0, 0, quarter]) * sapien.Pose([0, 0, 0], [quarter, quarter, 0, 0])
    np.testing.assert_allclose(target.q, expected.q, atol=1e-6)


def test_nothing_asked_nothing_moves(env, controllers):
    before = env.scene.agent.qpos_upstream()
    for _ in range(3):
        qpos = act(env, 0, 0, 0, 0, 0, 0, 0)
    np.testing.assert_allclose(qpos, before, atol=1e-3)


def test_the_target_of_an_action_is_one_delta_from_the_measured_tool(env, controllers):
    arm = controllers["arm"]
    tool = env.scene.agent.base_pose().inv() * env.scene.agent.tcp_pose()
    act(env, 0.03, -0.02, -0.04, 0, 0, 0, 0)
    assert not arm.ik_failed
    qpos = np.zeros(11)
    qpos[arm._index] = arm.target_qpos
    arm._solver._kinematics.compute_forward_kinematics(qpos)
    reached = arm._solver._kinematics.get_link_pose(arm._solver._tool.index)
    np.testing.assert_allclose(reached.p - tool.p, [0.03, -0.02, -0.04], atol=2e-4)


def test_plans_continue_where_the_last_one_was(env, controllers):
    arm = controllers["arm"]
    act(env, 0.05, 0, 0, 0, 0, 0, 0)
    first = arm._plan
    act(env, 0.05, 0, 0, 0, 0, 0, 0)
    np.testing.assert_allclose(arm._plan.position[0], first.position[171], atol=1e-9)
    np.testing.assert_allclose(arm._plan.velocity[0], first.velocity[171], atol=1e-9)
    assert np.abs(first.velocity[171]).max() > 0.01  # it was still moving: that is what is continued


def test_where_inverse_kinematics_fails_the_arm_stays(env, controllers):
    arm = controllers["arm"]
    before = env.scene.agent.qpos_upstream()
    qpos = act(env, 1.0, 0, 1.0, 0, 0, 0, 0)
    assert arm.ik_failed
    np.testing.assert_allclose(qpos[ARM], before[ARM], atol=1e-3)


def test_a_reset_forgets_the_plan(env, controllers):
    arm = controllers["arm"]
    act(env, 0.05, 0, 0, 0, 0, 0, 1)
    env.reset(seed=0)
    assert arm._plan is None
    np.testing.assert_allclose(env.scene.agent.qpos_upstream()[FINGERS], 0, atol=1e-6)


def test_the_gripper_closes_holds_and_opens(env, controllers):
    gripper = controllers["gripper"]
    first = act(env, 0, 0, 0, 0, 0, 0, 1)[FINGERS]
    np.testing.assert_allclose(gripper.target_qpos, 1.31, atol=1e-3)
    np.testing.assert_allclose(first, 0.192, atol=3e-3)  # recorded upstream: 0.19192
    second = act(env, 0, 0, 0, 0, 0, 0, 0)[FINGERS]  # 0 keeps the target
    np.testing.assert_allclose(second, 0.525, atol=4e-3)  # recorded upstream: 0.52525
    act(env, 0, 0, 0, 0, 0, 0, -1)
    np.testing.assert_allclose(gripper.target_qpos, -0.0101, atol=1e-6)  # clipped just past the joint limit
    for _ in range(4):
        qpos = act(env, 0, 0, 0, 0, 0, 0, 0)
    np.testing.assert_allclose(qpos[FINGERS], 0, atol=2e-3)


def test_the_gripper_command_is_clipped(env, controllers):
    act(env, 0, 0, 0, 0, 0, 0, 5.0)
    np.testing.assert_allclose(controllers["gripper"].target_qpos, 1.31, atol=1e-3)


def test_closing_an_empty_hand_does_not_push_the_arm(env, controllers):
    """PhysX 5 does not converge for light fingers under 60 N m; without rotor inertia the arm drifts by 0.1 rad."""
    before = env.scene.agent.qpos_upstream()
    for _ in range(8):
        qpos = act(env, 0, 0, 0, 0, 0, 0, 1)
    assert qpos[FINGERS].min() > 1.0
    np.testing.assert_allclose(qpos[ARM], before[ARM], atol=3e-3)


def test_the_gripper_state_round_trips(env, controllers):
    gripper = controllers["gripper"]
    act(env, 0, 0, 0, 0, 0, 0, 1)
    state = gripper.get_state()
    gripper.target_qpos = np.zeros(2)
    gripper.set_state(state)
    np.testing.assert_allclose(gripper.target_qpos, 1.31, atol=1e-3)
