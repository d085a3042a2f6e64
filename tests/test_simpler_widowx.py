"""The WidowX: its controllers in the simulator, its grasp rule, and the builtin robot beside upstream's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from core.errors import AssetError, ConfigError
from envs.make import EnvConfig, make_expert
from envs.simpler.assets import AssetSet, load_asset_set
from envs.simpler.builtin_widowx import BODIES, INERTIALS, JOINTS, WIDOWX
from envs.simpler.embodiment import EMBODIMENTS
from envs.simpler.expert_put_on import PutOnExpert
from envs.simpler.task_env import simpler_env_spec

sim = pytest.mark.sim
ARM, FINGERS = slice(0, 6), slice(6, 8)

# -- without a simulator ---------------------------------------------------------------------------------------------


def test_it_has_its_own_rates_and_camera() -> None:
    robot = EMBODIMENTS["widowx"]
    assert (robot.control_hz, robot.sim_hz) == (5, 500)
    spec = simpler_env_spec("widowx_stack_cube", (96, 128))
    assert [(camera.name, camera.height_px, camera.width_px) for camera in spec.cameras] == [("3rd_view_camera", 96, 128)]
    assert spec.action.control_hz == 5.0


def test_a_task_belongs_to_its_robots_family() -> None:
    config = EnvConfig(family="simpler_google", task="widowx_stack_cube")
    with pytest.raises(ConfigError, match=r"'widowx_stack_cube' belongs to env.family=simpler_widowx, not simpler_google"):
        make_expert(config, seed=0, quality="clean")
    of_the_first_task = make_expert(EnvConfig(family="simpler_widowx"), seed=0, quality="clean")
    assert isinstance(of_the_first_task, PutOnExpert)


def test_every_builtin_link_hangs_on_the_base() -> None:
    parents = {joint.child: joint.parent for joint in JOINTS}
    assert set(parents) | {WIDOWX.root} == set(INERTIALS)
    assert set(BODIES) <= set(INERTIALS)
    for link in INERTIALS:
        seen = [link]
        while seen[-1] != WIDOWX.root:
            seen.append(parents[seen[-1]])
            assert len(seen) <= len(INERTIALS), f"{link} hangs in a circle"


def test_closed_builtin_fingers_leave_as_much_room_as_upstreams() -> None:
    """Each finger grips with a face 9 mm (at the tip) to 11 mm from its origin, which comes as near as 15 mm to the middle."""
    (hull,) = (shape for shape in BODIES["left_finger_link"].collisions if hasattr(shape, "points"))
    points = np.array(hull.points)
    assert points[points[:, 0] > 0.04][:, 1].min() == pytest.approx(-0.009)
    assert points[:, 1].min() == pytest.approx(-0.011)
    assert points[:, 0].max() == pytest.approx(0.0432)


# -- controllers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    from envs import simpler

    env = simpler.make("widowx_stack_cube", assets="builtin", render=False)
    yield env
    env.close()


@pytest.fixture
def controllers(env: Any) -> Any:
    """Arm and gripper controllers at the first posture."""
    env.reset(seed=0)
    return env.scene.agent.controller.controllers


def act(env: Any, *values: float) -> Any:
    """One action; returns the measured joints."""
    obs, *_ = env.step(np.array(values, dtype=np.float32))
    return obs["agent"]["qpos"]


@sim
def test_nothing_asked_nothing_moves(env: Any, controllers: Any) -> None:
    before = env.scene.agent.qpos_upstream()
    for _ in range(3):
        qpos = act(env, 0, 0, 0, 0, 0, 0, 1)
    np.testing.assert_allclose(qpos, before, atol=1.1e-3)  # the fingers open their last millimetre


@sim
def test_deltas_add_up_to_the_target_not_to_the_measured_pose(env: Any, controllers: Any) -> None:
    arm = controllers["arm"]
    start = arm.target_pose.p
    for step in (1, 2):
        act(env, 0.02, -0.01, -0.02, 0, 0, 0, 1)
        np.testing.assert_allclose(arm.target_pose.p - start, step * np.array([0.02, -0.01, -0.02]), atol=1e-6)
    tool = env.scene.agent.base_pose().inv() * env.scene.agent.tcp_pose()
    assert np.linalg.norm(tool.p - arm.target_pose.p) > 0.005  # it lags
    for _ in range(12):
        act(env, 0, 0, 0, 0, 0, 0, 1)
    tool = env.scene.agent.base_pose().inv() * env.scene.agent.tcp_pose()
    np.testing.assert_allclose(tool.p, arm.target_pose.p, atol=1e-3)


@sim
def test_a_delta_turns_the_target_about_the_measured_point() -> None:
    import sapien

    from envs.simpler.widowx_controllers import pivoted_target_pose

    quarter = np.sqrt(0.5)
    previous, measured = sapien.Pose([0.30, 0.10, 0.20], [1, 0, 0, 0]), np.array([0.28, 0.10, 0.20])
    target = pivoted_target_pose(previous, measured, np.array([0.01, 0.0, 0.03, 0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(target.p, [0.29, 0.12, 0.23], atol=1e-6)  # its lead of 2 cm is turned to the left
    np.testing.assert_allclose(target.q, [quarter, 0, 0, quarter], atol=1e-6)


@sim
def test_where_inverse_kinematics_fails_the_arm_stays_but_the_target_goes(env: Any, controllers: Any) -> None:
    arm = controllers["arm"]
    before, target = env.scene.agent.qpos_upstream(), arm.target_pose.p
    qpos = act(env, 1.0, 0, 0, 0, 0, 0, 1)
    assert arm.ik_failed
    np.testing.assert_allclose(qpos[ARM], before[ARM], atol=1e-3)
    np.testing.assert_allclose(arm.target_pose.p - target, [1.0, 0, 0], atol=1e-6)
    act(env, -1.0, 0, 0, 0, 0, 0, 1)
    assert not arm.ik_failed


@sim
def test_the_gripper_is_a_position(env: Any, controllers: Any) -> None:
    gripper = controllers["gripper"]
    for command, target, measured in ((-1.0, 0.014, 0.015), (0.0, 0.026, 0.026), (5.0, 0.038, 0.037)):
        before = env.scene.agent.qpos_upstream()[ARM]
        for _ in range(8):
            qpos = act(env, 0, 0, 0, 0, 0, 0, command)
        np.testing.assert_allclose(gripper.target_qpos, target, atol=1e-9)
        np.testing.assert_allclose(qpos[FINGERS], measured, atol=3e-4)
        np.testing.assert_allclose(qpos[ARM], before, atol=2e-3)
    assert env.scene.agent.gripper_closedness() == pytest.approx(0.0, abs=0.02)


@sim
def test_a_reset_forgets_the_target(env: Any, controllers: Any) -> None:
    act(env, 0.05, 0, 0, 0, 0, 0, -1)
    env.reset(seed=0)
    tool = env.scene.agent.base_pose().inv() * env.scene.agent.tcp_pose()
    np.testing.assert_allclose(controllers["arm"].target_pose.p, tool.p, atol=1e-6)
    np.testing.assert_allclose(env.scene.agent.qpos_upstream()[FINGERS], 0.037, atol=1e-6)


@sim
def test_the_arm_controllers_state_round_trips(env: Any, controllers: Any) -> None:
    arm = controllers["arm"]
    act(env, 0.02, 0.01, 0, 0.1, 0, 0, 1)
    before = arm.target_pose
    state = arm.get_state()
    arm.reset()
    arm.set_state(state)
    np.testing.assert_allclose(arm.target_pose.p, before.p, atol=1e-6)
    np.testing.assert_allclose(arm.target_pose.q, before.q, atol=1e-6)


@sim
def test_bar_and_fingers_pass_through_each_other(env: Any, controllers: Any) -> None:
    """The bar is inside the fingers' hulls; a contact there would push the arm."""
    for _ in range(6):
        act(env, 0, 0, 0, 0, 0, 0, -1)
    names = [{body.entity.name for body in contact.bodies} for contact in env.scene.scene.px.get_contacts()]
    assert not any("gripper_bar_link" in pair and pair & {"left_finger_link", "right_finger_link"} for pair in names)


@sim
def test_a_cube_between_the_fingers_is_grasped_and_one_beside_them_is_not(env: Any, controllers: Any) -> None:
    import sapien

    from envs.simpler.bodies import stop
    from envs.simpler.native import rigid_body

    agent, cube = env.scene.agent, env.scene.task_object
    assert not bool(agent.is_grasping(cube))
    cube.set_pose(sapien.Pose(agent.tcp_pose().p))
    stop(cube)
    for is_held in (True, False):  # until the fingers are there
        rigid_body(cube).set_locked_motion_axes([is_held] * 6)
        for _ in range(4):
            act(env, 0, 0, 0, 0, 0, 0, -1)
    assert bool(agent.is_grasping(cube))
    assert not bool(agent.is_grasping(env.scene.target_object))
    assert not bool(agent.is_grasping(cube, max_angle=0.0))
    assert 0.2 < agent.gripper_closedness() < 0.9


# -- the builtin robot -----------------------------------------------------------------------------------------------


def load_robot(assets: AssetSet) -> Any:
    """Without drives; its scene lives as long as it."""
    import sapien

    scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem(sapien.Device("cpu"))])
    loader = scene.create_urdf_loader()
    loader.fix_root_link = True
    loader.load_multiple_collisions_from_file = True
    return scene, loader.load(str(assets.widowx_urdf()))


@sim
def test_the_builtin_robot_weighs_and_moves_as_upstreams() -> None:
    try:
        scene, theirs = load_robot(load_asset_set("upstream"))
    except AssetError as error:
        pytest.skip(f"upstream's files are not here: {error}")
    other_scene, ours = load_robot(load_asset_set("builtin"))
    assert [joint.name for joint in ours.active_joints] == [joint.name for joint in theirs.active_joints]
    np.testing.assert_allclose(ours.get_qlimits(), theirs.get_qlimits(), atol=1e-6)
    by_name = {link.name: link for link in theirs.links}
    generator, (low, high) = np.random.default_rng(0), theirs.get_qlimits().T
    for _ in range(3):
        qpos = generator.uniform(low, high)
        ours.set_qpos(qpos)
        theirs.set_qpos(qpos)
        for link in ours.links:
            np.testing.assert_allclose(link.entity_pose.p, by_name[link.name].entity_pose.p, atol=2e-6, err_msg=link.name)
    for link in ours.links:
        other = by_name[link.name]
        assert link.mass == pytest.approx(other.mass, rel=1e-3), link.name
        np.testing.assert_allclose(link.inertia, other.inertia, rtol=1e-3, err_msg=link.name)
        np.testing.assert_allclose(link.cmass_local_pose.p, other.cmass_local_pose.p, atol=1e-5, err_msg=link.name)
    del scene, other_scene
