"""Any ManiSkill task under our records; PickCube stands for all of them, its files ship with ManiSkill."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import AssetError, ConfigError, NonFiniteError, SpecError
from envs.make import EnvConfig, make_env
from envs.maniskill import ManiSkillTaskEnv, instruction_from_name


@pytest.fixture(scope="module")
def env():
    env = ManiSkillTaskEnv("PickCube-v1", image_height_px=48, image_width_px=64)
    yield env
    env.close()


def play(env, seed, actions):
    observation, info = env.reset(seed=seed)
    assert info == {"success": False}
    return [observation, *(env.step(action)[0] for action in actions)]


@pytest.mark.parametrize(
    ("task", "words"),
    [("PickCube-v1", "pick cube"), ("PegInsertionSide-v1", "peg insertion side"), ("MS-AntWalk-v1", "ant walk")],
)
def test_the_instruction_is_the_tasks_name_in_words(task, words):
    assert instruction_from_name(task) == words


@pytest.mark.sim
def test_spec_says_what_the_task_shows_and_accepts(env):
    spec = env.env_spec
    assert [(camera.name, camera.height_px, camera.width_px) for camera in spec.cameras] == [("base_camera", 48, 64)]
    assert spec.state.names[0] == "panda_joint1"
    assert spec.state.units == ("rad",) * 7 + ("m",) * 2
    assert spec.action.names == ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
    assert spec.action.low == (-1.0,) * 7
    assert spec.action.control_hz == 20.0
    assert (env.time_limit_steps, env.instruction) == (50, "pick cube")


@pytest.mark.sim
def test_same_seed_same_frames_and_another_seed_others(env):
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 7)).astype(np.float32)
    first, again, other = play(env, 3, actions), play(env, 3, actions), play(env, 4, actions)
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left.images["base_camera"], right.images["base_camera"])
        np.testing.assert_array_equal(left.state, right.state)
        assert left.time_s == right.time_s
    assert not np.array_equal(first[0].images["base_camera"], other[0].images["base_camera"])
    image = first[0].images["base_camera"]
    assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
    assert image.std() > 10  # a picture, not a blank frame
    assert not np.array_equal(image, first[-1].images["base_camera"])


@pytest.mark.sim
def test_the_end_effector_moves_as_asked_and_old_observations_stay(env):
    before, _ = env.reset(seed=0)
    kept = before.state.copy()
    start = env._env.agent.tcp.pose.p[0].numpy().copy()
    for _ in range(5):
        after, *_ = env.step(np.float32([0, 0, 1, 0, 0, 0, 1]))
    moved = env._env.agent.tcp.pose.p[0].numpy() - start
    assert moved[2] > 0.1
    assert abs(moved[:2]).max() < 0.05
    np.testing.assert_array_equal(before.state, kept)
    assert after.time_s == pytest.approx(5 / 20)


@pytest.mark.sim
def test_the_time_limit_truncates_without_a_verdict(env):
    env.reset(seed=0)
    still = np.float32([0, 0, 0, 0, 0, 0, 1])
    for step in range(1, env.time_limit_steps + 1):
        _, _, terminated, truncated, info = env.step(still)
        assert (terminated, truncated) == (False, step == env.time_limit_steps)
    assert info == {"success": False, "judged_failure": False}


@pytest.mark.sim
def test_bad_actions_are_refused(env):
    env.reset(seed=0)
    with pytest.raises(SpecError, match=r"shape \(6,\); expected \(7,\)"):
        env.step(np.zeros(6, np.float32))
    with pytest.raises(NonFiniteError, match=r"action\[2\] \(dz\) is nan"):
        env.step(np.float32([0, 0, np.nan, 0, 0, 0, 0]))


@pytest.mark.sim
def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'PickCub-v1'.*did you mean 'PickCube-v1'"):
        make_env(EnvConfig(family="maniskill", task="PickCub-v1"))


@pytest.mark.sim
@pytest.mark.parametrize(
    ("task", "asset", "place"),
    [
        ("PickSingleYCB-v1", "ycb", "assets/mani_skill2_ycb"),  # registered with the assets that it needs
        ("AnymalC-Reach-v1", "anymal_c", "robots/anymal_c"),  # ManiSkill would ask on the terminal for its robot
        ("ReplicaCAD_SceneManipulation-v1", "NAME", "scene_datasets"),  # fails when it opens its files
    ],
)
def test_missing_assets_name_the_command_and_ask_nothing(task, asset, place, monkeypatch):
    from mani_skill import ASSET_DIR

    if (ASSET_DIR / place).exists():
        pytest.skip(f"this machine has them: {ASSET_DIR / place}")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(AssetError, match=f"{task} needs .*download_asset {asset}"):
        ManiSkillTaskEnv(task)


@pytest.mark.sim
def test_tasks_with_two_robots_are_refused():
    with pytest.raises(ConfigError, match="has 2 robots"):
        ManiSkillTaskEnv("TwoRobotPickCube-v1", image_height_px=16, image_width_px=16)
