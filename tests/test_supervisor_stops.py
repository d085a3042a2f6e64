"""What ends motion, and how it is left: stops, leases, watchdogs, faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from supervised_robot import SupervisedRobot

from robot_drivers import messages as m
from robot_drivers.driver import ArmMode
from robot_drivers.safety_filter import SafetyFilter
from robot_drivers.states import Role, State

FORWARD = (0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
RESET = {"reason": "looked", "confirmed": True}


@pytest.fixture
def robot():
    return SupervisedRobot()


def drive(robot, num_actions=20):
    """Under way, by a policy."""
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD] * num_actions))
    robot.wait(0.3)
    assert robot.state is State.POLICY
    return robot


def assert_stands(robot, duration_s=1.0):
    before = robot.positions()
    robot.wait(duration_s)
    assert np.array_equal(robot.positions(), before)


def test_anyone_stops_and_only_a_named_person_resets_to_disarmed(robot):
    drive(robot)
    robot.must(m.Stop, token_role=Role.VIEW, operator="guest", reason="smoke")
    assert robot.state is State.ESTOP
    robot.serve()
    assert_stands(robot)
    for refused in (m.Arm, m.HandBack, m.Home, m.Acquire, m.Disarm):
        assert "does nothing in state estop" in robot.refused(refused)
    assert "hand back" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD]))
    assert "needs operate" in robot.refused(m.Reset, role=Role.VIEW, **RESET)
    assert "needs operate" in robot.refused(m.Reset, token_role=Role.VIEW, **RESET)
    assert "not confirmed" in robot.refused(m.Reset, **RESET | {"confirmed": False})
    robot.must(m.Reset, **RESET)
    assert robot.state is State.DISARMED
    assert_stands(robot)
    assert "ada" in robot.events("state")[-1].text
    assert robot.events("state")[-1].operator == "ada"


def test_a_stop_reaches_every_arm_in_the_call_that_asks_for_it():
    robot = SupervisedRobot(num_arms=2)
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD + FORWARD] * 5))
    robot.wait(0.15)
    robot.must(m.Stop, operator="ada")
    assert all(link.is_stopping for link in robot.links)
    robot.serve()
    assert_stands(robot)


def test_a_stop_passes_an_exchange_that_hangs(robot):
    drive(robot)
    robot.unserved.add(robot.links[0])
    robot.must(m.Stop, operator="ada")
    robot.links[0].serve_stop()
    assert_stands(robot, 0.1)
    robot.unserved.clear()
    assert_stands(robot)


def test_reset_waits_for_quiet(robot):
    fence = robot.arm().press()
    robot.push(fence, 1)
    robot.must(m.Stop, operator="ada")
    robot.wait(0.2)
    robot.push(fence, 2, ask=robot.refused)
    assert "let go of every input" in robot.refused(m.Reset, **RESET)
    robot.wait(0.6)
    robot.arms[0].press_estop()
    robot.wait(0.1)
    assert "release it first" in robot.refused(m.Reset, **RESET)
    robot.arms[0].release_estop()
    robot.wait(0.1)
    robot.must(m.Reset, **RESET)
    robot.wait(0.1)
    assert robot.state is State.FAULT, "the controller wants its fault cleared"
    robot.must(m.Acknowledge, reason="looked")
    robot.wait(0.1)
    assert robot.state is State.DISARMED


def test_a_silent_operator_loses_control_within_the_lease_and_needs_a_new_press(robot):
    fence = robot.arm().press()
    robot.hold_key(fence, 0.5)
    heard_s = robot.clock.monotonic_s() - 0.05
    while robot.state is State.HUMAN:
        robot.tick()
    assert robot.clock.monotonic_s() - heard_s <= robot.config.lease_ttl_s + 2 / robot.config.tick_hz
    assert robot.state is State.HOLD
    assert_stands(robot)
    assert "press again" in robot.push(fence, 99, ask=robot.refused)
    assert robot.state is State.HOLD
    again = robot.press()
    assert again > fence
    robot.hold_key(again, 0.2)
    assert robot.state is State.HUMAN


def test_frames_out_of_order_too_old_or_of_another_lease_are_refused(robot):
    fence = robot.arm().press()
    robot.push(fence, 5)
    assert "increasing" in robot.push(fence, 5, ask=robot.refused)
    assert "increasing" in robot.push(fence, 4, ask=robot.refused)
    assert "0.300 s old" in robot.push(fence, 6, age_s=0.3, ask=robot.refused)
    assert "does not hold control" in robot.push(fence + 1, 7, ask=robot.refused)
    assert "not finite" in robot.push(fence, 8, twist=(float("nan"),) * 6, ask=robot.refused)
    assert "does not hold control" in robot.refused(m.Release, fence=fence - 1)
    assert "may not move" in robot.refused(m.Release, fence=fence, token_role=Role.VIEW)
    reply = robot.ask(m.HumanInput, fence=fence, sequence=9, age_s=0.0, twist=(), gripper_opening=())
    assert "input for 0 arms" in reply.error


def test_an_old_frame_extends_the_lease_by_what_is_left_of_it_only(robot):
    fence = robot.arm().press()
    robot.wait(0.2)
    robot.push(fence, 1, age_s=0.2)
    robot.wait(0.1)
    assert robot.state is State.HOLD


def test_a_second_operator_is_refused_by_name_and_force_needs_the_role(robot):
    fence = robot.arm().press("ada")
    robot.push(fence, 1)
    reply = robot.ask(m.Acquire, operator="bob")
    assert (reply.ok, reply.holder) == (False, "ada")
    assert "ada has had control" in reply.error
    assert robot.events("request")[-1].operator == "bob"
    assert "yours is operate" in robot.refused(m.Acquire, operator="bob", forced=True)
    assert "yours is operate" in robot.refused(
        m.Acquire, operator="bob", forced=True, role=Role.SUPERVISE, token_role=Role.OPERATE
    )
    forced = robot.press("bob", forced=True, role=Role.SUPERVISE)
    assert "does not hold control" in robot.push(fence, 2, ask=robot.refused)
    robot.push(forced, 1)
    assert "from ada by force" in robot.events("state")[-1].text


def test_a_silent_policy_is_held_and_resumes_by_hand_back_only(robot):
    drive(robot, num_actions=2)
    robot.wait(1)
    assert robot.state is State.HOLD
    assert "no action from the policy for 0.4 s" in robot.status().reason
    assert "hand back" in robot.refused(m.ProposeChunk, **robot.chunk([FORWARD]))
    assert_stands(robot)
    robot.must(m.HandBack)
    robot.wait(1)
    assert robot.state is State.POLICY, "after a hand back the policy has time to look"
    robot.wait(2.5)
    assert robot.state is State.HOLD


def test_a_policy_that_says_nan_is_a_fault(robot):
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([(float("nan"),) * 7]))
    robot.wait(0.1)
    assert robot.state is State.FAULT
    assert "not finite" in robot.status().reason
    assert np.isfinite(robot.positions()).all()
    robot.must(m.Acknowledge, reason="bad checkpoint")
    assert robot.state is State.DISARMED


def test_a_policy_in_wrong_units_is_a_fault(robot):
    robot.arm().must(m.HandBack)
    while robot.state is State.POLICY:
        robot.must(m.ProposeChunk, **robot.chunk([(20.0, 0, 0, 0, 0, 0, 1)]))
        robot.wait(0.2)
    assert robot.state is State.FAULT
    assert "units and frames" in robot.status().reason


@pytest.mark.parametrize(
    ("fault", "state", "words"),
    [
        (lambda arm: arm.freeze(), State.FAULT, "nothing heard"),
        (lambda arm: arm.drop_link(), State.FAULT, "not connected"),
        (lambda arm: arm.send_junk(), State.FAULT, "is not a state"),
        (lambda arm: arm.collide(), State.FAULT, "collision"),
        (lambda arm: arm.deafen(), State.FAULT, "does not follow"),
        (lambda arm: arm.press_estop(), State.ESTOP, "emergency stop pressed"),
    ],
    ids=["freeze", "drop_link", "junk", "collision", "deaf", "estop"],
)
@pytest.mark.parametrize("num_arms", [1, 2])
def test_a_broken_arm_stops_all_of_them_and_nothing_resumes_when_it_is_well_again(fault, state, words, num_arms):
    robot = SupervisedRobot(num_arms=num_arms)
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD * num_arms] * 20))
    robot.wait(0.3)
    fault(robot.arms[-1])
    robot.wait(1.2)
    assert robot.state is state
    assert words in robot.events("state")[-1].text
    assert_stands(robot)
    arm = robot.arms[-1]
    arm.thaw()
    arm.restore_link()
    arm.deafen(False)
    arm.read().mode is ArmMode.ESTOP and arm.release_estop() if state is State.ESTOP else None
    robot.wait(0.5)
    assert robot.state is state
    assert_stands(robot)
    if state is State.ESTOP:
        robot.must(m.Reset, **RESET)
        robot.wait(0.1)
    robot.must(m.Acknowledge, reason="looked")
    robot.wait(0.2)
    assert robot.state is State.DISARMED
    assert_stands(robot)
    robot.arm().must(m.HandBack)
    robot.must(m.ProposeChunk, **robot.chunk([FORWARD * num_arms]))
    before = robot.positions()
    robot.wait(0.3)
    assert (np.array(robot.positions())[:, 0] > np.array(before)[:, 0] + 0.01).all()


def test_a_fault_that_persists_comes_back(robot):
    drive(robot)
    robot.arms[0].collide()
    robot.wait(0.1)
    robot.arms[0].clear_fault = lambda **_: None
    robot.must(m.Acknowledge, reason="hoping")
    robot.wait(0.2)
    assert robot.state is State.FAULT


def test_late_ticks_end_in_hold(robot):
    robot.arm()
    fence, sequence = robot.press(), 0
    while robot.state is State.HUMAN and sequence < 200:
        sequence += 1
        robot.push(fence, sequence)
        robot.tick(late_s=0.03 if sequence % 5 == 0 else 0.0)
    assert robot.state is State.HOLD
    assert "too busy" in robot.status().reason or "too busy" in robot.events("state")[-1].text


def test_homing_that_does_not_arrive_is_given_up():
    robot = SupervisedRobot()
    limits = dataclasses.replace(robot.config.arms[0].limits, max_linear_speed_m_s=0.001, max_linear_acceleration_m_s2=0.001)
    slow = dataclasses.replace(robot.config.arms[0], limits=limits)
    robot = SupervisedRobot()
    fence = robot.arm().press()
    robot.hold_key(fence, 0.5)
    robot.must(m.Release, fence=fence)
    away = robot.positions()[0]
    robot.supervision._arms.filters[:] = [SafetyFilter(slow.limits, 0.01)]
    robot.must(m.Home)
    robot.wait(20.5)
    assert robot.state is State.HOLD
    assert np.linalg.norm(robot.positions()[0] - away) < 0.03


def test_motion_is_refused_where_an_arm_stands_outside_its_box(robot):
    robot.arms[0]._pose = dataclasses.replace(robot.arms[0]._pose, position_m=np.array([0.6, 0.0, 0.3]))
    robot.wait(0.1)
    assert "outside its box" in robot.refused(m.Arm)
    assert robot.state is State.DISARMED


def test_disarming_stops_and_a_policy_token_is_no_person(robot):
    drive(robot)
    robot.must(m.Disarm)
    robot.serve()
    assert_stands(robot)
    assert "needs operate" in robot.refused(m.Arm, token_role=Role.POLICY)


def test_shutting_down_stops(robot):
    drive(robot)
    robot.supervision.shut_down("test")
    robot.serve()
    assert_stands(robot)
    assert robot.state is State.ESTOP


class Operated(RuleBasedStateMachine):
    """Any requests, any faults, in any order: what does not move stands still, and latches hold."""

    def __init__(self):
        super().__init__()
        self.robot = SupervisedRobot()
        self.fence, self.sequence, self.latched = 0, 0, None

    @rule(kind=st.sampled_from([m.Arm, m.Disarm, m.HandBack, m.Home]))
    def ask(self, kind):
        self.robot.ask(kind)

    @rule(operator=st.sampled_from(["ada", "bob"]), forced=st.booleans())
    def press(self, operator, forced):
        self.fence = self.robot.ask(m.Acquire, operator=operator, forced=forced).fence or self.fence

    @rule(back=st.integers(0, 1), twist=st.lists(st.floats(-1, 1), min_size=6, max_size=6))
    def push(self, back, twist):
        self.sequence += 1
        self.robot.push(max(0, self.fence - back), self.sequence, tuple(twist), ask=self.robot.ask)

    @rule(actions=st.lists(st.lists(st.floats(-0.1, 0.1), min_size=7, max_size=7), min_size=1, max_size=3))
    def propose(self, actions):
        self.robot.ask(m.ProposeChunk, **self.robot.chunk(actions))

    @rule(fault=st.sampled_from(["freeze", "thaw", "drop_link", "restore_link", "collide", "send_junk"]))
    def breaks(self, fault):
        getattr(self.robot.arms[0], fault)()

    @rule()
    def stop(self):
        self.robot.must(m.Stop, operator="ada", token_role=Role.VIEW)

    @rule()
    def acknowledge(self):
        self.robot.ask(m.Acknowledge, reason="x")

    @precondition(lambda self: self.robot.state is State.ESTOP)
    @rule()
    def reset(self):
        self.robot.wait(0.6)
        self.robot.ask(m.Reset, **RESET)

    @rule(ticks=st.integers(1, 30))
    def wait(self, ticks):
        self.robot.wait(ticks / 100)

    @invariant()
    def what_does_not_move_stands(self):
        if self.robot.state.moves or self.robot.arms[0]._is_frozen:
            return
        self.robot.serve()
        before = self.robot.positions()[0]
        self.robot.tick()
        if not self.robot.state.moves and self.robot.links[0].error is None:
            assert np.array_equal(self.robot.positions()[0], before)

    @invariant()
    def the_tool_is_in_its_box(self):
        box, position = self.robot.config.arms[0].limits.box, self.robot.positions()[0]
        assert (position >= np.array(box.low_m) - 1e-9).all()
        assert (position <= np.array(box.high_m) + 1e-9).all()


Operated.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestOperated = Operated.TestCase
