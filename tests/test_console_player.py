"""The demonstration's policy: SIMPLER's units for it, the supervisor's for the robot."""

from __future__ import annotations

import numpy as np
import pytest

from console.demo_player import TranslatedPolicy, to_robot, to_simpler
from core.experience import ActionChunk, Observation
from models.policy import ContinuingPolicy
from robot_drivers.limits import Box

BOX = Box(low_m=(0.3, -0.3, 0.8), high_m=(0.7, 0.3, 1.0))
HERE_M = np.array([0.4, -0.2, 0.9], dtype=np.float32)


def seen(opening):
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    state = np.array([0.4, -0.2, 0.9, 1, 0, 0, 0, opening], dtype=np.float32)
    return Observation(images={"overhead_camera": image}, state=state, time_s=3.0)


def chunk(*commands):
    actions = np.zeros((len(commands), 7), dtype=np.float32)
    actions[:, 0], actions[:, -1] = 0.03, commands
    return ActionChunk(actions=actions, policy_version=4, observation_time_s=3.0)


class Simpler:
    """A policy that notes what it is asked."""

    version = 4

    def sample_actions(self, observations, instructions, generators):
        self.asked = observations, instructions, generators
        return [chunk(1.0, -1.0) for _ in observations]

    def continue_actions(self, observations, instructions, generators, committed):
        self.committed = committed
        return self.sample_actions(observations, instructions, generators)


@pytest.mark.parametrize(("opening", "closedness"), [(1.0, 0.0), (0.25, 0.75), (0.0, 1.0)])
def test_simpler_is_told_how_closed_the_gripper_is(opening, closedness):
    given = seen(opening)
    told = to_simpler(given)
    assert told.state[-1] == closedness
    assert (told.state[:-1] == given.state[:-1]).all()
    assert given.state[-1] == np.float32(opening)  # what is recorded stays what it is


def test_the_supervisor_is_told_how_open_the_gripper_is_to_be():
    given = chunk(-1.0, 0.0, 1.0, 1.1, -3.0)
    told = to_robot(given, HERE_M, BOX)
    assert told.actions[:, -1].tolist() == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert told.actions[:, :-1] == pytest.approx(given.actions[:, :-1], abs=1e-6)
    assert (told.policy_version, told.observation_time_s) == (4, 3.0)


def test_a_policy_that_would_press_on_the_box_ends_inside_and_comes_back_at_once():
    given = chunk(*[0.0] * 6)
    given.actions[:, 2] = [0.05, 0.05, 0.05, -0.02, -0.02, 0.01]
    told = to_robot(given, HERE_M, BOX).actions
    ends_m = HERE_M + np.cumsum(told[:, :3], axis=0)
    top_m = ends_m[1, 2]
    assert 0.95 < top_m < 1.0
    assert ends_m[:, 2] == pytest.approx([0.95, top_m, top_m, top_m - 0.02, top_m - 0.04, top_m - 0.03], abs=1e-6)
    assert ends_m[:, 0] == pytest.approx([0.43, 0.46, 0.49, 0.52, 0.55, 0.58], abs=1e-6)
    assert (ends_m[:, 1] == HERE_M[1]).all()


def test_what_is_on_its_way_stays_and_what_follows_leads_back():
    given = chunk(*[0.0] * 3)
    given.actions[:, 2] = [0.12, 0.02, 0.02]
    told = to_robot(given, HERE_M, BOX, num_committed=1).actions
    assert told[0, 2] == np.float32(0.12)
    assert told[1, 2] < -0.02
    assert told[2, 2] == pytest.approx(0.0, abs=1e-6)


def test_a_tool_that_is_outside_the_box_is_led_inside():
    given = chunk(0.0)
    (told,) = to_robot(given, np.array([0.4, -0.2, 1.1], dtype=np.float32), BOX).actions
    assert 0.95 < 1.1 + told[2] < 1.0


def test_the_policy_sees_and_acts_through_both():
    simpler = Simpler()
    policy = TranslatedPolicy(simpler, env_spec="the robot's", box=BOX)
    (first, second) = policy.sample_actions([seen(1.0), seen(0.0)], ["a", "b"], ["x", "y"])
    observations, instructions, generators = simpler.asked
    assert [one.state[-1] for one in observations] == [0.0, 1.0]
    assert (instructions, generators) == (["a", "b"], ["x", "y"])
    assert first.actions[:, -1].tolist() == second.actions[:, -1].tolist() == [0.0, 1.0]
    assert (policy.version, policy.env_spec) == (4, "the robot's")


def test_what_is_committed_is_told_in_simplers_units():
    simpler = Simpler()
    policy = TranslatedPolicy(simpler, env_spec="the robot's", box=BOX)
    assert isinstance(policy, ContinuingPolicy)
    given = chunk(-1.0, 0.0, 1.0)
    (answer,) = policy.continue_actions([seen(1.0)], ["a"], ["x"], [to_robot(given, HERE_M, BOX).actions])
    np.testing.assert_allclose(simpler.committed[0], given.actions, atol=1e-6)
    assert simpler.asked[0][0].state[-1] == 0.0
    assert answer.actions[:, -1].tolist() == [0.0, 1.0]
