"""Driving with a leader arm, against a stand-in of LeRobot's interface: how it is read, what its motion asks of the robot."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from console_server_rig import client_of, commands, connected, console_before, press, sign_in, wait_until
from leader_stand_in import Leader, leader_config
from scipy.spatial.transform import Rotation
from supervised_robot import SupervisedRobot

from console.leader_arm import LeaderArm, LeaderArmConfig, LeaderGoneError, LeaderReading
from console.leader_hold import LeaderHold
from console.page_messages import Lead
from core.clock import ManualClock
from core.errors import ConfigError
from robot_drivers import messages as m
from robot_drivers.driver import Pose
from robot_drivers.states import Role, State

pytest_plugins = ["console_server_fixtures"]


@pytest.fixture
def leader(monkeypatch):
    leader = Leader()
    for name, module in leader.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return leader


@pytest.fixture
def arm(leader, tmp_path):
    arm = LeaderArm(leader_config(tmp_path))
    arm.open()
    yield arm
    leader.is_awake.set()
    arm.close()


# --- the device --------------------------------------------------------------------------------------------------------------


def test_its_joints_become_a_pose_of_its_tool_and_an_opening(leader, arm, tmp_path):
    assert leader.log == [("/dev/ttyACM0", "left", tmp_path), "connect"]
    leader.joints |= {"shoulder_pan": 30.0, "wrist_roll": 90.0, "gripper": 107.0}
    wait_until(lambda: arm.latest(60.0).pose.position_m[0] == 0.03)
    reading = arm.latest(60.0)
    np.testing.assert_allclose(reading.pose.position_m, [0.03, 0.01, 0.01])
    np.testing.assert_allclose(reading.pose.quaternion_wxyz, [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    assert reading.gripper_opening == 1.0


def test_an_older_lerobot_has_it_under_another_name(monkeypatch, tmp_path):
    for name, module in Leader().modules("so101_leader").items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "lerobot.teleoperators.so_leader", None)
    arm = LeaderArm(leader_config(tmp_path))
    arm.open()
    assert arm.latest(60.0).gripper_opening == 0.5
    arm.close()


def test_without_lerobot_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(ConfigError, match=r"viva-recap\[so101\]"):
        LeaderArm(leader_config(tmp_path)).open()


def test_an_arm_that_is_not_there_or_calibrated_otherwise_is_refused(leader, tmp_path):
    leader.error = ConnectionError("no such device")
    with pytest.raises(ConfigError, match="no leader arm at /dev/ttyACM0: no such device; check"):
        LeaderArm(leader_config(tmp_path)).open()
    leader.error, leader.is_calibrated = None, False
    with pytest.raises(ConfigError, match=r"calibrated otherwise than .*left\.json"):
        LeaderArm(leader_config(tmp_path)).open()
    assert leader.log[-1] == "disconnect"
    leader.is_calibrated, leader.joints["elbow_flex"] = True, float("nan")
    with pytest.raises(ConfigError, match="expected finite numbers"):
        LeaderArm(leader_config(tmp_path)).open()


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "arm.urdf").touch()
    with pytest.raises(ConfigError, match=r"calibration .*none\.json is not there"):
        LeaderArmConfig(port="x", calibration=tmp_path / "none.json", urdf=tmp_path / "arm.urdf")
    with pytest.raises(ConfigError, match=r"expected NAME\.json"):
        LeaderArmConfig(port="x", calibration=tmp_path / "arm.urdf", urdf=tmp_path / "arm.urdf")


def test_one_that_was_lost_says_so_until_it_is_back(leader, arm):
    leader.error = ConnectionError("the cable was pulled")

    def is_lost():
        try:
            arm.latest(60.0)
        except LeaderGoneError as error:
            return "lost: the cable was pulled" in str(error)
        return False

    wait_until(is_lost)
    leader.error = None
    wait_until(lambda: not is_lost())
    assert arm.latest(60.0).gripper_opening == 0.5


def test_one_that_is_silent_gives_no_old_reading(leader, tmp_path):
    clock = ManualClock(50.0)
    arm = LeaderArm(leader_config(tmp_path), clock)
    with pytest.raises(LeaderGoneError, match="never opened"):
        arm.latest(0.25)
    arm.open()
    leader.is_awake.clear()
    assert arm.latest(0.25).time_s == 50.0
    wait_until(lambda: leader.is_waited_for)  # a reading may still have been under way
    clock.advance_s(0.3)
    with pytest.raises(LeaderGoneError, match=r"said nothing for 0\.30 s; expected less than 0\.25 s"):
        arm.latest(0.25)
    leader.is_awake.set()
    arm.close()
    with pytest.raises(LeaderGoneError, match="it was closed"):
        arm.latest(0.25)


def test_one_page_at_a_time_drives_with_it(tmp_path):
    clock = ManualClock(50.0)
    arm, ada, bo = LeaderArm(leader_config(tmp_path), clock), object(), object()
    arm.use(ada, 0.25)
    arm.use(ada, 0.25)
    with pytest.raises(LeaderGoneError, match="another page"):
        arm.use(bo, 0.25)
    clock.advance_s(0.25)
    arm.use(bo, 0.25)


# --- what its motion means ---------------------------------------------------------------------------------------------------


class LeaderInHand:
    """A leader whose tool the test puts where it wants, read at once."""

    def __init__(self, clock):
        self.clock, self.position_m, self.turn_rad, self.opening = clock, np.array([0.2, 0.1, 0.1]), 0.0, 0.5

    def use(self, user, for_s):
        pass

    def age_s(self, reading):
        return self.clock.monotonic_s() - reading.time_s

    def latest(self, max_age_s):
        quaternion = Rotation.from_rotvec([0, 0, self.turn_rad]).as_quat(scalar_first=True)
        pose = Pose(position_m=self.position_m.copy(), quaternion_wxyz=quaternion)
        return LeaderReading(time_s=self.clock.monotonic_s() - 0.01, pose=pose, gripper_opening=self.opening)


class Drive:
    """A hold from its press on, 30 frames a second."""

    def __init__(self, num_arms=1, arm=0):
        self.robot, self.arm, self.scale = SupervisedRobot(num_arms=num_arms), arm, 1.0
        self.robot.arm()
        self.leader = LeaderInHand(self.robot.clock)
        self.hold = LeaderHold(self.leader)
        self.sequence = 0
        self.press()

    def press(self):
        self.fence = self.robot.press()

    def ask(self, arm=None):
        lead = Lead(
            robot="arm", fence=self.fence, sequence=0, t=0, arm=self.arm if arm is None else arm, scale=self.scale,
            phase=m.Phase.CORRECTION,
        )  # fmt: skip
        welcome = self.robot.supervision.welcome(Role.VIEW)
        return self.hold.motion(lead, welcome, self.robot.status())

    def go(self, duration_s):
        motions = []
        for _ in range(round(duration_s * 33)):
            motions.append(self.ask())
            self.sequence += 1
            self.robot.must(
                m.HumanInput, fence=self.fence, sequence=self.sequence, age_s=motions[-1].age_s, twist=motions[-1].twist,
                gripper_opening=motions[-1].gripper_opening,
            )  # fmt: skip
            self.robot.wait(0.03)
        return motions

    def pose(self):
        return self.robot.arms[self.arm].true_pose()


def test_the_tool_moves_as_the_leaders_has_since_the_press_and_stays():
    drive = Drive()
    drive.leader.position_m += 1.0  # before the first frame: where the leader is at the press does not count
    start = drive.pose()
    drive.go(0.3)
    np.testing.assert_allclose(drive.pose().position_m, start.position_m, atol=1e-6)
    drive.leader.position_m += [0.05, -0.03, 0.02]
    drive.leader.turn_rad, drive.leader.opening = 0.4, 0.8
    motions = drive.go(2.5)
    np.testing.assert_allclose(drive.pose().position_m - start.position_m, [0.05, -0.03, 0.02], atol=1e-3)
    turned = Rotation.from_quat(drive.pose().quaternion_wxyz, scalar_first=True)
    turned *= Rotation.from_quat(start.quaternion_wxyz, scalar_first=True).inv()
    np.testing.assert_allclose(turned.as_rotvec(), [0, 0, 0.4], atol=0.01)
    assert drive.robot.arms[0].read().gripper_opening == pytest.approx(0.8, abs=0.01)
    assert all(motion.age_s == pytest.approx(0.01) for motion in motions)
    assert max(step.executed_action[0] for step in drive.robot.steps("human")) > 0.005
    positions = [step.executed_action[0] for step in drive.robot.steps("human")]
    assert min(positions) > -1e-3  # no swinging back


def test_a_leader_that_runs_ahead_asks_for_no_more_than_the_robot_may():
    drive = Drive()
    drive.go(0.3)
    drive.leader.position_m += [0.4, 0.2, 0.0]
    twist = np.array(drive.ask().twist[0])
    welcome = drive.robot.supervision.welcome(Role.VIEW)
    fastest = np.array(welcome.action_high[:6]) * welcome.control_hz
    assert np.abs(twist / fastest).max() == pytest.approx(1.0)
    assert twist[0] == pytest.approx(2 * twist[1])  # slower, not elsewhere


def test_a_smaller_scale_counts_from_when_it_was_chosen():
    drive = Drive()
    start = drive.pose().position_m
    drive.go(0.2)
    drive.leader.position_m[0] += 0.04
    drive.go(1.5)
    drive.scale = 0.25
    drive.go(0.5)
    np.testing.assert_allclose(drive.pose().position_m - start, [0.04, 0, 0], atol=1e-3)
    drive.leader.position_m[0] -= 0.04
    drive.go(1.5)
    np.testing.assert_allclose(drive.pose().position_m - start, [0.03, 0, 0], atol=1e-3)


def test_a_new_press_begins_where_robot_and_leader_are_then():
    drive = Drive()
    drive.go(0.2)
    drive.leader.position_m[0] += 0.03
    drive.go(1.5)
    drive.robot.must(m.Release, fence=drive.fence, token_role=Role.OPERATE)
    drive.robot.wait(0.2)
    start = drive.pose().position_m
    drive.leader.position_m[0] += 0.1
    drive.press()
    assert drive.ask().twist == ((0.0,) * 6,)  # the supervisor has not yet said that this press counts
    assert drive.ask().gripper_opening == (None,)
    drive.go(0.6)
    np.testing.assert_allclose(drive.pose().position_m, start, atol=1e-4)


def test_one_of_two_arms_follows_and_a_third_is_refused():
    drive = Drive(num_arms=2, arm=1)
    before = drive.robot.positions()[0].copy()
    start = drive.pose().position_m
    drive.go(0.2)
    drive.leader.position_m[1] += 0.03
    drive.go(1.5)
    np.testing.assert_allclose(drive.pose().position_m - start, [0, 0.03, 0], atol=1e-3)
    np.testing.assert_allclose(drive.robot.positions()[0], before, atol=1e-6)
    with pytest.raises(LeaderGoneError, match="no arm 2 to lead; this robot has 2"):
        drive.ask(arm=2)


# --- through the console's server --------------------------------------------------------------------------------------------


def lead(fence, sequence, **fields):
    whole = {"type": "lead", "robot": "arm", "fence": fence, "sequence": sequence, "t": 1.0, "arm": 0, "scale": 1.0}
    return whole | {"phase": "recovery"} | fields


@pytest.fixture
def clock():
    return ManualClock(50.0)


@pytest.fixture
def page(leader, clock, robot, tmp_path):
    """Signed in, its commands open, the robot armed; the leader is as silent as ``clock`` says."""
    arm = LeaderArm(leader_config(tmp_path), clock)
    arm.open()
    with client_of(console_before(tmp_path, leader=arm)) as client:
        sign_in(client)
        assert client.get("/session").json()["has_leader"] is True
        connected(client, robot)
        with commands(client) as socket:
            socket.send_json({"type": "ping", "t": 1.0})
            socket.receive_json()
            yield socket
    leader.is_awake.set()
    arm.close()


def drive_until(page, robot, fence, condition):
    """Frames of a held key, the robot ticking, until the condition."""
    numbers = iter(range(1, 100_000))

    def frame():
        number = next(numbers)
        page.send_json({"type": "ping", "t": 1.0 + number})
        page.send_json(lead(fence, number, t=1.0 + number))
        answer = page.receive_json()
        robot.wait(0.02)
        time.sleep(0.01)  # the server disconnects who sends more than 200 a second
        return condition(answer)

    wait_until(frame)


def asked(robot):
    given = robot.supervision._input
    return (0.0,) * 6 if given is None else given.twist[0]


def test_what_the_leader_does_reaches_the_supervisor_under_the_persons_name(page, robot, leader):
    fence = press(page)["fence"]
    drive_until(page, robot, fence, lambda _: robot.supervision._input and robot.supervision._input.gripper_opening == (0.5,))
    assert robot.supervision._lease.holder == "ada"
    assert asked(robot)[0] == pytest.approx(0, abs=1e-6)
    leader.joints["shoulder_pan"] += 20.0
    drive_until(page, robot, fence, lambda _: asked(robot)[0] > 0.01)
    assert robot.supervision._undertaking.phase is m.Phase.RECOVERY
    page.send_json({"type": "release", "robot": "arm", "fence": fence})
    wait_until(lambda: robot.state is State.HOLD)


def test_a_leader_that_is_lost_ends_the_hold_and_the_page_is_told(page, robot, leader):
    fence = press(page)["fence"]
    drive_until(page, robot, fence, lambda _: robot.supervision._input is not None)
    leader.error = ConnectionError("the cable was pulled")
    answers = []
    drive_until(page, robot, fence, lambda answer: answers.append(answer) or answer["type"] == "let_go")
    assert (answers[-1]["robot"], answers[-1]["fence"]) == ("arm", fence)
    assert "the cable was pulled" in answers[-1]["reason"]
    wait_until(lambda: robot.state is State.HOLD)
    leader.error = None  # nothing goes on by itself when it is back
    page.send_json(lead(fence, 200_000))
    robot.wait(0.5)
    assert robot.state is State.HOLD


def test_a_leader_that_is_silent_ends_the_hold(page, robot, leader, clock):
    fence = press(page)["fence"]
    drive_until(page, robot, fence, lambda _: robot.supervision._input is not None)
    leader.is_awake.clear()
    answers = []

    def has_let_go(answer):
        clock.advance_s(0.1)
        answers.append(answer)
        return answer["type"] == "let_go"

    drive_until(page, robot, fence, has_let_go)
    assert "said nothing for" in answers[-1]["reason"]
    wait_until(lambda: robot.state is State.HOLD)


def test_a_page_of_a_console_without_a_leader_lets_go(client, robot):
    sign_in(client)
    assert client.get("/session").json()["has_leader"] is False
    connected(client, robot)
    with commands(client) as socket:
        fence = press(socket)["fence"]
        socket.send_json({"type": "ping", "t": 1.0})
        socket.receive_json()
        socket.send_json(lead(fence, 1))
        assert "start it with --leader" in socket.receive_json()["reason"]
        wait_until(lambda: robot.state is State.HOLD)


@pytest.mark.parametrize("fields", [{"arm": -1}, {"arm": 8}, {"scale": 0.0}, {"scale": 2.0}, {"twist": []}])
def test_a_frame_that_no_page_of_ours_sends_ends_the_connection(page, fields):
    page.send_json(lead(1, 1, **fields))
    assert page.receive()["code"] == 1008
