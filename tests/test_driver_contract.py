"""The contract of every robot driver. A new driver gets a rig in driver_rigs.py, and nothing here is changed for it."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from driver_rigs import RIGS

from robot_drivers import poses
from robot_drivers.driver import ArmMode, DriverError, GripperKind, StopKind, Target

FAR_M = np.array([0.0, 0.15, 0.0])
STILL = np.zeros(3)


def every_rig(*, slow=()):
    return [
        pytest.param(name, marks=(*marks, pytest.mark.slow) if name in slow else marks)
        for name, (_, marks) in sorted(RIGS.items())
    ]


@pytest.fixture(params=every_rig())
def rig(request):
    rig = RIGS[request.param][0]()
    yield rig
    rig.close()


class Sender:
    """Numbers targets as the supervisor does."""

    def __init__(self, rig, generation=1):
        self.rig, self.generation, self.sequence = rig, generation, 0

    def target(self, pose, gripper_opening=None, lifetime_s=0.5):
        self.sequence += 1
        return Target(
            tool_pose=pose,
            gripper_opening=gripper_opening,
            sequence=self.sequence,
            generation=self.generation,
            expires_monotonic_s=self.rig.clock.monotonic_s() + lifetime_s,
        )

    def submit(self, pose, **options):
        return self.rig.driver.submit(self.target(pose, **options))


@pytest.fixture
def connected(rig):
    rig.driver.connect()
    rig.wait_s(0.1)
    return rig


def assert_at(rig, pose):
    translation_m, rotation_rad = poses.delta(rig.true_pose(), pose)
    assert np.linalg.norm(translation_m) <= rig.position_tolerance_m
    assert np.linalg.norm(rotation_rad) <= rig.rotation_tolerance_rad


def assert_stands(rig, duration_s=0.3):
    before = rig.true_pose()
    rig.wait_s(duration_s)
    assert_at(rig, before)


def wait_until(rig, condition, timeout_s=3.0):
    deadline_s = rig.clock.monotonic_s() + timeout_s
    while not condition():
        assert rig.clock.monotonic_s() < deadline_s, "waited in vain"
        rig.wait_s(0.02)


def offset(pose, translation_m=STILL, rotation_rad=STILL):
    return poses.moved(pose, translation_m=np.asarray(translation_m, float), rotation_rad=np.asarray(rotation_rad, float))


def test_connecting_says_what_the_arm_is_and_moves_nothing(rig):
    before = rig.true_pose()
    capabilities = rig.driver.connect()
    assert capabilities.model
    assert capabilities.num_joints >= 5
    assert capabilities.max_rate_hz > 0
    assert capabilities.gripper is rig.gripper
    rig.wait_s(0.3)
    assert_at(rig, before)


def test_what_is_read_is_in_si_units_the_base_frame_and_this_hosts_time(connected):
    state = connected.driver.read()
    age_s = connected.clock.monotonic_s() - state.time_monotonic_s
    assert state.joint_position_rad.shape == (connected.driver.connect().num_joints,)
    assert np.isfinite(state.joint_position_rad).all()
    assert_at(connected, state.tool_pose)
    assert 0 <= age_s < 0.2
    assert state.mode is ArmMode.READY
    assert state.faults == ()


@pytest.mark.parametrize("axis", range(3))
def test_a_translation_goes_along_the_base_axis_that_was_meant(connected, axis):
    goal = offset(connected.true_pose(), 0.02 * np.eye(3)[axis])
    assert Sender(connected).submit(goal)
    connected.wait_s(0.5)
    assert_at(connected, goal)
    assert_at(connected, connected.driver.read().tool_pose)


@pytest.mark.parametrize("axis", range(3))
def test_a_rotation_turns_about_the_base_axis_that_was_meant(connected, axis):
    goal = offset(connected.true_pose(), rotation_rad=0.1 * np.eye(3)[axis])
    assert Sender(connected).submit(goal)
    connected.wait_s(0.5)
    assert_at(connected, goal)
    assert_at(connected, connected.driver.read().tool_pose)


def test_small_deltas_on_commanded_poses_end_where_their_sum_is(connected):
    sender = Sender(connected)
    start = commanded = connected.true_pose()
    for _ in range(10):
        commanded = offset(commanded, [0.002, -0.001, 0.003], [0.0, 0.0, 0.02])
        assert sender.submit(commanded)
        connected.wait_s(0.05)
    connected.wait_s(0.5)
    assert_at(connected, offset(start, [0.02, -0.01, 0.03], [0.0, 0.0, 0.2]))


def test_one_opens_the_gripper_and_zero_closes_it(connected):
    if connected.gripper is GripperKind.NONE:
        assert math.isnan(connected.driver.read().gripper_opening)
        return
    sender, here = Sender(connected), connected.true_pose()
    for opening in (0.0, 1.0, 0.0):
        assert sender.submit(here, gripper_opening=opening)
        wait_until(connected, lambda opening=opening: abs(connected.true_gripper_opening() - opening) < 0.02)
        connected.wait_s(0.2)
        assert connected.driver.read().gripper_opening == pytest.approx(opening, abs=0.02)
        assert sender.submit(here, gripper_opening=None)
        connected.wait_s(0.2)
        assert connected.true_gripper_opening() == pytest.approx(opening, abs=0.02)


def test_expired_repeated_and_older_targets_are_dropped(connected):
    sender, here = Sender(connected), connected.true_pose()
    far = offset(here, FAR_M)
    assert not sender.submit(far, lifetime_s=-0.01)
    first, second = sender.target(far), sender.target(here)
    assert connected.driver.submit(second)
    assert not connected.driver.submit(second)
    assert not connected.driver.submit(first)
    assert_stands(connected)


@pytest.mark.parametrize("kind", StopKind)
def test_stop_ends_the_generation_and_a_newer_one_moves_again(connected, kind):
    sender, start = Sender(connected), connected.true_pose()
    far = offset(start, FAR_M)
    assert sender.submit(far)
    connected.wait_s(0.05)
    connected.driver.stop(kind)
    connected.wait_s(0.3)
    assert_stands(connected)
    assert np.linalg.norm(poses.delta(connected.true_pose(), far)[0]) > 0.01
    assert not sender.submit(far)
    assert_stands(connected)
    sender.generation += 1
    assert sender.submit(far)
    wait_until(connected, lambda: np.linalg.norm(poses.delta(connected.true_pose(), far)[0]) < 0.001)


@pytest.mark.parametrize("rig", every_rig(slow=("franka", "simulated", "simpler")), indirect=True)
def test_stop_racing_submit_two_hundred_times_leaves_no_motion(connected):
    """The race that robots in the field lose: stop is sent, then a target that was already on its way is submitted after it."""
    start = connected.true_pose()
    for generation in range(1, 201):
        sender = Sender(connected, generation)
        sender.sequence = generation * 1000
        goals = [offset(start, FAR_M * (-1) ** generation * fraction) for fraction in (0.9, 0.95, 1.0)]
        assert sender.submit(goals[0])
        racing = threading.Event()

        def stream(sender=sender, goals=goals, racing=racing):
            for goal in goals * 3:
                racing.set()
                sender.submit(goal)

        thread = threading.Thread(target=stream)
        thread.start()
        racing.wait()
        connected.driver.stop(StopKind.HARD)
        thread.join()
        connected.wait_s(0.03)
        assert_stands(connected, 0.03)
        assert not sender.submit(start)


def test_a_frozen_peer_shows_as_an_old_state(connected):
    connected.freeze()
    frozen_s = connected.clock.monotonic_s()
    sender, here = Sender(connected), connected.true_pose()
    for _ in range(20):
        connected.wait_s(0.05)
        try:
            sender.submit(here)
            state = connected.driver.read()
        except DriverError:
            break
        assert state.time_monotonic_s <= frozen_s + 0.1
    else:
        assert connected.clock.monotonic_s() - connected.driver.read().time_monotonic_s > 0.8
    connected.thaw()


def test_a_killed_peer_is_an_error_or_an_old_state_and_reconnecting_resumes_nothing(connected):
    sender, start = Sender(connected), connected.true_pose()
    far = offset(start, FAR_M)
    assert sender.submit(far)
    connected.wait_s(0.05)
    killed_s = connected.clock.monotonic_s()
    connected.kill()
    connected.wait_s(0.5)
    try:
        assert connected.driver.read().time_monotonic_s <= killed_s + 0.1
    except DriverError:
        with pytest.raises(DriverError):
            sender.submit(far)
    with pytest.raises(DriverError):
        connected.driver.connect()
    connected.restart()
    connected.driver.connect()
    connected.wait_s(0.1)
    assert_stands(connected)
    assert not sender.submit(far), "the generation from before the loss is over"
    assert_stands(connected)
    sender.generation += 1
    assert sender.submit(offset(connected.true_pose(), [0.01, 0.0, 0.0]))


def test_junk_is_refused_and_never_becomes_a_state(connected):
    before = connected.driver.read()
    connected.junk()
    for _ in range(10):
        connected.wait_s(0.02)
        try:
            state = connected.driver.read()
        except DriverError:
            connected.driver.connect()
            connected.wait_s(0.1)
            state = connected.driver.read()
        np.testing.assert_allclose(state.joint_position_rad, before.joint_position_rad, atol=1e-3)
        assert_at(connected, state.tool_pose)
    assert_stands(connected)


def test_a_fault_stays_latched_until_it_is_cleared_and_clearing_resumes_nothing(connected):
    sender, start = Sender(connected), connected.true_pose()
    far = offset(start, FAR_M)
    assert sender.submit(far)
    connected.wait_s(0.05)
    connected.collide()
    wait_until(connected, lambda: connected.driver.read().mode is ArmMode.FAULT)
    assert connected.driver.read().faults
    connected.wait_s(0.2)
    stopped = connected.true_pose()
    for generation in (1, 2):
        sender.generation = generation
        with pytest.raises(DriverError, match="clear"):
            sender.submit(far)
        connected.wait_s(0.1)
        assert connected.driver.read().mode is ArmMode.FAULT
    assert_at(connected, stopped)
    connected.driver.clear_fault(operator="test", reason="the collision was meant")
    wait_until(connected, lambda: connected.driver.read().mode is ArmMode.READY)
    assert_stands(connected)
    sender.generation = 3
    assert sender.submit(far)
    wait_until(connected, lambda: np.linalg.norm(poses.delta(connected.true_pose(), far)[0]) < 0.001)


def test_closing_holds_and_may_be_done_twice(connected):
    sender, start = Sender(connected), connected.true_pose()
    assert sender.submit(offset(start, FAR_M))
    connected.wait_s(0.05)
    connected.driver.close()
    connected.driver.close()
    connected.wait_s(0.3)
    assert_stands(connected)
    with pytest.raises(DriverError):
        sender.submit(start)
