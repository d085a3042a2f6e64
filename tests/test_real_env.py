"""The robot environment over a supervisor on a clock moved by hand: who starts it, what ends it, what it never does."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import ConfigError, SpecError, WorkerError
from core.experience import EpisodeEnd
from envs.real_config import RealEnvConfig
from robot_drivers import messages as m
from robot_drivers.protocol import ProtocolError
from robot_drivers.states import Role, State
from tests.real_robot_rig import Rig

MOVE = np.array([0.0, 0.01, 0.0, 0.0, 0.0, 0.0, 1.0], np.float32)


def handing_over(rig):
    yield from rig.hand_over()


def test_reset_waits_for_a_person_and_moves_nothing_itself():
    seen = []

    def person(rig):
        yield from rig.pause(0.5)
        seen.append(rig.robot.state)
        yield from rig.hand_over()
        seen.append(rig.robot.status().instruction)

    rig = Rig(person, instruction="push the block")
    before = rig.robot.positions()[0].copy()
    observation, info = rig.env.reset(seed=0, options={"checkpoint": "abc"})
    assert seen == [State.DISARMED, "push the block"]
    assert info == {"success": False}
    assert rig.robot.state is State.POLICY
    np.testing.assert_array_equal(rig.robot.positions()[0], before)
    assert observation.images["front"].shape == (4, 6, 3)
    np.testing.assert_allclose(observation.state, [*before, 0, 1, 0, 0, 1], atol=1e-6)


def test_reset_waits_until_the_robot_was_sent_home():
    states = []

    def person(rig):
        yield from rig.pause(0.1)
        rig.robot.must(m.Arm)
        yield from rig.pause(1.0)
        states.append(rig.robot.status().episode_id)  # armed, but not home: nothing begins
        rig.robot.must(m.Home)
        while rig.robot.status().episode_id is None:
            yield
        rig.robot.must(m.HandBack)

    rig = Rig(person, is_homed_first=True)
    rig.env.reset(seed=0)
    assert states == [None]
    assert rig.robot.state is State.POLICY


def waits_for(rig):
    """For the person: what the page of the console shows now."""
    yield from rig.pause(0.2)
    return rig.robot.status().waiting_for


def test_the_console_is_told_what_the_worker_waits_for():
    told = []

    def person(rig):
        told.append((yield from waits_for(rig)))
        rig.robot.must(m.Arm)
        told.append((yield from waits_for(rig)))
        rig.cameras.is_dead = True
        yield from rig.pause(2.0)
        rig.robot.must(m.Home)
        yield from rig.pause(5.0)  # longer than any of what was told counts: it is told again
        told.append((yield from waits_for(rig)))
        rig.cameras.is_dead = False
        told.append((yield from waits_for(rig)))
        rig.robot.must(m.HandBack)
        told.append((yield from waits_for(rig)))
        rig.robot.must(m.Disarm)
        told.append((yield from waits_for(rig)))
        rig.mark(m.Label.FAILURE)
        told.append((yield from waits_for(rig)))

    rig = Rig(person, is_homed_first=True, label_undo_s=1.0)
    rig.env.reset(seed=0)
    while rig.env.ending() is None:
        rig.live()
    assert rig.env.finish() is EpisodeEnd.FAILURE
    rig.robot.wait(0.2)
    assert told == [
        "a person to arm the robot",
        "a person to send it home and watch it go",
        "fresh pictures: the front camera is dead",
        "a person to hand over or to take control",
        "",
        "a label of the episode: success, failure or abort",
        "the time to pass in which the label may be taken back",
    ]
    assert rig.robot.status().waiting_for == ""


def test_what_a_worker_that_died_waited_for_is_forgotten():
    def person(rig):
        yield from rig.pause(1.0)
        rig.env.close()

    rig = Rig(person)
    with pytest.raises(ProtocolError, match="is gone"):
        rig.env.reset(seed=0)
    assert rig.robot.status().waiting_for == "a person to arm the robot"
    rig.robot.wait(4.0)
    assert rig.robot.status().waiting_for == ""


def test_steps_keep_the_control_period_and_move_the_arm():
    rig = Rig(handing_over)
    rig.env.reset(seed=0)
    start, times = rig.robot.positions()[0].copy(), []
    for _ in range(6):
        observation, reward, terminated, truncated, info = rig.env.step(MOVE)
        assert (reward, terminated, truncated, info["refused"], info["end"]) == (0.0, False, False, "", None)
        times.append(observation.time_s)
    np.testing.assert_allclose(np.diff(times), 0.2, atol=0.011)
    assert rig.robot.positions()[0][1] - start[1] > 0.04
    assert [each.step.source for each in info["steps"]] == ["policy"] * 5  # the sixth is under way
    assert info["steps"][0].step.executed_action[1] == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize(
    ("action", "error"), [(np.zeros(3), SpecError), (np.full(7, 9.0), SpecError), (np.full(7, np.nan), ValueError)]
)
def test_an_action_that_means_nothing_is_refused_before_it_is_sent(action, error):
    rig = Rig(handing_over)
    rig.env.reset(seed=0)
    with pytest.raises(error):
        rig.env.step(action.astype(np.float32))
    assert rig.robot.steps("policy") == []


@pytest.mark.parametrize(
    ("label", "end", "terminated"),
    [
        (m.Label.SUCCESS, EpisodeEnd.SUCCESS, True),
        (m.Label.FAILURE, EpisodeEnd.FAILURE, True),
        (m.Label.ABORT, EpisodeEnd.OPERATOR_STOP, False),
    ],
)
def test_a_persons_label_ends_the_episode(label, end, terminated):
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(0.7)
        rig.mark(label, tag="slipped")

    rig = Rig(person)
    rig.env.reset(seed=0)
    done = False
    while not done:
        _, reward, is_terminated, truncated, info = rig.env.step(MOVE)
        done = is_terminated or truncated
    assert (is_terminated, truncated) == (terminated, not terminated)
    assert info["success"] == (end is EpisodeEnd.SUCCESS) == (reward == 1.0)
    assert rig.env.finish() is end
    assert rig.env.label.tag == "slipped"
    assert rig.robot.state is State.ARMED_IDLE
    assert rig.robot.status().episode_id is None


def stop(rig):
    rig.robot.must(m.Stop, token_role=Role.VIEW)


def break_arm(rig):
    rig.robot.arms[0].collide()


def disarm(rig):
    rig.robot.must(m.Disarm)


def cut(rig):
    rig.links[-1].is_open = False


@pytest.mark.parametrize(
    ("event", "end", "state"),
    [
        (stop, EpisodeEnd.OPERATOR_STOP, State.ESTOP),
        (break_arm, EpisodeEnd.FAULT, State.FAULT),
        (disarm, EpisodeEnd.OPERATOR_STOP, State.DISARMED),
        (cut, EpisodeEnd.FAULT, State.HOLD),
    ],
)
def test_a_stop_or_a_fault_truncates_and_nothing_moves_again(event, end, state):
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(0.7)
        event(rig)

    rig = Rig(person)
    rig.env.reset(seed=0)
    truncated = False
    while not truncated:
        _, _, terminated, truncated, info = rig.env.step(MOVE)
        assert not terminated
    assert info["end"] is end
    rig.robot.wait(1.0)
    still = rig.robot.positions()[0].copy()
    for _ in range(5):
        assert rig.env.step(MOVE)[4]["refused"]
    rig.robot.wait(1.0)
    np.testing.assert_array_equal(rig.robot.positions()[0], still)
    assert rig.robot.state is state
    assert rig.env.finish() is end


def test_a_label_after_a_stop_counts_and_can_be_taken_back():
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(0.5)
        stop(rig)
        yield from rig.pause(0.1)
        rig.mark(m.Label.SUCCESS)
        yield from rig.pause(0.2)
        rig.mark(m.Label.NONE)
        yield from rig.pause(0.2)
        rig.mark(m.Label.FAILURE)

    rig = Rig(person)
    rig.env.reset(seed=0)
    while rig.env.ending() is None:
        rig.env.step(MOVE)
    assert rig.env.finish() is EpisodeEnd.FAILURE


def test_a_label_that_was_taken_back_leaves_neither_success_nor_failure():
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(0.5)
        rig.mark(m.Label.SUCCESS)
        yield from rig.pause(0.1)
        rig.mark(m.Label.NONE)

    rig = Rig(person)
    rig.env.reset(seed=0)
    while rig.env.ending() is None:
        rig.env.step(MOVE)
    assert rig.env.finish() is EpisodeEnd.OPERATOR_STOP


def test_the_time_limit_counts_acted_steps_and_a_long_stand_ends_it():
    rig = Rig(handing_over, time_limit_steps=4)
    rig.env.reset(seed=0)
    while rig.env.ending() is None:
        rig.env.step(MOVE)
    assert rig.env.finish() is EpisodeEnd.TIME_LIMIT
    assert sum(each.step.source == "policy" for each in rig.env.recorded()) in (4, 5)  # the one under way is cut short
    rig = Rig(handing_over, hold_limit_s=2.0)
    rig.env.reset(seed=0)
    rig.env.step(MOVE)
    while rig.env.ending() is None:  # nobody acts: the supervisor holds
        rig.env.clock.sleep_s(0.01)
    assert rig.robot.state is State.HOLD
    assert rig.env.finish() is EpisodeEnd.OPERATOR_STOP


def test_a_dead_camera_gives_the_policy_nothing_to_see(caplog):
    rig = Rig(handing_over)
    rig.env.reset(seed=0)
    assert rig.env.look() is not None
    rig.cameras.is_dead = True
    rig.robot.wait(0.35)
    assert [rig.env.look() for _ in range(9)] == [None] * 9
    assert caplog.text.count("the front camera is dead") == 1  # said once, not at every look
    assert "fresh" in rig.env.step(MOVE)[4]["refused"]
    assert rig.env.recorded() == []


def test_a_closed_environment_and_a_lost_supervisor_end_the_wait():
    def person(rig):
        yield from rig.pause(0.3)
        rig.env.close()

    rig = Rig(person)
    with pytest.raises((WorkerError, ProtocolError)):
        rig.env.reset(seed=0)
    assert rig.cameras.is_closed

    def unplugging(rig):
        yield from rig.pause(0.3)
        rig.links[-1].is_open = False

    with pytest.raises(ProtocolError, match="gone"):
        Rig(unplugging).env.reset(seed=0)


@pytest.mark.parametrize("change", [{"time_limit_steps": 0}, {"hold_limit_s": -1.0}, {"label_undo_s": float("nan")}])
def test_a_configuration_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RealEnvConfig(**change)
