"""What the tests of drivers against emulators share: emulators at addresses of their own, targets, waiting."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robot_drivers.driver import Pose, RobotDriver, Target
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import Generation, RealmanController
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated import PatternScene, SimulatedController
from robot_drivers.emulators.simulated_arm import MotionLimits, SimulatedArm
from robot_drivers.emulators.xarm import HOME_RAD, XArmController
from robot_drivers.realman import RealmanDriver
from robot_drivers.realman_link import RealmanConfig
from robot_drivers.simulated import SimulatedConfig, SimulatedDriver
from robot_drivers.xarm import XArmDriver
from robot_drivers.xarm_link import XArmConfig

LIMITS = MotionLimits(hard_stop_factor=20.0)  # a hard stop is over within a tick or two, also on a busy machine
XARM_PORT = 15502  # of the whole process, for the vendor's SDK
_random = random.Random(os.getpid())


def realman_emulator(generation: Generation = 3) -> Emulator:
    return Emulator(RealmanController(host="127.0.0.1", port=0, generation=generation, limits=LIMITS))


def realman_driver(emulator: Emulator, model: str = "RM75", timeout_s: float = 10.0) -> RealmanDriver:
    return RealmanDriver(
        RealmanConfig(host="127.0.0.1", port=emulator.port, state_port=0, model=model, gripper="eg2", timeout_s=timeout_s)
    )


def xarm_emulator(host: str) -> Emulator:
    return Emulator(XArmController(host=host, port=XARM_PORT, limits=LIMITS))


def xarm_driver(host: str, **changes: object) -> XArmDriver:
    fields = {
        "num_joints": 7,
        "max_speed_m_s": 0.2,
        "max_acceleration_m_s2": 2.0,
        "has_gripper": True,
        "port": XARM_PORT,
    } | changes
    return XArmDriver(XArmConfig(host=host, **fields))  # type: ignore[arg-type]


def simulated_emulator() -> Emulator:
    arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic(), LIMITS)
    return Emulator(SimulatedController(arm, PatternScene(), host="127.0.0.1", port=0, camera_port=0, model="kinematic"))


@functools.cache
def simpler_env() -> Any:
    """One for all tests: a layout is quick, building is not."""
    from envs.simpler.task_env import SimplerTaskEnv

    return SimplerTaskEnv("google_robot_pick_standing_coke_can")


def simpler_emulator() -> Emulator:
    from envs.simulated_arm import SimplerArm, SimplerWorld

    world = SimplerWorld(simpler_env(), seed=0)
    arm = SimplerArm(world, time.monotonic(), dataclasses.replace(LIMITS, acceleration_m_s2=4.0))
    return Emulator(SimulatedController(arm, world, host="127.0.0.1", port=0, camera_port=0, model="google_robot_static"))


def simulated_driver(emulator: Emulator, model: str) -> SimulatedDriver:
    return SimulatedDriver(SimulatedConfig(host="127.0.0.1", port=emulator.port, model=model, timeout_s=10.0))


def loopback_address() -> str:
    """One that no other test uses, also not of another process."""
    return f"127.{_random.randint(1, 254)}.{_random.randint(0, 254)}.{_random.randint(1, 254)}"


class Targets:
    """Makes targets relative to where the arm was when this was made."""

    def __init__(self, driver: RobotDriver) -> None:
        self.start = driver.read().tool_pose
        self._driver = driver
        self._sequence = itertools.count()

    def at(self, offset_m: Sequence[float], *, generation: int = 0, gripper: float | None = None, valid_s: float = 2.0) -> Target:
        return Target(
            tool_pose=Pose(position_m=self.start.position_m + np.array(offset_m), quaternion_wxyz=self.start.quaternion_wxyz),
            gripper_opening=gripper,
            sequence=next(self._sequence),
            generation=generation,
            expires_monotonic_s=time.monotonic() + valid_s,
        )

    def offset_m(self) -> np.ndarray:
        return self._driver.read().tool_pose.position_m - self.start.position_m


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Returns when true; generous, because the machine may be busy: no test measures this."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.005)


def moved_after(emulator: Emulator, time_s: float, settle_s: float = 0.2) -> float:
    """How far the tool went, in metres, from ``settle_s`` after a time of the emulator's clock until now."""
    wait_until(lambda: emulator.samples()[-1].time_s > time_s + settle_s + 0.1)
    positions = np.array([sample.position_m for sample in emulator.samples(time_s + settle_s)])
    return float(np.linalg.norm(positions - positions[0], axis=1).max())


def stop_time_s(emulator: Emulator) -> float:
    """When the last stop reached the controller, by its own clock."""
    return [event.time_s for event in emulator.events() if event.name == "stop"][-1]
