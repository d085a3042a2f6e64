"""What the conformance suite drives: a driver, the arm behind it, and a hand on that arm's faults. One class a vendor."""

from __future__ import annotations

import math
from typing import Protocol

from core.clock import Clock, ManualClock
from robot_drivers.driver import GripperKind, Pose, RobotDriver
from robot_drivers.fake import FakeArm, FakeArmConfig


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


RIGS: dict[str, type[Rig]] = {"fake": FakeRig}
"""Every driver is listed here."""
