"""A simulated environment under a robot's specification: the same policy, other names, nothing left to chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from core.errors import ConfigError, SpecError
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from envs.fake import ReachEnv
from envs.make import EnvConfig, make_env, make_twin
from envs.real_config import RealEnvConfig, TwinConfig
from envs.real_connect import open_real_env
from envs.real_twin import TwinEnv

SPEC = EnvSpec(
    cameras=(CameraSpec(name="front", height_px=20, width_px=30),),
    state=StateSpec(names=("arm.x", "arm.y", "arm.gripper"), units=("m", "m", "1")),
    action=ActionSpec(
        names=("arm.dx", "arm.dy", "arm.gripper"), units=("m", "m", "1"), low=(-0.02,) * 3, high=(0.02,) * 3, control_hz=5.0
    ),
)
ACTION = ("dx = 50 * arm.dx", "dy = -25*arm.dy + 0.5")
STATE = ("arm.x = 0.02 * x + 0.3", "arm.y=y - 1e-1", "arm.gripper = 1")


def twin(action=ACTION, state=STATE, spec=SPEC):
    return TwinEnv(ReachEnv(), spec, TwinConfig(family="fake", action=action, state=state), instruction="push")


def test_it_looks_and_acts_like_the_robot():
    env = twin()
    observation, info = env.reset(seed=1, options={"hand": [1.0, 2.0], "goal": [3.0, 0.0]})
    assert env.env_spec == SPEC
    assert (env.family, env.task, env.instruction) == ("fake", "reach", "push")
    assert observation.images["front"].shape == (20, 30, 3)
    np.testing.assert_allclose(observation.state, [0.32, 1.9, 1.0], atol=1e-6)
    observation, _, _, _, info = env.step(np.array([0.01, 0.04, 1.0], np.float32))
    np.testing.assert_allclose(env.simulated.hand, [1.5, 1.5], atol=1e-6)  # 50 * 0.01; -25 * 0.04 + 0.5
    assert info["success"] is False
    with pytest.raises(SpecError, match="expected \\(3,\\)"):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("dx = 50 * arm.dx",), r"says nothing of \['dy'\]"),
        ((*ACTION, "dy = 0"), "one line for each"),
        (("dx = arm.dx", "dy = arm.z"), "'dy = arm.z'"),
        (("dx = arm.dx", "dy = arm.dx * arm.dy"), "ENTRY = NUMBER"),
        (("dx = arm.dx", "dz = 0"), "'dz = 0'"),
    ],
)
def test_a_translation_that_is_not_complete_or_not_linear_is_refused(lines, message):
    with pytest.raises(ConfigError, match=message):
        twin(action=lines)


def test_a_twin_that_acts_at_another_rate_or_sees_less_is_refused():
    faster = dataclasses.replace(SPEC, action=dataclasses.replace(SPEC.action, control_hz=10.0))
    with pytest.raises(SpecError, match="acts at 5 Hz, the robot at 10 Hz"):
        twin(spec=faster)
    with pytest.raises(SpecError, match="has 1 cameras; the robot has 2"):
        twin(spec=dataclasses.replace(SPEC, cameras=(*SPEC.cameras, CameraSpec(name="wrist", height_px=8, width_px=8))))


def test_a_configuration_makes_a_twin_but_never_of_another_robot():
    robot = RealEnvConfig(twin=TwinConfig(family="fake", action=ACTION, state=STATE))
    assert make_twin(EnvConfig(family="robot", robot=robot), SPEC).env_spec == SPEC
    with pytest.raises(ConfigError, match="expected a simulation"):
        make_twin(EnvConfig(family="robot", robot=RealEnvConfig(twin=TwinConfig(family="robot"))), SPEC)
    with pytest.raises(ConfigError, match=r"rollout_fraction is 1\.5"):
        TwinConfig(rollout_fraction=1.5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RealEnvConfig(), "env.robot.name is empty"),
        (RealEnvConfig(name="arm"), "env.robot.cameras is empty"),
        (RealEnvConfig(name="arm", cameras=("front",)), "camera 'front'; expected NAME=KIND"),
        (RealEnvConfig(name="arm", cameras=("front=webcam:0",)), "'front=webcam:0'"),
        (RealEnvConfig(name="arm", cameras=("front=simulated",), tokens="nowhere"), "no token file nowhere"),
    ],
)
def test_a_robot_that_is_not_configured_is_refused_before_anything_is_opened(config, message):
    with pytest.raises(ConfigError, match=message):
        open_real_env(config, task="push", image_height_px=8, image_width_px=8)
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(family="robot", robot=config))
