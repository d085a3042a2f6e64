"""The pick-can scenes end to end: observations, seeding, options, limits, bad input."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest

from core.errors import ConfigError, NonFiniteError, SpecError
from core.experience import Observation
from envs import simpler
from envs.simpler.task_env import SimplerTaskEnv
from envs.simpler.tasks import display_name

pytestmark = pytest.mark.sim
HOLD = np.zeros(7, np.float32)
REACH = np.array([0.02, 0.01, -0.03, 0.02, 0.0, 0.05, 1.0], np.float32)


@pytest.fixture(scope="module")
def env():
    """Any orientation, one robot colour."""
    env = simpler.make("google_robot_pick_coke_can", assets="builtin", obs_size=(64, 80), urdf_version="")
    yield env
    env.close()


@pytest.fixture(scope="module")
def task_env():
    """What actors step, with a short time limit."""
    env = SimplerTaskEnv("google_robot_pick_standing_coke_can", image_height_px=64, image_width_px=80, max_episode_steps=3)
    yield env
    env.close()


def test_observations_nest_as_upstream(env):
    obs, info = env.reset(seed=0)
    camera = obs["image"]["overhead_camera"]
    assert camera["rgb"].dtype == np.uint8
    assert camera["rgb"].shape == (64, 80, 3)
    assert camera["depth"].shape == (64, 80, 1)
    assert camera["Segmentation"].shape == (64, 80, 4)
    assert obs["agent"]["qpos"].shape == obs["agent"]["qvel"].shape == (11,)
    assert obs["agent"]["controller"]["gripper"]["target_qpos"].shape == (2,)
    assert obs["agent"]["base_pose"].shape == obs["extra"]["tcp_pose"].shape == (7,)
    np.testing.assert_allclose(obs["agent"]["base_pose"][:3], [0.35, 0.20, 0.07905], atol=1e-6)
    np.testing.assert_allclose(obs["camera_param"]["overhead_camera"]["intrinsic_cv"][0], [53.125, 0, 40], atol=1e-4)
    assert env.observation_space.contains(obs)
    assert env.action_space.shape == (7,)
    assert info["urdf_version"] == ""
    assert info["model_id"] == "opened_coke_can"
    assert simpler.get_image_from_maniskill2_obs_dict(env, obs) is camera["rgb"]
    assert (env.render() == camera["rgb"]).all()


def test_a_step_reports_what_upstream_reports(env):
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(HOLD)
    assert env.observation_space.contains(obs)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["elapsed_steps"] == 1
    assert info["episode_stats"] == {"n_lift_significant": 0, "consec_grasp": False, "grasped": False}
    flags = ("is_grasped", "consecutive_grasp", "lifted_object", "lifted_object_significantly", "success")
    assert [info[flag] for flag in flags] == [False] * 5


def test_upstreams_calls_are_there(env):
    env.reset(seed=0)
    assert env.unwrapped.robot_uid == "google_robot_static"
    assert env.get_language_instruction() == "pick coke can" == f"pick {display_name(env.obj.name)}"
    assert env.is_final_subtask()
    env.advance_to_next_subtask()
    assert env.is_final_subtask()
    assert env.elapsed_steps == 0
    with pytest.raises(AttributeError):
        _ = env.no_such_thing


def test_draws_follow_upstreams_streams(env):
    for seed in (0, 1, 5):
        _, info = env.reset(seed=seed)
        assert info["orientation"] == np.random.RandomState(seed).choice(["upright", "laid_vertically", "lr_switch"])
        xy = np.random.RandomState(seed).uniform([-0.35, -0.02], [-0.12, 0.42])
        np.testing.assert_allclose(env.scene.task_pose().p[:2], xy, atol=0.01)


def test_unseeded_resets_continue_upstreams_chain(env):
    env.reset(seed=7)
    env.reset()
    assert env.scene.episode_seed == np.random.RandomState(7).randint(2**32, dtype=np.uint64)
    second = int(np.random.RandomState(env.scene.episode_seed).randint(2**32, dtype=np.uint64))
    env.reset()
    assert env.scene.episode_seed == second


def _run(env, seed):
    obs, _ = env.reset(seed=seed)
    frames = [obs["image"]["overhead_camera"]["rgb"]]
    poses = [np.append(env.scene.task_pose().p, env.scene.task_pose().q)]
    for _ in range(4):
        obs, *_ = env.step(REACH)
        frames.append(obs["image"]["overhead_camera"]["rgb"])
        poses.append(obs["extra"]["tcp_pose"])
    return np.array(frames), np.concatenate(poses)


def test_the_same_seed_gives_the_same_episode_whatever_came_before(env):
    frames, poses = _run(env, 3)
    other_frames, _ = _run(env, 4)
    again_frames, again_poses = _run(env, 3)
    assert (frames == again_frames).all()
    assert (poses == again_poses).all()
    assert (frames != other_frames).any()
    assert (frames[0] != frames[-1]).any()


def test_options_are_used_and_left_alone(env):
    options = {"obj_init_options": {"init_xy": [-0.2, 0.1], "orientation": "standing"}}
    before = copy.deepcopy(options)
    _, info = env.reset(seed=0, options=options)
    assert options == before
    assert info["orientation"] == "standing"
    np.testing.assert_allclose(env.scene.task_pose().p[:2], [-0.2, 0.1], atol=2e-3)
    np.testing.assert_allclose(env.scene.task_pose().p[2], 0.87 + 0.069, atol=5e-3)


def test_an_unknown_orientation_is_refused(env):
    with pytest.raises(ConfigError, match=r"orientation='sideways'.*upright"):
        env.reset(seed=0, options={"obj_init_options": {"orientation": "sideways"}})
    env.reset(seed=0)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (np.zeros(6), SpecError, r"action has shape \(6,\); expected \(7,\): dx, dy"),
        (np.array([0, np.nan, 0, 0, 0, 0, 0]), NonFiniteError, r"action\[1\] \(dy\) is nan"),
        (np.array([0, 0, 0, 0, 1e3, 0, 0]), SpecError, r"action\[4\] \(ry\) is 1000 rad; limits are"),
    ],
)
def test_bad_actions_are_refused_before_anything_moves(env, action, error, message):
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(action)
    assert env.elapsed_steps == 0


def test_an_unknown_argument_or_colour_is_refused():
    with pytest.raises(ConfigError, match="unexpected keyword argument 'urdf_versoin'"):
        simpler.make("google_robot_pick_coke_can", urdf_versoin="")
    with pytest.raises(ConfigError, match="urdf_version='pink'; known are"):
        simpler.make("google_robot_pick_coke_can", urdf_version="pink")


def test_gymnasium_knows_the_names():
    env = gymnasium.make("simpler/google_robot_pick_vertical_coke_can-v0", assets="builtin", obs_size=(32, 40), urdf_version="")
    obs, info = env.reset(seed=1)
    assert info["orientation"] == "laid_vertically"
    assert simpler.get_image_from_maniskill2_obs_dict(env, obs).shape == (32, 40, 3)
    env.close()


def test_evaluation_draws_the_robots_colour():
    """The upstream protocol: a colour per seed; a change rebuilds the scene, and the overlay follows."""
    env = simpler.make("google_robot_pick_standing_coke_can", assets="builtin", obs_size=(32, 40))
    colours = ["", *(f"recolor_{name}_visual_matching_{n}" for name, n in (("tabletop", 1), ("tabletop", 2), ("cabinet", 1)))]
    images, colour = {}, env.scene.urdf_version
    for seed in (0, 1):
        obs, info = env.reset(seed=seed, options={"obj_init_options": {"init_xy": [-0.2, 0.1]}})
        assert info["urdf_version"] == np.random.RandomState(seed).choice(colours)
        assert info["reconfigure"] == (info["urdf_version"] != colour)
        colour = info["urdf_version"]
        images[seed] = obs["image"]["overhead_camera"]["rgb"]
    assert (images[0] != images[1]).any()
    background = obs["image"]["overhead_camera"]["Segmentation"][..., 1] == 0
    assert (images[0] == images[1])[background & (background.cumsum(axis=1) < 20)].mean() > 0.9
    env.close()


def test_without_the_prepackaged_setup_the_robot_is_placed_as_asked():
    env = simpler.make("google_robot_pick_standing_coke_can", prepackaged_config=False, render=False)
    qpos = np.linspace(0.05, 0.15, 11)
    turned = [0.0, 0.0, np.sin(1.5), np.cos(1.5)]
    options = {"robot_init_options": {"init_xy": [0.4, 0.1], "init_height": 0.1, "init_rot_quat": turned, "qpos": qpos}}
    obs, _ = env.reset(seed=0, options=options)
    np.testing.assert_allclose(obs["agent"]["base_pose"], [0.4, 0.1, 0.1, *turned], atol=1e-6)
    np.testing.assert_allclose(obs["agent"]["qpos"], qpos, atol=1e-6)
    assert "image" not in obs
    with pytest.raises(ConfigError, match="render=False"):
        env.render()
    obs, _ = env.reset(seed=3)
    random = np.random.RandomState(3)
    random.uniform(size=2)  # the can's position comes first
    expected = [random.uniform(0.30, 0.40), random.uniform(0.0, 0.2)]
    np.testing.assert_allclose(obs["agent"]["base_pose"][:2], expected, atol=1e-6)
    env.close()


def test_physics_numbers(env):
    from envs.simpler.native import rigid_body, unwrap

    config = env.scene.sim_config
    assert (config.sim_freq, config.control_freq) == (513, 3)
    assert not config.scene_config.enable_pcm
    assert config.scene_config.contact_offset == 0.02
    robot = env.scene.agent.robot
    assert unwrap(robot).get_solver_position_iterations() == 25
    assert all(unwrap(link).disable_gravity for link in robot.links)
    joints = {joint.name: unwrap(joint) for joint in robot.active_joints}
    assert (joints["joint_wrist"].stiffness, joints["joint_wrist"].force_limit) == (pytest.approx(432.965, abs=1e-3), 100.0)
    assert (joints["joint_finger_left"].stiffness, joints["joint_finger_left"].damping) == (200.0, 8.0)
    links = {link.name: unwrap(link) for link in robot.links}
    for name, friction, patch in (
        ("link_finger_tip_left", 2.0, 0.1),
        ("link_finger_nail_right", 0.1, 0.01),
        ("link_base", 0.1, 0.1),
        ("link_wrist", 1.0, 0.0),
    ):
        for shape in links[name].collision_shapes:
            assert shape.physical_material.static_friction == pytest.approx(friction), name
            assert shape.get_patch_radius() == pytest.approx(patch), name
    body = rigid_body(env.scene.obj)
    assert body.linear_damping == pytest.approx(0.1)
    assert body.mass == pytest.approx(0.0199575, rel=0.01)
    assert [shape.physical_material.dynamic_friction for shape in body.collision_shapes] == pytest.approx(
        [0.5] * len(body.collision_shapes)
    )


def test_task_env_gives_records_that_match_its_specification(task_env):
    observation, info = task_env.reset(seed=0)
    assert isinstance(observation, Observation)
    (camera,) = task_env.env_spec.cameras
    assert observation.images[camera.name].shape == (camera.height_px, camera.width_px, 3)
    assert observation.state.shape == (task_env.env_spec.state.dim,)
    assert observation.state.dtype == np.float32
    expected = [0.439384, -0.218417, 0.961869, 0.160115, -0.603852, 0.780173, -0.032499, 0.0]
    np.testing.assert_allclose(observation.state, expected, atol=1e-5)
    assert (observation.time_s, info["success"], task_env.instruction) == (0.0, False, "pick coke can")


def test_the_time_limit_is_a_verdict(task_env):
    task_env.reset(seed=0)
    verdicts = []
    for _ in range(3):
        observation, reward, terminated, truncated, info = task_env.step(HOLD)
        verdicts.append((reward, terminated, truncated, info["judged_failure"]))
    assert verdicts == [(0.0, False, False, False)] * 2 + [(0.0, False, True, True)]
    assert observation.time_s == pytest.approx(1.0)


def test_privileged_poses_agree_between_frames(task_env):
    task_env.reset(seed=2)
    tool, can = task_env.tcp_pose(), task_env.object_pose()
    # The base stands at (0.35, 0.20, 0.07905), turned by pi about z.
    for pose in (tool, can):
        np.testing.assert_allclose(pose.base[:3] * [-1, -1, 1] + [0.35, 0.20, 0.07905], pose.world[:3], atol=1e-5)
    assert can.world[2] == pytest.approx(0.87 + 0.069, abs=5e-3)
    assert task_env.gripper_closedness() == pytest.approx(0.0, abs=1e-3)


def test_task_env_refuses_bad_actions(task_env):
    task_env.reset(seed=0)
    with pytest.raises(SpecError, match="expected"):
        task_env.step(np.zeros((1, 7), np.float32))
