"""The Realman driver against the emulated controller, generations 3 and 4; asserted on the emulator's clock and log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from emulated_arms import Targets, moved_after, realman_driver, realman_emulator, stop_time_s, wait_until

from core.errors import ConfigError
from robot_drivers.driver import ArmMode, DriverError, GripperKind, StopKind
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.realman import RealmanDriver
from robot_drivers.realman_link import RealmanConfig

pytestmark = pytest.mark.realtime


@pytest.fixture(params=[3, 4])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with realman_emulator(request.param) as emulator:
        yield emulator


@pytest.fixture
def driver(emulator: Emulator) -> Iterator[RealmanDriver]:
    driver = realman_driver(emulator)
    driver.connect()
    yield driver
    driver.close()


def names(emulator: Emulator) -> list[str]:
    """What reached the controller, but for the stop that each connect begins with."""
    return [event.name for event in emulator.events()][1:]


def test_it_knows_the_arm_and_reads_it_in_si_units(emulator: Emulator) -> None:
    driver = realman_driver(emulator)
    capabilities = driver.connect()
    assert (capabilities.model, capabilities.num_joints, capabilities.gripper) == ("RM75-BI", 7, GripperKind.CONTINUOUS)
    state, pose = driver.read(), emulator.pose()
    assert state.mode is ArmMode.READY
    assert not state.is_moving
    assert state.joint_position_rad == pytest.approx(np.radians([0, 30, 0, 70, 0, 80, 0]), abs=1e-5)
    assert state.tool_pose.position_m == pytest.approx(pose.position_m, abs=1e-6)
    assert abs(state.tool_pose.quaternion_wxyz @ pose.quaternion_wxyz) == pytest.approx(1, abs=1e-6)
    assert [event.name for event in emulator.events()] == ["stop"]  # connecting moves and clears nothing
    driver.close()


def test_it_goes_where_it_is_told_and_says_that_it_moves(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    assert driver.submit(targets.at((0.01, 0.02, -0.01), gripper=0.25))
    wait_until(lambda: driver.read().is_moving)
    wait_until(lambda: bool(np.abs(targets.offset_m() - (0.01, 0.02, -0.01)).max() < 1e-5))
    wait_until(lambda: not driver.read().is_moving)
    assert emulator.pose().position_m == pytest.approx(targets.start.position_m + np.array([0.01, 0.02, -0.01]), abs=2e-6)
    wait_until(lambda: driver.read().gripper_opening == pytest.approx(0.25, abs=1e-3))
    assert names(emulator) == ["target", "gripper"]


def test_what_is_late_old_or_of_a_stopped_generation_is_dropped(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    older, newer = targets.at((0, 0, 0.001)), targets.at((0, 0, 0.002))
    assert not driver.submit(targets.at((0, 0, 0.003), valid_s=-0.01))
    assert driver.submit(newer)
    assert not driver.submit(older)
    wait_until(lambda: names(emulator) == ["target"])
    driver.stop(StopKind.HOLD)
    assert not driver.submit(targets.at((0, 0, 0.004), generation=0))
    assert driver.submit(targets.at((0, 0, 0.005), generation=1))
    wait_until(lambda: names(emulator) == ["target", "stop", "target"])


@pytest.mark.parametrize(("kind", "detail"), [(StopKind.HOLD, "slow"), (StopKind.SLOW, "slow"), (StopKind.HARD, "hard")])
def test_each_stop_is_the_controllers_own(emulator: Emulator, driver: RealmanDriver, kind: StopKind, detail: str) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0.2, 0)))
    wait_until(lambda: driver.read().is_moving)
    driver.stop(kind)
    wait_until(lambda: "stop" in names(emulator))
    assert [event.detail for event in emulator.events() if event.name == "stop"] == ["hard", detail]
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6
    assert driver.read().mode is ArmMode.READY


def test_a_target_waits_for_a_push_without_an_error_so_that_it_does_not_erase_one(
    emulator: Emulator, driver: RealmanDriver
) -> None:
    """The controller forgets an error with the next motion command: one sent before the push that reports it would hide it."""
    targets = Targets(driver)
    emulator.inject("freeze")
    for index in range(20):
        assert driver.submit(targets.at((0, 0.0005 * index, 0)))
    emulator.inject("collision")
    emulator.clear()
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    assert "target" not in names(emulator), "without a push nothing leaves, and with one that shows an error nothing either"


def test_no_target_follows_a_stop_that_races_it(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    for generation in range(100):
        go = threading.Barrier(2)

        def submit(generation: int = generation, go: threading.Barrier = go) -> None:
            go.wait()
            driver.submit(targets.at((0, 0, 0.001), generation=generation))

        num_before = len(names(emulator))
        driver.submit(targets.at((0, 0, 0.001), generation=generation))
        wait_until(lambda num_before=num_before: len(names(emulator)) > num_before)
        racer = threading.Thread(target=submit)
        racer.start()
        go.wait()
        driver.stop(StopKind.HARD)
        racer.join()
        wait_until(lambda generation=generation: names(emulator).count("stop") == generation + 1)
    assert names(emulator)[-1] == "stop"
    for before, after in zip(names(emulator), names(emulator)[1:], strict=False):
        assert (before, after) != ("stop", "stop")  # every generation did send something, and its stop was the last of it
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6


def test_a_fault_is_latched_although_the_controller_forgets_it(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    emulator.inject("collision")
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    assert driver.read().faults == ("collision (0x100D)",)
    wait_until(lambda: names(emulator) == ["fault", "stop"])  # a target under way would have cleared it in the controller
    with pytest.raises(DriverError, match=r"collision \(0x100D\)"):
        driver.submit(targets.at((0, 0.01, 0), generation=1))
    driver.close()
    driver.connect()
    assert driver.read().mode is ArmMode.FAULT
    assert "target" not in names(emulator)
    driver.clear_fault(operator="ada", reason="box removed")
    wait_until(lambda: driver.read().mode is ArmMode.READY)
    assert driver.submit(targets.at((0, 0.01, 0), generation=2))
    wait_until(lambda: bool(np.abs(targets.offset_m() - (0, 0.01, 0)).max() < 1e-5))


def test_a_fault_that_the_controller_has_already_forgotten_stays(emulator: Emulator, driver: RealmanDriver) -> None:
    emulator.inject("singularity")
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    other = realman_driver(emulator)  # some other client's motion command clears it
    other.connect()
    with pytest.raises(DriverError, match="singular"):
        other.submit(Targets(other).at((0, 0, 0)))
    other.clear_fault(operator="ada", reason="test")
    other.close()
    assert driver.read().mode is ArmMode.FAULT


def test_a_fault_that_persists_is_not_cleared(emulator: Emulator, driver: RealmanDriver) -> None:
    emulator.inject("estop")
    wait_until(lambda: driver.read().mode is ArmMode.FAULT)
    with pytest.raises(DriverError, match=r"persists.*0x1010"):
        driver.clear_fault(operator="ada", reason="too early")
    emulator.clear()
    driver.clear_fault(operator="ada", reason="released")
    wait_until(lambda: driver.read().mode is ArmMode.READY)


def test_a_frozen_peer_shows_in_the_age_alone_and_what_was_queued_is_stopped(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    emulator.inject("freeze")
    time.sleep(0.05)  # for what is on its way
    last_s = driver.read().time_monotonic_s
    for _ in range(20):
        assert driver.submit(targets.at((0, 0.05, 0)))  # the bytes leave: no sign of life
        time.sleep(0.002)
    assert driver.read().time_monotonic_s == last_s
    driver.stop(StopKind.HARD)
    emulator.clear()
    wait_until(lambda: driver.read().time_monotonic_s > last_s + 0.05)
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6


def test_a_killed_peer_is_an_error_at_once_and_coming_back_moves_nothing(emulator: Emulator, driver: RealmanDriver) -> None:
    targets = Targets(driver)
    driver.submit(targets.at((0, 0.2, 0)))
    wait_until(lambda: driver.read().is_moving)
    emulator.inject("drop")
    wait_until(lambda: _is_down(driver))
    for call in (lambda: driver.submit(targets.at((0, 0, 0))), lambda: driver.stop(StopKind.HARD)):
        with pytest.raises(DriverError, match="close and connect again"):
            call()
    with pytest.raises(DriverError, match="no arm answers"):
        driver.connect()
    with pytest.raises(DriverError, match="not connected"):
        driver.read()
    emulator.clear()
    driver.connect()
    assert not driver.submit(targets.at((0, 0, 0), generation=0))
    assert names(emulator).count("target") == 1


def _is_down(driver: RealmanDriver) -> bool:
    try:
        driver.read()
    except DriverError:
        return True
    return False


@pytest.mark.parametrize("fault", ["partial", "split", "junk", "delay:0.05"])
def test_a_bad_line_is_survived(emulator: Emulator, fault: str) -> None:
    emulator.inject(fault)
    driver = realman_driver(emulator)
    driver.connect()
    targets = Targets(driver)
    assert driver.submit(targets.at((0, 0.01, 0)))
    wait_until(lambda: bool(np.abs(targets.offset_m() - (0, 0.01, 0)).max() < 1e-5))
    driver.clear_fault(operator="ada", reason="nothing to clear")
    assert driver.read().mode is ArmMode.READY
    driver.close()


def test_another_arm_is_refused_and_left_alone(emulator: Emulator) -> None:
    driver = realman_driver(emulator, model="RM65")
    with pytest.raises(DriverError, match="'RM75-BI'; expected 'RM65'"):
        driver.connect()
    with pytest.raises(DriverError, match="connect first"):
        driver.read()


def test_an_arm_that_does_not_answer_or_push_is_refused(emulator: Emulator) -> None:
    emulator.inject("freeze")
    with pytest.raises(DriverError, match="did not answer 'get_arm_software_info'"):
        realman_driver(emulator, timeout_s=0.1).connect()


def test_closing_stops_the_arm_and_may_be_repeated(emulator: Emulator, driver: RealmanDriver) -> None:
    driver.submit(Targets(driver).at((0, 0.2, 0)))
    wait_until(lambda: driver.read().is_moving)
    driver.close()
    driver.close()
    wait_until(lambda: "stop" in names(emulator))
    assert moved_after(emulator, stop_time_s(emulator)) < 1e-6
    with pytest.raises(DriverError, match="not connected"):
        driver.stop(StopKind.HARD)


@pytest.mark.parametrize(
    "changes", [{"gripper": "robotiq"}, {"state_period_s": 0.004}, {"state_period_s": 0.0075}, {"timeout_s": 0}]
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        RealmanConfig(**({"host": "192.168.1.18", "model": "RM75", "gripper": "none"} | changes))  # type: ignore[arg-type]


def test_the_vendors_own_client_drives_the_emulator(emulator: Emulator) -> None:
    vendor = pytest.importorskip("Robotic_Arm.rm_robot_interface", reason="the vendor's package is not installed")
    arm = vendor.RoboticArm(vendor.rm_thread_mode_e.RM_TRIPLE_MODE_E)
    assert arm.rm_create_robot_arm("127.0.0.1", emulator.port).id != -1
    code, state = arm.rm_get_current_arm_state()
    assert code == 0
    assert state["pose"][:3] == pytest.approx(emulator.pose().position_m, abs=1e-5)
    assert arm.rm_movep_canfd([*state["pose"][:2], state["pose"][2] + 0.01, *state["pose"][3:]], False) == 0
    wait_until(lambda: emulator.pose().position_m[2] > state["pose"][2] + 0.009)
    assert arm.rm_set_arm_slow_stop() == 0
