"""The simulated arm: its driver and camera against mechanics without a scene, and SIMPLER's robots stepping in real time."""

from __future__ import annotations

import itertools
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from emulated_arms import Targets, simpler_env, simulated_driver, simulated_emulator, wait_until
from scipy.spatial.transform import Rotation

from core.clock import ManualClock
from core.errors import ConfigError, RecapError
from core.specs import CameraSpec
from robot_drivers import poses
from robot_drivers.cameras.camera import Camera, CameraError
from robot_drivers.cameras.network import NetworkCameraConfig, NetworkSource
from robot_drivers.cameras.simulated import frame_number_of
from robot_drivers.driver import ArmMode, DriverError, Pose, StopKind
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.serial_chain import SerialChain
from robot_drivers.emulators.simulated import PatternScene, SimulatedController
from robot_drivers.emulators.simulated_arm import ArmFault
from robot_drivers.json_lines import JsonLines
from robot_drivers.limits import read_robot_config
from robot_drivers.make import make_driver
from robot_drivers.simulated import SimulatedConfig, SimulatedDriver

PATTERN = PatternScene.camera
ROBOTS = Path(__file__).parent.parent / "configs/robots"


def test_the_shipped_configuration_makes_its_driver() -> None:
    config = read_robot_config(ROBOTS / "simulated.yaml")
    driver = make_driver(config.arms[0].driver, config.arms[0].options, ManualClock())
    assert isinstance(driver, SimulatedDriver)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="timeout_s is 0"):
        SimulatedConfig(host="127.0.0.1", port=1, model="a", timeout_s=0.0)
    with pytest.raises(ConfigError, match="timeout_s is -1"):
        NetworkCameraConfig(spec=PATTERN, host="127.0.0.1", port=1, timeout_s=-1.0)


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DriverError, match="no arm answers"):
        SimulatedDriver(SimulatedConfig(host="127.0.0.1", port=port, model="kinematic")).connect()
    with pytest.raises(CameraError, match="nobody answers"):
        NetworkSource(NetworkCameraConfig(spec=PATTERN, host="127.0.0.1", port=port)).open()


@pytest.mark.realtime
def test_another_robot_than_expected_is_refused_and_can_be_asked_for_again() -> None:
    with simulated_emulator() as emulator:
        driver = simulated_driver(emulator, "google_robot_static")
        with pytest.raises(DriverError, match=r"'kinematic'.*expected 'google_robot_static'"):
            driver.connect()
        with pytest.raises(DriverError, match="not connected"):
            driver.read()
        right = simulated_driver(emulator, "kinematic")
        assert right.connect().num_joints == 7
        right.close()


@pytest.mark.realtime
def test_a_pressed_emergency_stop_is_read_back_and_stays_a_fault_once_released() -> None:
    with simulated_emulator() as emulator:
        driver = simulated_driver(emulator, "kinematic")
        driver.connect()
        emulator.inject("estop")
        wait_until(lambda: driver.read().mode is ArmMode.ESTOP)
        with pytest.raises(DriverError, match="persists"):
            driver.clear_fault(operator="ada", reason="too early")
        emulator.clear()
        wait_until(lambda: driver.read().mode is ArmMode.FAULT)
        driver.clear_fault(operator="ada", reason="released")
        assert driver.read().mode is ArmMode.READY
        driver.close()


@pytest.mark.realtime
@pytest.mark.parametrize("fault", ["delay:0.05", "partial", "split"])
def test_slow_and_torn_lines_are_put_together(fault: str) -> None:
    with simulated_emulator() as emulator:
        driver = simulated_driver(emulator, "kinematic")
        driver.connect()
        emulator.inject(fault)
        targets = Targets(driver)
        assert driver.submit(targets.at((0.0, 0.02, 0.0)))
        wait_until(lambda: abs(targets.offset_m()[1] - 0.02) < 1e-3)
        driver.stop(StopKind.HARD)
        driver.close()


def camera_at(port: int, spec: CameraSpec = PATTERN) -> NetworkSource:
    return NetworkSource(NetworkCameraConfig(spec=spec, host="127.0.0.1", port=port))


@pytest.mark.realtime
def test_the_camera_port_sends_frames_in_order_with_their_time_and_survives_a_drop() -> None:
    emulator = simulated_emulator()
    with emulator:
        controller = emulator._controller
        assert isinstance(controller, SimulatedController)
        source = camera_at(controller.camera_port)
        source.open()
        frames = [source.grab() for _ in range(3)]
        numbers = [frame.device_frame_number for frame in frames]
        assert numbers == sorted(set(numbers))
        assert [frame_number_of(frame.image) for frame in frames] == numbers
        assert all(0 <= time.monotonic() - (frame.capture_monotonic_s or 0.0) < 5 for frame in frames)
        emulator.inject("drop")
        with pytest.raises(CameraError):
            [source.grab() for _ in range(100)]
        emulator.clear()
        source.open()
        assert source.grab().image.shape == (128, 160, 3)
        source.close()
        with pytest.raises(CameraError, match="not open"):
            source.grab()


@pytest.mark.realtime
def test_a_camera_of_another_size_is_said() -> None:
    with simulated_emulator() as emulator:
        controller = emulator._controller
        assert isinstance(controller, SimulatedController)
        other = camera_at(controller.camera_port, CameraSpec(name="front", height_px=480, width_px=640))
        other.open()
        with pytest.raises(CameraError, match=r"'front' gives \(128, 160\).*expected \(480, 640\)"):
            other.grab()
        other.close()


@pytest.mark.realtime
def test_what_arrives_at_a_camera_and_is_no_frame_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = camera_at(server.getsockname()[1])
        source.open()
        peer, _ = server.accept()
        with peer:
            peer.sendall(b'{"report": {}}\r\n')
            with pytest.raises(CameraError, match="no frame"):
                source.grab()
            peer.sendall(b'{"number": 1, "capture_monotonic_s": 0, "height_px": 128, "width_px": 160}\r\n' + b"half")
        with pytest.raises(CameraError, match="within a frame"):
            source.grab()
        source.close()


class JsonLinesTo:
    def __init__(self, emulator: Emulator) -> None:
        self._lines = JsonLines("127.0.0.1", emulator.port, timeout_s=30.0, on_message=lambda _: None)

    def __enter__(self) -> JsonLines:
        self._lines.start()
        return self._lines

    def __exit__(self, *_: object) -> None:
        self._lines.close()


# --- SIMPLER ------------------------------------------------------------------------------------------------------------------


class Robot:
    """One of SIMPLER's, with time that is moved by hand."""

    def __init__(self, task: str = "") -> None:
        from envs.simpler.task_env import SimplerTaskEnv
        from envs.simulated_arm import SimplerArm, SimplerWorld

        self.env = SimplerTaskEnv(task) if task else simpler_env()
        self.world = SimplerWorld(self.env, seed=0)
        self.arm = SimplerArm(self.world, 0.0)
        self.now_s = 0.0

    def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s * 100)):
            self.now_s += 0.01
            self.arm.advance(self.now_s)

    def go(self, translation_m: tuple[float, float, float], duration_s: float = 1.0) -> None:
        self.arm.move_to(poses.moved(self.arm.pose, translation_m=np.array(translation_m), rotation_rad=np.zeros(3)))
        self.run(duration_s)


@pytest.mark.sim
@pytest.mark.parametrize("task", ["", "widowx_spoon_on_towel"])
def test_pose_and_gripper_are_the_simulators_own_in_the_frame_of_its_actions(task: str) -> None:
    robot = Robot(task)
    before = robot.env.tcp_pose().base
    robot.go((0.02, 0.01, 0.03))
    after = robot.env.tcp_pose().base
    assert after[:3] - before[:3] == pytest.approx([0.02, 0.01, 0.03], abs=2e-3)
    assert robot.arm.pose.position_m == pytest.approx(after[:3], abs=1e-5)
    assert abs(robot.arm.pose.quaternion_wxyz @ after[3:]) == pytest.approx(1.0, abs=1e-5)
    for opening, closedness in ((0.0, 0.8), (1.0, 0.05)):
        robot.arm.move_gripper(opening)
        robot.run(2.0)
        assert robot.arm.gripper_opening == pytest.approx(opening, abs=0.02)
        assert (robot.env.gripper_closedness() >= closedness) == (opening == 0.0)


def _straight_to(chain: SerialChain, joints_rad: np.ndarray, goal: Pose) -> np.ndarray:
    """The joints after a straight line to a pose, in steps of 5 mm and 0.02 rad, as the arm's own controller follows it."""
    start = chain.forward(joints_rad)
    translation, rotation = poses.delta(start, goal)
    count = 1 + max(np.linalg.norm(translation) / 0.005, np.linalg.norm(rotation) / 0.02)
    for part in np.linspace(0.0, 1.0, round(count) + 1)[1:]:
        pose = poses.moved(start, translation_m=part * translation, rotation_rad=part * rotation)
        matrix = Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True).as_matrix()
        found = chain.follow(joints_rad, pose.position_m, matrix)
        assert found is not None, f"out of reach at {pose.position_m.round(3)} m, on the way to {goal.position_m.round(3)} m"
        joints_rad = found
    return joints_rad


@pytest.mark.sim
def test_the_shipped_limits_hold_only_what_the_arm_reaches_from_home() -> None:
    """Corners, middles of edges and faces, centre; from home to each and on from each to the next, which leaves another elbow."""
    arm = Robot().arm
    chain, home_rad = arm.chain, arm.joints_rad
    limits = read_robot_config(ROBOTS / "simulated.yaml").arms[0].limits
    home = Pose(position_m=np.array(limits.home_position_m), quaternion_wxyz=np.array(limits.home_quaternion_wxyz))
    low, high = np.array(limits.box.low_m), np.array(limits.box.high_m)
    assert poses.delta(home, chain.forward(home_rad))[0] == pytest.approx([0, 0, 0], abs=1e-3)
    assert (low < home.position_m - 0.015).all()
    assert (home.position_m + 0.015 < high).all()
    tour_rad = home_rad
    for share in itertools.product((0.0, 0.5, 1.0), repeat=3):
        goal = Pose(position_m=low + np.array(share) * (high - low), quaternion_wxyz=home.quaternion_wxyz)
        _straight_to(chain, home_rad, goal)
        tour_rad = _straight_to(chain, tour_rad, goal)


@pytest.mark.sim
def test_the_tool_may_be_tilted_as_far_as_the_shipped_limits_say() -> None:
    """In eight directions, in the middle of the box and at home; twisted about its own axis by as much as the policy does."""
    arm = Robot().arm
    chain, home_rad = arm.chain, arm.joints_rad
    limits = read_robot_config(ROBOTS / "simulated.yaml").arms[0].limits
    axis, home_axis = np.array(limits.cone_axis), poses.direction(chain.forward(home_rad), limits.tool_axis)
    centre = (np.array(limits.box.low_m) + np.array(limits.box.high_m)) / 2
    sideways = np.cross(axis, [0.0, 0.0, 1.0])
    sideways /= np.linalg.norm(sideways)
    for angle in np.arange(8) * np.pi / 4:
        tilt = Rotation.from_rotvec(axis * angle) * Rotation.from_rotvec(sideways * limits.cone_half_angle_rad)
        edge = tilt.apply(axis)
        turn = np.cross(home_axis, edge) / np.linalg.norm(np.cross(home_axis, edge)) * np.arccos(home_axis @ edge)
        for position_m, twist in itertools.product((chain.forward(home_rad).position_m, centre), (-0.1, 0.1)):
            here = Pose(position_m=position_m, quaternion_wxyz=np.array(limits.home_quaternion_wxyz))
            goal = poses.moved(here, translation_m=np.zeros(3), rotation_rad=turn)
            there = _straight_to(chain, home_rad, poses.moved(goal, translation_m=np.zeros(3), rotation_rad=edge * twist))
            tool_axis = poses.direction(chain.forward(there), limits.tool_axis)
            assert np.arccos(tool_axis @ axis) == pytest.approx(limits.cone_half_angle_rad, abs=0.02)


@pytest.mark.sim
def test_pressing_on_the_table_is_a_collision_that_ends_the_pressing() -> None:
    robot = Robot()
    robot.go((0.1, 0.35, 0.0), 2.0)
    robot.go((0.0, 0.0, -0.25), 3.0)
    assert robot.arm.fault is ArmFault.COLLISION
    assert not robot.arm.is_moving
    stood = robot.arm.pose
    robot.go((0.0, 0.0, 0.1))
    assert np.linalg.norm(poses.delta(stood, robot.arm.pose)[0]) < 2e-3, "a latched fault takes no target"
    robot.arm.clear_fault()
    robot.run(0.3)
    assert np.linalg.norm(poses.delta(stood, robot.arm.pose)[0]) < 2e-3, "clearing moves nothing"
    robot.go((0.0, 0.0, 0.1))
    assert robot.arm.fault is None
    assert poses.delta(stood, robot.arm.pose)[0][2] == pytest.approx(0.1, abs=3e-3)


@pytest.mark.sim
def test_a_machine_that_stalls_makes_the_arm_slow_and_not_collide() -> None:
    robot = Robot()
    goal = poses.moved(robot.arm.pose, translation_m=np.array([0.1, 0.15, 0.0]), rotation_rad=np.zeros(3))
    robot.arm.move_to(goal)
    for _ in range(60):
        robot.now_s += 0.3
        robot.arm.advance(robot.now_s)
    assert robot.arm.fault is None
    assert np.linalg.norm(poses.delta(robot.arm.pose, goal)[0]) < 2e-3


@pytest.mark.sim
def test_objects_are_laid_out_anew_around_a_robot_that_stays_and_not_under_one_that_moves() -> None:
    from envs.simulated_arm import NotAtRestError

    robot = Robot()
    first = robot.env.object_pose().base
    robot.arm.move_to(poses.moved(robot.arm.pose, translation_m=np.array([0.0, 0.15, 0.0]), rotation_rad=np.zeros(3)))
    robot.run(0.15)
    with pytest.raises(NotAtRestError, match="stop it"):
        robot.world.rearrange(5)
    robot.run(1.5)
    stood = robot.arm.pose
    robot.world.rearrange(5)
    robot.run(0.3)
    assert np.linalg.norm(poses.delta(stood, robot.arm.pose)[0]) < 2e-3
    assert np.linalg.norm(robot.env.object_pose().base[:2] - first[:2]) > 0.01
    assert robot.world.describe() == {"seed": 5, "instruction": "pick coke can", "is_success": False}
    robot.world.rearrange(0)
    assert robot.env.object_pose().base == pytest.approx(first, abs=1e-4)


@pytest.mark.sim
def test_the_can_is_picked_through_driver_and_protocol_alone() -> None:
    """A scripted hand: over the can, down, close, up. What it sends are targets; whether the can is up, the task judges."""
    robot = Robot()
    emulator = Emulator(
        SimulatedController(robot.arm, robot.world, host="127.0.0.1", port=0, camera_port=0, model="google_robot_static")
    )
    robot.arm._lived_until_s = time.monotonic()
    can = robot.env.object_pose().base[:3].astype(float)
    with emulator:
        driver = simulated_driver(emulator, "google_robot_static")
        driver.connect()
        targets = Targets(driver)
        start = targets.start.position_m

        def go(position_m: np.ndarray, gripper: float) -> None:
            assert driver.submit(targets.at(tuple(position_m - start), gripper=gripper))
            wait_until(lambda: float(np.linalg.norm(driver.read().tool_pose.position_m - position_m)) < 4e-3)

        above, grasp = can + np.array([0.0, 0.0, 0.16]), can + np.array([0.0, 0.0, 0.01])
        go(above, 1.0)
        go(grasp, 1.0)
        go(grasp, 0.0)
        wait_until(lambda: driver.read().gripper_opening < 0.8 and not driver.read().is_moving)
        closed_s = robot.arm.samples[-1].time_s
        wait_until(lambda: robot.arm.samples[-1].time_s > closed_s + 1.0)
        assert driver.read().gripper_opening > 0.05, "the can is between the fingers"
        go(above, 0.0)
        with JsonLinesTo(emulator) as lines:
            wait_until(lambda: lines.ask({"command": "describe"}, "describe")["is_success"] is True)
            wait_until(lambda: lines.ask({"command": "rearrange", "seed": 1}, "rearrange").get("is_success") is False)
        driver.close()


@pytest.mark.sim
def test_the_camera_shows_the_scene_that_the_arm_moves_in() -> None:
    robot = Robot()
    controller = SimulatedController(robot.arm, robot.world, host="127.0.0.1", port=0, camera_port=0, model="google_robot_static")
    with Emulator(controller), Camera(camera_at(controller.camera_port, robot.world.camera)) as camera:
        wait_until(lambda: camera.latest() is not None)
        first = camera.read_latest(max_age_s=30.0)
        wait_until(lambda: camera.read_latest(max_age_s=30.0).sequence > first.sequence + 2)
        last = camera.read_latest(max_age_s=30.0)
    reference, _ = robot.env.reset(seed=0)
    difference = np.abs(last.image.astype(int) - reference.images[robot.world.camera.name].astype(int)).mean()
    assert difference < 3.0, "nothing moved, so it is the picture of a reset"
    assert last.capture_monotonic_s > first.capture_monotonic_s


def test_a_task_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from envs import simulate

    assert simulate.main(["serve", "--task", "google_robot_fly"]) == 2
    assert "google_robot_fly" in capsys.readouterr().err


def test_asking_nobody_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    from envs import simulate

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert simulate.main(["describe", "--port", str(port)]) == 1
    assert "no arm answers" in capsys.readouterr().err
    with pytest.raises(RecapError):
        JsonLines("127.0.0.1", port, timeout_s=1.0, on_message=lambda _: None)
