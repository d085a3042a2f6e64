"""What the supervisor lets happen: policy, operator, homing, episodes, records."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from supervised_robot import SupervisedRobot

from robot_drivers import messages as m
from robot_drivers.safety_filter import Clip
from robot_drivers.states import Role, State

FORWARD = (0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
SIDE = (0.0, 0.01, 0.0, 0.0, 0.0, 0.05, 0.0)
EPISODE = {"token_role": Role.POLICY, "episode_id": "e1", "instruction": "pick", "checkpoint": "abc"}


@pytest.fixture
def robot():
    return SupervisedRobot()


def test_nothing_moves_before_a_person_arms_it(robot):
    assert robot.state is State.DISARMED
    assert "possible in armed_idle" in robot.refused(m.HandBack)
    assert "possible in" in robot.refused(m.Acquire)
    assert "hand back" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD]))
    before = robot.positions()[0]
    robot.wait(1)
    assert np.array_equal(robot.positions()[0], before)


def test_a_chunk_is_played_at_its_own_times_and_recorded(robot):
    start = robot.arm().positions()[0]
    robot.must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD, SIDE, FORWARD]))
    robot.wait(0.9)
    np.testing.assert_allclose(robot.positions()[0], start + np.array([0.04, 0.01, 0.0]), atol=1e-6)
    steps = robot.steps("policy")
    assert [step.policy_action for step in steps] == [FORWARD, SIDE, FORWARD]
    assert [step.requested_action for step in steps] == [FORWARD, SIDE, FORWARD]
    np.testing.assert_allclose(np.diff([step.start_monotonic_s for step in steps]), 0.2, atol=0.011)
    np.testing.assert_allclose(np.sum([step.executed_action[:3] for step in steps], axis=0), [0.04, 0.01, 0.0], atol=2e-4)
    assert steps[1].executed_action[6] == 0.0
    assert robot.arms[0].true_gripper_opening() == pytest.approx(1.0)
    first = steps[0]
    assert (first.checkpoint, first.observation_sequence, first.clip_mask, first.intervention_id) == ("abc", 3, 0, -1)
    assert first.observation_age_s == pytest.approx(0.05, abs=0.02)
    assert steps[2].action_age_s == pytest.approx(0.4, abs=0.02)


def test_late_actions_are_dropped_and_never_made_up_for(robot):
    robot.arm().must(m.HandBack)
    start = robot.positions()[0]
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD] * 3, period_s=0.05, lifetime_s=0.03))
    robot.clock.advance_s(0.09)
    robot.wait(0.38)
    assert robot.status().dropped_actions == 2
    np.testing.assert_allclose(robot.positions()[0], start + np.array([0.02, 0, 0]), atol=1e-6)


def test_chunks_of_an_ended_motion_or_an_old_look_are_refused(robot):
    robot.arm()
    old = robot.must(m.HandBack).generation - 1
    assert "Look again" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD], generation=old))
    assert "0.600 s old" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD], age_s=0.6))
    assert "takes 7" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD[:6]]))
    uneven = robot.chunk([FORWARD, SIDE]) | {"start_after_s": (0.0,)}
    assert "one of each" in robot.refused(m.ProposeChunk, **uneven)
    backward = robot.chunk([FORWARD, SIDE]) | {"start_after_s": (0.1, 0.1)}
    assert "increasing" in robot.refused(m.ProposeChunk, **backward)
    dead = robot.chunk([FORWARD]) | {"expire_after_s": (0.0,)}
    assert "before they start" in robot.refused(m.ProposeChunk, **dead)
    operate = robot.chunk([FORWARD]) | {"token_role": Role.OPERATE}
    assert "token of role policy" in robot.refused(m.ProposeChunk, **operate)


def test_an_operator_takes_over_moves_lets_go_and_hands_back(robot):
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD] * 10))
    robot.wait(0.3)
    fence = robot.press(phase=m.Phase.RECOVERY)
    assert robot.state is State.HUMAN
    start = robot.positions()[0]
    robot.hold_key(fence, 1.0, gripper=0.0)
    moved = robot.positions()[0] - start
    assert moved[1] == pytest.approx(0.1, abs=0.02)
    robot.must(m.Release, fence=fence)
    assert robot.state is State.HOLD
    robot.wait(0.05)
    standing = robot.positions()[0]
    robot.wait(1)
    assert np.array_equal(robot.positions()[0], standing)
    human = robot.steps("human")
    assert {(s.operator, s.fence, s.phase, s.intervention_id, s.source) for s in human} == {
        ("ada", fence, "recovery", 0, "human")
    }
    assert sum(step.requested_action[1] for step in human) == pytest.approx(0.1, abs=0.01)
    assert sum(step.executed_action[1] for step in human) == pytest.approx(moved[1], abs=0.01)
    assert human[-1].executed_action[6] == 0.0
    robot.must(m.HandBack)
    assert robot.state is State.POLICY
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD]))
    robot.wait(0.3)
    assert robot.positions()[0][0] > standing[0] + 0.015
    assert robot.press() > fence
    robot.wait(0.1)
    assert robot.status().intervention_id == 1


def test_taking_over_drops_the_policys_chunk_and_keeps_its_later_ones_as_a_shadow(robot):
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD] * 10))
    robot.wait(0.1)
    fence = robot.press()
    robot.wait(0.05)
    standing = robot.positions()[0]
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD] * 4))
    robot.hold_key(fence, 0.8, twist=(0.0,) * 6)
    np.testing.assert_allclose(robot.positions()[0], standing, atol=0.015)
    shadows = [step.policy_action for step in robot.steps("human")]
    assert FORWARD in shadows


def test_homing_goes_home_and_stands_there(robot):
    fence = robot.arm().press()
    robot.hold_key(fence, 1.0, twist=(0.1, 0.1, 0.0, 0.0, 0.0, 0.3))
    robot.must(m.Release, fence=fence)
    robot.must(m.Home)
    robot.wait(4)
    assert robot.state is State.ARMED_IDLE
    np.testing.assert_allclose(robot.positions()[0], [0.3, 0.0, 0.3], atol=0.006)
    assert {step.source for step in robot.steps()} >= {"home", "human"}


def test_checkpoints_change_between_episodes_only(robot):
    robot.arm()
    robot.must(m.BeginEpisode, **EPISODE)
    assert "end it first" in robot.refused(m.BeginEpisode, **EPISODE | {"checkpoint": "new"})
    robot.must(m.HandBack)
    assert "swap between episodes" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD], checkpoint="new"))
    chunk = robot.chunk([FORWARD] * 3)
    robot.must(m.ProposeChunk, **chunk)
    robot.wait(0.1)
    assert "not open" in robot.refused(m.EndEpisode, token_role=Role.POLICY, episode_id="other")
    robot.must(m.EndEpisode, token_role=Role.POLICY, episode_id="e1")
    assert robot.state is State.ARMED_IDLE
    generation = robot.must(m.BeginEpisode, **EPISODE | {"episode_id": "e2", "checkpoint": "new"}).generation
    assert generation > chunk["generation"]
    robot.must(m.HandBack)
    assert "Look again" in robot.refused(m.ProposeChunk, **chunk)
    assert {step.episode_id for step in robot.steps("policy")} == {"e1"}


def test_steps_in_which_nobody_acts_are_marked_hold_while_an_episode_is_open(robot):
    robot.arm().must(m.BeginEpisode, **EPISODE)
    robot.must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD]))
    robot.wait(1.5)
    assert robot.state is State.HOLD
    steps = robot.steps()
    policy = next(i for i, step in enumerate(steps) if step.source == "policy")
    assert {step.source for step in steps[policy + 1 :]} == {"hold"}
    assert all(step.policy_action is None for step in steps[policy + 1 :])
    ends = [(step.start_monotonic_s, step.start_monotonic_s + step.duration_s) for step in steps]
    assert all(later[0] >= earlier[1] - 1e-9 for earlier, later in itertools.pairwise(ends))
    assert [step.index for step in steps] == list(range(len(steps)))


def test_labels_and_values_are_passed_on(robot):
    robot.must(m.SetLabel, episode_id="e1", label=m.Label.SUCCESS, tag="clean")
    robot.must(m.SetLabel, episode_id="e1", label=m.Label.NONE)
    assert [(event.label, event.operator) for event in robot.events("label")] == [("success", "ada"), ("none", "ada")]
    robot.must(m.ReportValue, token_role=Role.POLICY, value=-0.3, advantage=-0.1, threshold=0.0)
    robot.wait(0.1)
    assert (robot.status().value, robot.status().advantage, robot.status().threshold) == (-0.3, -0.1, 0.0)


def test_nobody_hands_over_to_a_worker_that_would_not_act(robot):
    robot.arm()
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a label", valid_s=1.0)
    assert "cannot act yet: it waits for a label" in robot.refused(m.HandBack)
    robot.wait(0.1)
    assert robot.status().state is State.ARMED_IDLE
    robot.must(m.BeginEpisode, **EPISODE)
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a person to hand over", valid_s=1.0)
    robot.must(m.HandBack)
    robot.wait(0.05)
    assert robot.status().state is State.POLICY


def test_a_worker_that_has_died_waiting_for_something_hinders_nobody(robot):
    robot.arm()
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a label", valid_s=1.0)
    robot.wait(1.1)
    robot.must(m.HandBack)


def test_what_the_actor_waits_for_is_passed_on_until_it_says_otherwise_or_nothing(robot):
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a person to arm the robot", valid_s=3.0)
    robot.wait(0.1)
    assert robot.status().waiting_for == "a person to arm the robot"
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="", valid_s=0.0)
    robot.wait(0.1)
    assert robot.status().waiting_for == ""
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a label", valid_s=1.0)
    robot.wait(0.9)
    assert robot.status().waiting_for == "a label"
    robot.wait(0.2)
    assert robot.status().waiting_for == ""
    assert "expected the token of role policy" in robot.refused(m.ReportWaiting, what="more", valid_s=1.0)


def test_two_arms_take_one_action_of_fourteen():
    robot = SupervisedRobot(num_arms=2)
    start = robot.arm().positions()
    robot.must(m.HandBack)
    assert "takes 14" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD]))
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD + SIDE]))
    robot.wait(0.35)
    np.testing.assert_allclose(robot.positions(), [start[0] + [0.02, 0, 0], start[1] + [0, 0.01, 0]], atol=1e-6)
    assert len(robot.steps("policy")[0].executed_action) == 14
    welcome = robot.supervision.welcome(Role.VIEW)
    assert welcome.action_names[7] == "arm1.dx"
    assert len(welcome.action_low) == len(welcome.action_units) == 14


def test_a_clipped_action_says_what_clipped_it(robot):
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([(0.05, 0, 0, 0, 0, 0, 2.0)]))
    robot.wait(0.35)
    (step,) = robot.steps("policy")
    assert Clip(step.clip_mask) == Clip.STEP | Clip.GRIPPER
    assert step.requested_action[0] == 0.05
    assert step.executed_action[0] == pytest.approx(0.03, abs=2e-3)
    assert step.executed_action[6] == 1.0


def test_the_same_requests_give_the_same_executed_actions_bit_for_bit():
    def play():
        robot = SupervisedRobot()
        robot.arm().must(m.BeginEpisode, **EPISODE)
        robot.must(m.HandBack)
        rng = np.random.default_rng(3)
        for _ in range(3):
            robot.must(m.ProposeChunk, **robot.chunk(rng.normal(0, 0.02, (4, 7)).tolist()))
            robot.wait(0.63)
        robot.hold_key(robot.press(), 0.4, twist=(0.05, -0.1, 0.02, 0.3, 0.0, 0.1))
        return robot.steps()

    first, again = play(), play()
    assert first == again
    assert {step.source for step in first} == {"policy", "human"}
    assert np.array([s.executed_action for s in first]).tobytes() == np.array([s.executed_action for s in again]).tobytes()
