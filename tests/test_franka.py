"""The Franka driver against a stand-in of franky's documented calls; and against franky-sim where that is installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from emulated_arms import Targets, wait_until
from franky_stand_in import LIMITS, Arm, stand_in

from core.errors import ConfigError
from robot_drivers.driver import ArmMode, DriverError, GripperKind, StopKind
from robot_drivers.franka import FrankaConfig, FrankaDriver


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Arm:
    arm = Arm()
    monkeypatch.setitem(sys.modules, "franky", stand_in(arm))
    return arm


@pytest.fixture
def driver(arm: Arm) -> Iterator[FrankaDriver]:
    driver = FrankaDriver(FrankaConfig(host="172.16.0.2", has_gripper=True, **LIMITS))
    driver.connect()
    yield driver
    driver.close()


def test_connecting_sets_the_limits_and_clears_and_moves_nothing(arm: Arm) -> None:
    driver = FrankaDriver(FrankaConfig(host="172.16.0.2", has_gripper=True, **LIMITS))
    capabilities = driver.connect()
    assert (capabilities.num_joints, capabilities.gripper) == (7, GripperKind.BINARY)
    assert arm.log == ["open enforce"]
    assert {name: limit.value for name, limit in arm.limits.items()} == {
        "translation_velocity_limit": 0.2, "translation_acceleration_limit": 1.0, "translation_jerk_limit": 20.0,
        "rotation_velocity_limit": 1.0, "rotation_acceleration_limit": 5.0, "rotation_jerk_limit": 100.0,
    }  # fmt: skip
    state = driver.read()
    assert state.tool_pose.quaternion_wxyz.tolist() == [0.0, 1.0, 0.0, 0.0]  # franky's is scalar last
    assert state.mode is ArmMode.READY
    driver.close()
    with pytest.raises(DriverError, match="it was closed"):
        driver.read()


def test_targets_preempt_and_keep_their_frame(arm: Arm, driver: FrankaDriver) -> None:
    targets = Targets(driver)
    assert driver.submit(targets.at((0.01, 0.02, 0.03)))
    assert driver.submit(targets.at((0.02, 0.02, 0.03)))
    assert arm.position == pytest.approx([0.42, 0.02, 0.43])
    assert arm.quaternion_xyzw == pytest.approx([1, 0, 0, 0])
    wait_until(lambda: bool(np.abs(targets.offset_m() - (0.02, 0.02, 0.03)).max() < 1e-9))
    assert not driver.submit(targets.at((0, 0, 0), valid_s=-1))


@pytest.mark.parametrize(("kind", "call"), [(StopKind.HOLD, "stop"), (StopKind.SLOW, "stop"), (StopKind.HARD, "abort")])
def test_a_stop_ends_the_generation_and_what_it_throws_is_no_fault(
    arm: Arm, driver: FrankaDriver, kind: StopKind, call: str
) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0, 0.01)))
    driver.stop(kind)
    assert arm.log[-1] == call
    assert not driver.submit(targets.at((0, 0, 0.02), generation=0))
    wait_until(lambda: arm.kept_exception is None)
    wait_until(lambda: driver.submit(targets.at((0, 0, 0.03), generation=1)))
    assert driver.read().faults == ()


def test_no_motion_follows_a_stop_that_races_it(arm: Arm, driver: FrankaDriver) -> None:
    targets = Targets(driver)
    for generation in range(200):
        driver.submit(targets.at((0, 0, 0.001), generation=generation))
        go = threading.Barrier(2)

        def submit(generation: int = generation, go: threading.Barrier = go) -> None:
            go.wait()
            driver.submit(targets.at((0, 0, 0.001), generation=generation))

        racer = threading.Thread(target=submit)
        racer.start()
        go.wait()
        driver.stop(StopKind.HOLD)
        racer.join()
        assert arm.log[-1] == "stop"


def test_a_reflex_is_latched_by_the_mode_alone(arm: Arm, driver: FrankaDriver) -> None:
    targets = Targets(driver)
    arm.mode = "Reflex"
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    arm.mode = "Idle"  # even if the robot forgets it
    with pytest.raises(DriverError, match="Reflex"):
        driver.submit(targets.at((0, 0, 0.01)))
    driver.clear_fault(operator="ada", reason="freed")
    wait_until(lambda: driver.read().mode is ArmMode.READY)
    assert arm.log[-1] == "recover"
    assert driver.submit(targets.at((0, 0, 0.01), generation=1))


def test_a_motion_that_is_rejected_is_a_fault(arm: Arm, driver: FrankaDriver) -> None:
    targets = Targets(driver)
    arm.kept_exception = RuntimeError("cartesian_motion_generator_joint_velocity_discontinuity")
    with pytest.raises(DriverError, match="discontinuity"):
        driver.submit(targets.at((0, 0, 0.01)))
    with pytest.raises(DriverError, match=r"latched fault.*discontinuity"):
        driver.submit(targets.at((0, 0, 0.01)))


def test_a_robot_that_does_not_recover_stays_in_fault(arm: Arm, driver: FrankaDriver) -> None:
    arm.mode, arm.can_recover = "Reflex", False
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    with pytest.raises(DriverError, match="persists"):
        driver.clear_fault(operator="ada", reason="test")
    assert driver.read().mode is ArmMode.FAULT


def test_the_user_stop_is_read_back_and_guiding_is_not_ready(arm: Arm, driver: FrankaDriver) -> None:
    arm.mode = "UserStopped"
    wait_until(lambda: driver.read().mode is ArmMode.ESTOP)
    arm.mode = "Guiding"
    wait_until(lambda: driver.read().mode is ArmMode.IDLE)


def test_a_state_whose_clock_stands_is_old(arm: Arm, driver: FrankaDriver) -> None:
    arm.is_frozen = True
    time.sleep(0.05)
    last_s = driver.read().time_monotonic_s
    time.sleep(0.05)
    assert driver.read().time_monotonic_s == last_s


def test_a_dead_link_is_an_error(arm: Arm, driver: FrankaDriver) -> None:
    arm.is_dead = True

    def is_down() -> bool:
        try:
            driver.read()
        except DriverError as error:
            return "Timeout" in str(error)
        return False

    wait_until(is_down)
    with pytest.raises(DriverError, match="FCI is active"):
        driver.connect()


def test_the_gripper_opens_and_grasps_with_force_and_only_on_change(arm: Arm, driver: FrankaDriver) -> None:
    targets = Targets(driver)
    for opening in (0.0, 0.2, 1.0, 0.9, 0.0):
        driver.submit(targets.at((0, 0, 0), gripper=opening))
        time.sleep(0.05)
    assert [entry for entry in arm.log if "grip" in entry or "grasp" in entry] == ["grasp 20 N", "open gripper", "grasp 20 N"]
    wait_until(lambda: driver.read().gripper_opening == pytest.approx(0.25))


def test_without_franky_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(DriverError, match=r"viva-recap\[franka\]"):
        FrankaDriver(FrankaConfig(host="172.16.0.2", has_gripper=True, **LIMITS)).connect()


def test_a_limit_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_jerk_m_s3 is -1"):
        FrankaConfig(host="172.16.0.2", has_gripper=True, **(LIMITS | {"max_jerk_m_s3": -1}))


@pytest.mark.slow
@pytest.mark.realtime
def test_a_simulated_franka_goes_where_it_is_told_and_stops() -> None:
    franky_sim = pytest.importorskip("franky_sim", reason="franky-sim is not installed")
    simulators = pytest.importorskip("franky_sim.mujoco_simulator")
    with simulators.MujocoSimulator() as simulator:
        robot = simulator.add_robot()
        with franky_sim.SimulationServer(simulator) as server:
            server.run_async()
            config = FrankaConfig(host=robot.hostname, has_gripper=False, needs_realtime_kernel=False, **LIMITS)
            driver = FrankaDriver(config)
            driver.connect()
            targets = Targets(driver)
            assert driver.submit(targets.at((0, 0, -0.02)))
            wait_until(lambda: bool(np.abs(targets.offset_m() - (0, 0, -0.02)).max() < 2e-3))
            driver.submit(targets.at((0, 0, -0.2)))
            driver.stop(StopKind.HARD)
            wait_until(lambda: not driver.read().is_moving)
            assert abs(targets.offset_m()[2]) < 0.05
            driver.close()
