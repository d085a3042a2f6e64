"""The SO-101 driver against a stand-in of LeRobot's motor bus and kinematics: two joints that matter, in a plane."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_arms import Targets, wait_until

from core.errors import ConfigError
from robot_drivers.driver import ArmMode, DriverError, GripperKind, StopKind
from robot_drivers.so101 import SO101Config, SO101Driver

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")


class Servos:
    """What hangs on the bus; the test's hand on it."""

    def __init__(self) -> None:
        self.positions = dict.fromkeys(JOINTS, 10.0) | {"gripper": 50.0}
        self.log: list[tuple[str, Any]] = []
        self.is_calibrated = True
        self.follows = True
        self.error: Exception | None = None
        self.lock = threading.Lock()


def stand_in(servos: Servos) -> dict[str, Any]:
    class Bus:
        is_connected = False

        def __init__(self, port: str, motors: dict[str, Any], calibration: dict[str, Any]) -> None:
            assert list(motors) == [*JOINTS, "gripper"] == list(calibration)
            assert [motor[2] for motor in motors.values()] == ["degrees"] * 5 + ["percent"]

        @property
        def is_calibrated(self) -> bool:
            return servos.is_calibrated

        def connect(self) -> None:
            if servos.error:
                raise servos.error
            self.is_connected = True

        def enable_torque(self) -> None:
            servos.log.append(("torque", True))

        def disconnect(self, disable_torque: bool) -> None:
            servos.log.append(("disconnect", disable_torque))
            self.is_connected = False

        def sync_read(self, name: str) -> dict[str, float]:
            assert name == "Present_Position"
            assert servos.lock.acquire(blocking=False), "two threads on the bus"
            try:
                if servos.error:
                    raise servos.error
                return dict(servos.positions)
            finally:
                servos.lock.release()

        def sync_write(self, name: str, values: dict[str, float]) -> None:
            assert name == "Goal_Position"
            servos.log.append(("goal", dict(values)))
            if servos.follows:
                servos.positions |= values

    class Kinematics:
        """x and y of the tool are a millimetre a degree of the first two joints, up to 100 mm."""

        def __init__(self, urdf: str, frame: str, names: list[str]) -> None:
            assert (Path(urdf).name, frame, tuple(names)) == ("so101.urdf", "gripper_frame_link", JOINTS)

        def forward_kinematics(self, joints_deg: np.ndarray) -> np.ndarray:
            frame = np.eye(4)
            frame[:2, 3] = joints_deg[:2] / 1000
            return frame

        def inverse_kinematics(self, present_deg: np.ndarray, frame: np.ndarray, orientation_weight: float) -> np.ndarray:
            goal = present_deg.copy()
            goal[:2] = np.clip(frame[:2, 3] * 1000, -100, 100)
            return goal

    motors: Any = types.ModuleType("lerobot.motors")
    motors.Motor = lambda number, model, mode: (number, model, mode)
    motors.MotorCalibration = lambda **fields: fields
    motors.MotorNormMode = types.SimpleNamespace(DEGREES="degrees", RANGE_0_100="percent")
    feetech: Any = types.ModuleType("lerobot.motors.feetech")
    feetech.FeetechMotorsBus = Bus
    kinematics: Any = types.ModuleType("lerobot.model.kinematics")
    kinematics.RobotKinematics = Kinematics
    return {
        "lerobot": types.ModuleType("lerobot"), "lerobot.model": types.ModuleType("lerobot.model"),
        "lerobot.motors": motors, "lerobot.motors.feetech": feetech, "lerobot.model.kinematics": kinematics,
    }  # fmt: skip


@pytest.fixture
def servos(monkeypatch: pytest.MonkeyPatch) -> Servos:
    servos = Servos()
    for name, module in stand_in(servos).items():
        monkeypatch.setitem(sys.modules, name, module)
    return servos


@pytest.fixture
def config(tmp_path: Path) -> SO101Config:
    record = {"id": 1, "drive_mode": 0, "homing_offset": 0, "range_min": 0, "range_max": 4095}
    calibration = tmp_path / "arm.json"
    calibration.write_text(json.dumps(dict.fromkeys((*JOINTS, "gripper"), record)))
    return SO101Config(port="/dev/ttyACM0", calibration=calibration, urdf=tmp_path / "so101.urdf", max_joint_step_rad=0.5)


@pytest.fixture
def driver(servos: Servos, config: SO101Config) -> Iterator[SO101Driver]:
    driver = SO101Driver(config)
    driver.connect()
    yield driver
    driver.close()


def goals(servos: Servos) -> list[dict[str, float]]:
    return [value for name, value in servos.log if name == "goal"]


def test_connecting_holds_the_arm_before_the_torque_goes_on(servos: Servos, config: SO101Config) -> None:
    driver = SO101Driver(config)
    capabilities = driver.connect()
    assert (capabilities.num_joints, capabilities.gripper) == (5, GripperKind.CONTINUOUS)
    assert servos.log[:2] == [("goal", dict.fromkeys(JOINTS, 10.0) | {"gripper": 50.0}), ("torque", True)]
    state = driver.read()
    assert state.joint_position_rad == pytest.approx(np.radians([10] * 5))
    assert state.tool_pose.position_m == pytest.approx([0.01, 0.01, 0])
    assert state.gripper_opening == 0.5
    driver.close()
    assert servos.log[-1] == ("disconnect", False)  # without torque it would drop


def test_a_target_becomes_joint_goals_and_an_opening(servos: Servos, driver: SO101Driver) -> None:
    targets = Targets(driver)
    assert driver.submit(targets.at((0.005, -0.005, 0), gripper=1.0))
    wait_until(lambda: bool(np.abs(targets.offset_m() - (0.005, -0.005, 0)).max() < 1e-9))
    assert goals(servos)[-1]["gripper"] == 100.0
    wait_until(lambda: driver.read().gripper_opening == 1.0)


def test_a_stop_holds_where_the_arm_is_and_ends_the_generation(servos: Servos, driver: SO101Driver) -> None:
    targets = Targets(driver)
    servos.follows = False
    driver.submit(targets.at((0.01, 0, 0)))
    wait_until(lambda: goals(servos)[-1]["shoulder_pan"] == pytest.approx(20.0))
    driver.stop(StopKind.HARD)
    assert not driver.submit(targets.at((0.01, 0, 0)))
    wait_until(lambda: goals(servos)[-1] == dict.fromkeys(JOINTS, 10.0))
    num_goals = len(goals(servos))
    wait_until(lambda: driver.read().time_monotonic_s > 0)
    assert driver.submit(targets.at((0.005, 0, 0), generation=1))
    wait_until(lambda: len(goals(servos)) > num_goals)
    assert goals(servos)[-1]["shoulder_pan"] == pytest.approx(15.0)


@pytest.mark.parametrize(("offset_m", "match"), [((0.0, 0.2, 0.0), "unreachable: 110.0 mm"), ((0.05, 0.0, 0.0), "step 0.87 rad")])
def test_what_cannot_be_reached_or_is_too_far_is_a_latched_fault(
    servos: Servos, driver: SO101Driver, offset_m: tuple[float, float, float], match: str
) -> None:
    targets = Targets(driver)
    driver.submit(targets.at(offset_m))
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    with pytest.raises(DriverError, match=match):
        driver.submit(targets.at((0, 0, 0)))
    assert goals(servos)[0]["shoulder_pan"] == goals(servos)[-1]["shoulder_pan"] == 10.0
    driver.clear_fault(operator="ada", reason="moved the goal")
    wait_until(lambda: driver.read().mode is ArmMode.READY)
    assert driver.submit(targets.at((0, 0.005, 0), generation=1))


def test_a_bus_that_fails_is_a_link_that_is_down(servos: Servos, driver: SO101Driver) -> None:
    servos.error = ConnectionError("Failed to sync read 'Present_Position'")

    def is_down() -> bool:
        try:
            driver.read()
        except DriverError as error:
            return "Failed to sync read" in str(error)
        return False

    wait_until(is_down)
    with pytest.raises(DriverError, match="no SO-101 at"):
        driver.connect()
    servos.error = None
    driver.connect()
    assert driver.read().mode is ArmMode.READY


def test_a_calibration_that_is_not_the_motors_is_refused(servos: Servos, config: SO101Config) -> None:
    servos.is_calibrated = False
    with pytest.raises(DriverError, match="lerobot-calibrate"):
        SO101Driver(config).connect()
    assert ("torque", True) not in servos.log
    for text in ("{", "{}", json.dumps({"shoulder_pan": 3})):
        config.calibration.write_text(text)
        with pytest.raises(DriverError, match="lerobot-calibrate"):
            SO101Driver(config).connect()


def test_without_lerobot_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, config: SO101Config) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.model.kinematics", None)
    with pytest.raises(DriverError, match=r"viva-recap\[so101\]"):
        SO101Driver(config).connect()


def test_a_config_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_joint_step_rad is 0"):
        SO101Config(port="/dev/ttyACM0", calibration=tmp_path, urdf=tmp_path, max_joint_step_rad=0)
