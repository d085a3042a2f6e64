"""The xArm driver, that is the vendor's own SDK, against the emulated control box; asserted on the emulator's clock and log.

The SDK is the oracle for the emulator too: what it does not understand, it refuses.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("xarm", reason="the vendor's SDK is not installed (extra xarm)")

from emulated_arms import (
    XARM_PORT,
    Targets,
    loopback_address,
    moved_after,
    stop_time_s,
    wait_until,
    xarm_driver,
    xarm_emulator,
)

from core.errors import ConfigError
from robot_drivers.driver import ArmMode, DriverError, StopKind
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.xarm import XArmDriver
from robot_drivers.xarm_link import XArmConfig

pytestmark = pytest.mark.realtime


@pytest.fixture
def host() -> str:
    return loopback_address()


@pytest.fixture
def emulator(host: str) -> Iterator[Emulator]:
    with xarm_emulator(host) as emulator:
        yield emulator


@pytest.fixture
def driver(emulator: Emulator, host: str) -> Iterator[XArmDriver]:
    driver = xarm_driver(host)
    driver.connect()
    yield driver
    driver.close()


def names(emulator: Emulator) -> list[str]:
    return [event.name for event in emulator.events()]


def is_at(targets: Targets, offset_m: tuple[float, float, float]) -> bool:
    return bool(np.abs(targets.offset_m() - offset_m).max() < 1e-5)


def test_it_knows_the_arm_and_reads_it_in_si_units(emulator: Emulator, host: str) -> None:
    timeout_s = socket.getdefaulttimeout()
    driver = xarm_driver(host)
    capabilities = driver.connect()
    assert (capabilities.model, capabilities.num_joints) == ("xArm 7 (firmware 2.5.0)", 7)
    assert socket.getdefaulttimeout() == timeout_s  # the SDK sets it for the whole process
    state, pose = driver.read(), emulator.pose()
    assert state.mode is ArmMode.READY
    assert state.joint_position_rad == pytest.approx(np.radians([0, -20, 0, 50, 0, 70, 0]), abs=1e-5)
    assert state.tool_pose.position_m == pytest.approx(pose.position_m, abs=1e-6)
    assert abs(state.tool_pose.quaternion_wxyz @ pose.quaternion_wxyz) == pytest.approx(1, abs=1e-6)
    assert set(names(emulator)) == {"stop"}
    driver.close()


def test_it_goes_where_it_is_told_at_the_speed_that_was_set(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    assert driver.submit(targets.at((0.01, 0.05, -0.01), gripper=0.25))
    wait_until(lambda: driver.read().is_moving)
    wait_until(lambda: is_at(targets, (0.01, 0.05, -0.01)))
    wait_until(lambda: not driver.read().is_moving)
    assert max(sample.speed_m_s for sample in emulator.samples()) <= 0.2 + 1e-6
    wait_until(lambda: driver.read().gripper_opening == pytest.approx(0.25, abs=2e-3))


def test_a_turned_target_is_reached_in_the_base_frame(emulator: Emulator, driver: XArmDriver) -> None:
    from scipy.spatial.transform import Rotation

    from robot_drivers.driver import Pose, Target

    start = driver.read().tool_pose
    rotation = Rotation.from_euler("z", 0.2) * Rotation.from_quat(start.quaternion_wxyz, scalar_first=True)
    goal = Pose(position_m=start.position_m, quaternion_wxyz=rotation.as_quat(scalar_first=True))
    driver.submit(
        Target(tool_pose=goal, gripper_opening=None, sequence=0, generation=0, expires_monotonic_s=time.monotonic() + 1)
    )
    wait_until(lambda: abs(emulator.pose().quaternion_wxyz @ goal.quaternion_wxyz) > 1 - 1e-8)
    assert emulator.pose().position_m == pytest.approx(start.position_m, abs=1e-5)


def test_what_is_late_old_or_of_a_stopped_generation_is_dropped(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    older = targets.at((0, 0, 0.001))
    assert not driver.submit(targets.at((0, 0, 0.003), valid_s=-0.01))
    assert driver.submit(targets.at((0, 0, 0.002)))
    assert not driver.submit(older)
    wait_until(lambda: "target" in names(emulator))
    driver.stop(StopKind.HOLD)
    assert not driver.submit(targets.at((0, 0, 0.004), generation=0))
    assert driver.submit(targets.at((0, 0, 0.005), generation=1))
    wait_until(lambda: is_at(targets, (0, 0, 0.005)))
    assert names(emulator).count("target") == 2


def test_a_stop_stops_and_a_new_generation_moves_again(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0.2, 0)))
    wait_until(lambda: driver.read().is_moving)
    num_stops = names(emulator).count("stop")
    driver.stop(StopKind.HOLD)
    wait_until(lambda: names(emulator).count("stop") == num_stops + 1)
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6
    assert driver.read().mode is ArmMode.READY
    assert driver.submit(targets.at((0, 0, 0), generation=1))
    wait_until(lambda: is_at(targets, (0, 0, 0)))


def test_no_motion_follows_a_stop_that_races_a_target(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    for generation in range(200):
        go = threading.Barrier(2)

        def submit(generation: int = generation, go: threading.Barrier = go) -> None:
            go.wait()
            driver.submit(targets.at((0, 0, 0.05), generation=generation))

        driver.submit(targets.at((0, 0, 0.05), generation=generation))
        racer = threading.Thread(target=submit)
        racer.start()
        go.wait()
        driver.stop(StopKind.HARD)
        racer.join()
    wait_until(lambda: names(emulator).count("stop") >= 201)
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6


def test_a_target_that_the_sdk_is_sending_when_the_stop_comes_does_not_move_the_arm(emulator: Emulator, host: str) -> None:
    """Stop first, then the target, on two connections: the controller in state 4 ignores it."""
    driver = xarm_driver(host)
    driver.connect()
    targets = Targets(driver)
    driver.submit(targets.at((0, 0, 0.001)))
    wait_until(lambda: is_at(targets, (0, 0, 0.001)))
    driver.stop(StopKind.HARD)
    link = driver._link
    assert link is not None
    with link.calling:
        x, y, z = (float(value) for value in (targets.start.position_m + np.array([0, 0.1, 0])) * 1000)
        code = link.sdk.set_position(x, y, z, 3.14159, 0, 0, speed=100, mvacc=1000, is_radian=True, wait=False)
    assert code != 0
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6
    driver.close()


def test_a_fault_stays_latched_until_a_person_clears_it(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    emulator.inject("collision")
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    assert driver.read().faults == ("Collision Caused Abnormal Current (C31)",)
    with pytest.raises(DriverError, match="C31"):
        driver.submit(targets.at((0, 0.01, 0), generation=1))
    driver.close()
    driver.connect()
    assert driver.read().mode is ArmMode.FAULT
    assert "target" not in names(emulator)
    assert "clear" not in names(emulator)
    driver.clear_fault(operator="ada", reason="box removed")
    assert driver.read().mode is ArmMode.READY
    assert driver.submit(targets.at((0, 0.01, 0), generation=2))
    wait_until(lambda: is_at(targets, (0, 0.01, 0)))


def test_the_emergency_stop_is_read_back_and_cleared_only_when_released(emulator: Emulator, driver: XArmDriver) -> None:
    emulator.inject("estop")
    wait_until(lambda: driver.read().mode is ArmMode.ESTOP)
    with pytest.raises(DriverError, match="persists"):
        driver.clear_fault(operator="ada", reason="too early")
    assert driver.read().mode is ArmMode.ESTOP
    emulator.clear()
    driver.clear_fault(operator="ada", reason="released")
    assert driver.read().mode is ArmMode.READY


def test_the_controllers_fence_holds_what_gets_past_everything_else(emulator: Emulator, host: str) -> None:
    start = emulator.pose().position_m
    fence = tuple((float(axis) - 0.03, float(axis) + 0.03) for axis in start)
    driver = xarm_driver(host, fence_m=fence)
    driver.connect()
    driver.submit(Targets(driver).at((0, 0.2, 0)))
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    assert driver.read().faults == ("Safety Boundary Limit (C35)",)
    assert float(np.abs(emulator.pose().position_m - start).max()) < 0.04
    driver.close()


@pytest.mark.slow
def test_a_frozen_controller_blocks_neither_a_stop_nor_a_read_and_what_was_queued_does_not_move(
    emulator: Emulator, driver: XArmDriver
) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0, 0.001)))
    wait_until(lambda: is_at(targets, (0, 0, 0.001)))
    emulator.inject("freeze")
    time.sleep(0.1)  # for what is on its way
    last_s = driver.read().time_monotonic_s
    driver.submit(targets.at((0, 0.1, 0)))  # the SDK now waits ten seconds for an answer
    time.sleep(0.3)
    driver.submit(targets.at((0, 0.1, 0)))
    driver.stop(StopKind.HARD)
    assert driver.read().time_monotonic_s == last_s
    emulator.clear()
    wait_until(lambda: driver.read().time_monotonic_s > last_s)
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6


def test_a_killed_controller_is_an_error_and_coming_back_moves_nothing(emulator: Emulator, driver: XArmDriver) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0.2, 0)))
    wait_until(lambda: driver.read().is_moving)
    emulator.inject("drop")
    wait_until(lambda: _is_down(driver))
    with pytest.raises(DriverError, match="close and connect again"):
        driver.stop(StopKind.HARD)
    with pytest.raises(DriverError, match="no xArm answers"):
        driver.connect()
    emulator.clear()
    driver.connect()
    assert not driver.submit(targets.at((0, 0, 0), generation=0))
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6


def _is_down(driver: XArmDriver) -> bool:
    try:
        driver.read()
    except DriverError:
        return True
    return False


@pytest.mark.parametrize("fault", ["partial", "split", "junk", "delay:0.05"])
def test_a_bad_line_is_survived(emulator: Emulator, host: str, fault: str) -> None:
    emulator.inject(fault)
    driver = xarm_driver(host, has_gripper=False)
    driver.connect()
    targets = Targets(driver)
    assert driver.submit(targets.at((0, 0.01, 0), valid_s=5.0))
    wait_until(lambda: is_at(targets, (0, 0.01, 0)))
    assert driver.read().mode is ArmMode.READY
    driver.close()


def test_another_arm_is_refused(emulator: Emulator, host: str) -> None:
    driver = xarm_driver(host, num_joints=6)
    with pytest.raises(DriverError, match="has 7 joints; expected 6"):
        driver.connect()
    with pytest.raises(DriverError, match="connect first"):
        driver.read()


def test_one_process_has_one_port(driver: XArmDriver, host: str) -> None:
    other = xarm_driver(host, port=XARM_PORT + 1)
    with socket.create_server((host, XARM_PORT + 1)), pytest.raises(ConfigError, match="knows one only"):
        other.connect()


def test_a_command_that_makes_no_sense_is_answered_as_invalid(emulator: Emulator, host: str) -> None:
    with socket.create_connection((host, XARM_PORT), timeout=5) as connection:
        for body in (bytes([250]), bytes([21]) + b"short", bytes([124])):
            connection.sendall(struct.pack(">HHH", 7, 2, len(body)) + body)
            transaction, _, _, function, status = struct.unpack(">HHHBB", connection.recv(64))
            assert (transaction, function) == (7, body[0])
            assert status & 0x08
    assert names(emulator) == []


def test_the_sdk_jogs_by_a_velocity_that_ends_by_itself(emulator: Emulator, host: str, driver: XArmDriver) -> None:
    """Mode 5: not what the driver uses, and what the vendor's own tools do."""
    link = driver._link
    assert link is not None
    start = emulator.pose().position_m
    with link.calling:
        assert link.sdk.set_mode(5) == 0
        assert link.sdk.set_state(0) == 0
        assert link.sdk.vc_set_cartesian_velocity([0, 50, 0, 0, 0, 0], is_radian=True, duration=0.3) == 0
    wait_until(lambda: emulator.pose().position_m[1] > start[1] + 0.005)
    assert (
        moved_after(emulator, [event.time_s for event in emulator.events() if event.name == "velocity"][-1], settle_s=0.5) < 1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"num_joints": 5}, {"max_speed_m_s": 0.0}, {"max_acceleration_m_s2": float("nan")}, {"timeout_s": -1.0},
        {"fence_m": ((0.0, 1.0), (1.0, 0.0), (0.0, 1.0))},
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    fields = {"num_joints": 7, "max_speed_m_s": 0.2, "max_acceleration_m_s2": 1.0, "has_gripper": False} | changes
    with pytest.raises(ConfigError, match=next(iter(changes))):
        XArmConfig(host="192.168.1.200", **fields)  # type: ignore[arg-type]
