"""What the conformance suite drives: a driver, the arm behind it, and a hand on that arm's faults. One class a vendor."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Protocol

import pytest
from emulated_arms import (
    loopback_address,
    realman_driver,
    realman_emulator,
    simpler_emulator,
    simulated_driver,
    simulated_emulator,
    xarm_driver,
    xarm_emulator,
)
from franky_stand_in import LIMITS, MovingArm, stand_in

from core.clock import Clock, ManualClock, SystemClock
from robot_drivers.driver import GripperKind, Pose, RobotDriver
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.fake import FakeArm, FakeArmConfig
from robot_drivers.franka import FrankaConfig, FrankaDriver


class Rig(Protocol):
    """A driver that is not connected yet, and what stands at the other end."""

    driver: RobotDriver
    clock: Clock
    position_tolerance_m: float
    rotation_tolerance_rad: float
    gripper: GripperKind

    def wait_s(self, duration_s: float) -> None:
        """Let time pass."""

    def true_pose(self) -> Pose:
        """Where the arm is, not by way of the driver."""

    def true_gripper_opening(self) -> float:
        """0 closed .. 1 open; NaN without a gripper."""

    def freeze(self) -> None:
        """The peer stops in its tracks; the link stays open."""

    def thaw(self) -> None:
        """It goes on."""

    def kill(self) -> None:
        """The peer dies."""

    def restart(self) -> None:
        """It can be reached again; its arm stands where it stood."""

    def junk(self) -> None:
        """Its next reply or state push makes no sense."""

    def collide(self) -> None:
        """The controller latches a collision."""

    def close(self) -> None:
        """Stop everything that was started."""


class FakeRig:
    """The fake arm, on a clock that is moved by hand."""

    position_tolerance_m = 1e-9
    rotation_tolerance_rad = 1e-7
    gripper = GripperKind.CONTINUOUS

    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        self.driver = FakeArm(FakeArmConfig(), self.clock)
        self.wait_s = self.clock.advance_s
        self.true_pose = self.driver.true_pose
        self.true_gripper_opening = self.driver.true_gripper_opening
        self.freeze = self.driver.freeze
        self.thaw = self.driver.thaw
        self.kill = self.driver.drop_link
        self.restart = self.driver.restore_link
        self.junk = self.driver.send_junk
        self.collide = self.driver.collide

    def close(self) -> None:
        assert math.isfinite(self.true_gripper_opening())
        self.driver.close()


class EmulatorRig:
    """A driver and an emulated controller that speak the vendor's protocol to each other over real sockets, in real time."""

    position_tolerance_m = 2e-4
    rotation_tolerance_rad = 2e-3
    gripper = GripperKind.CONTINUOUS

    def __init__(self, driver: RobotDriver, emulator: Emulator) -> None:
        self.clock = SystemClock()
        self.driver = driver
        self._emulator = emulator
        self.true_pose = emulator.pose

    def wait_s(self, duration_s: float) -> None:
        """So long, and until so long has passed on the emulator's clock since the last command reached it: machines are busy."""
        self.clock.sleep_s(duration_s)
        while any(event.time_s > self._emulator.samples()[-1].time_s - duration_s for event in self._emulator.events()[-1:]):
            self.clock.sleep_s(0.005)

    def true_gripper_opening(self) -> float:
        return self._emulator.samples()[-1].gripper_opening

    def freeze(self) -> None:
        self._emulator.inject("freeze")

    def thaw(self) -> None:
        self._emulator.clear()

    def kill(self) -> None:
        self._emulator.inject("drop")

    def restart(self) -> None:
        self._emulator.clear()

    def junk(self) -> None:
        self._emulator.inject("junk")

    def collide(self) -> None:
        self._emulator.inject("collision")

    def close(self) -> None:
        self._emulator.clear()
        self.driver.close()
        self._emulator.close()


class RealmanRig(EmulatorRig):
    """Realman, generation 3."""

    def __init__(self) -> None:
        emulator = realman_emulator(3)
        emulator.start()
        super().__init__(realman_driver(emulator), emulator)


class Realman4Rig(EmulatorRig):
    """Realman, generation 4."""

    def __init__(self) -> None:
        emulator = realman_emulator(4)
        emulator.start()
        super().__init__(realman_driver(emulator), emulator)


class XArmRig(EmulatorRig):
    """xArm, through the vendor's SDK."""

    def __init__(self) -> None:
        host = loopback_address()
        emulator = xarm_emulator(host)
        emulator.start()
        super().__init__(xarm_driver(host), emulator)


class SimulatedRig(EmulatorRig):
    """The simulated arm's driver, and mechanics without a scene."""

    def __init__(self) -> None:
        emulator = simulated_emulator()
        emulator.start()
        super().__init__(simulated_driver(emulator, "kinematic"), emulator)


class SimplerRig(EmulatorRig):
    """The same driver, and SIMPLER's Google robot in its scene: physics has the last word on where the arm is."""

    position_tolerance_m = 1e-3
    rotation_tolerance_rad = 5e-3

    def __init__(self) -> None:
        emulator = simpler_emulator()
        emulator.start()
        super().__init__(simulated_driver(emulator, "google_robot_static"), emulator)

    def wait_s(self, duration_s: float) -> None:
        """As the others, and until physics has lived through so much time: on a busy machine it is slower than the clock."""
        num_steps = len(self._emulator.samples())
        super().wait_s(duration_s)
        while len(self._emulator.samples()) - num_steps < duration_s / 0.01:
            self.clock.sleep_s(0.005)


class FrankaRig:
    """Franka, through the calls of franky's documentation: franky itself wants a robot, or its own simulator."""

    position_tolerance_m = 2e-4
    rotation_tolerance_rad = 2e-3
    gripper = GripperKind.BINARY

    def __init__(self) -> None:
        self.clock = SystemClock()
        self._arm = MovingArm()
        self._replaced = sys.modules.get("franky")
        sys.modules["franky"] = stand_in(self._arm)
        self.driver = FrankaDriver(FrankaConfig(host="172.16.0.2", has_gripper=True, **LIMITS))
        self.true_pose = self._arm.pose
        self.true_gripper_opening = self._arm.opening
        self.collide = self._arm.collide
        self.kill = self._arm.cut_off

    def wait_s(self, duration_s: float) -> None:
        until_s = self.clock.monotonic_s() + duration_s + 0.05  # the driver asks the hand five times a second
        while self.clock.monotonic_s() < until_s:
            self.true_pose()  # the arm lives through short gaps only
            self.clock.sleep_s(0.005)

    def freeze(self) -> None:
        self._arm.is_frozen = True

    def thaw(self) -> None:
        self._arm.is_frozen = False

    def restart(self) -> None:
        self._arm.is_dead = False

    def junk(self) -> None:
        self._arm.is_talking_nonsense = True
        self.clock.sleep_s(0.05)
        self._arm.is_talking_nonsense = False

    def close(self) -> None:
        self._arm.is_frozen = self._arm.is_dead = False
        self.driver.close()
        if self._replaced is None:
            del sys.modules["franky"]
        else:
            sys.modules["franky"] = self._replaced


RIGS: dict[str, tuple[Callable[[], Rig], tuple[pytest.MarkDecorator, ...]]] = {
    "fake": (FakeRig, ()),
    "realman3": (RealmanRig, (pytest.mark.realtime,)),
    "realman4": (Realman4Rig, (pytest.mark.realtime,)),
    "xarm": (XArmRig, (pytest.mark.realtime,)),
    "franka": (FrankaRig, (pytest.mark.realtime,)),
    "simulated": (SimulatedRig, (pytest.mark.realtime,)),
    "simpler": (SimplerRig, (pytest.mark.sim,)),
}
"""Every driver is listed here, with the marks of its tests."""
