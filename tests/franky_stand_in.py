"""A stand-in for franky: the calls of its documentation that the Franka driver uses, and an arm behind them."""

from __future__ import annotations

import contextlib
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_drivers.driver import Pose
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated_arm import ArmFault, SimulatedArm
from robot_drivers.emulators.xarm import HOME_RAD

LIMITS = {
    "max_speed_m_s": 0.2, "max_acceleration_m_s2": 1.0, "max_jerk_m_s3": 20.0,
    "max_speed_rad_s": 1.0, "max_acceleration_rad_s2": 5.0, "max_jerk_rad_s3": 100.0,
}  # fmt: skip


class Limit:
    value = 0.0

    def set(self, value: float) -> None:
        self.value = value


class Arm:
    """What stands behind the stand-in, there at once; the test's hand on it."""

    def __init__(self) -> None:
        self.mode = "Idle"
        self.position = np.array([0.4, 0.0, 0.4])
        self.quaternion_xyzw = np.array([1.0, 0.0, 0.0, 0.0])
        self.log: list[str] = []
        self.is_frozen = False
        self.is_dead = False
        self.kept_exception: Exception | None = None
        self.can_recover = True
        self.width = 0.08
        self.time_ms = 0
        self.limits: dict[str, Limit] = {}
        self.joints_rad: Any = [0.1] * 7
        self.grasped_width = 0.02

    def go(self, position: NDArray[np.float64], quaternion_xyzw: NDArray[np.float64]) -> None:
        self.mode, self.position, self.quaternion_xyzw = "Move", position, quaternion_xyzw

    def brake(self, *, is_hard: bool) -> None:
        self.mode = "Idle"

    def recover(self) -> bool:
        if self.can_recover:
            self.mode = "Idle"
        return self.can_recover

    def move_fingers(self, width: float) -> None:
        self.width = width


class MovingArm:
    """The same with mechanics: it takes its time, and stands where it is cut off."""

    def __init__(self) -> None:
        self._arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic())
        self._lock = threading.Lock()
        self.log: list[str] = []
        self.limits: dict[str, Limit] = {}
        self.kept_exception: Exception | None = None
        self.is_frozen = self.is_dead = self.is_talking_nonsense = False
        self.time_ms = 0
        self.grasped_width = 0.0

    def pose(self) -> Pose:
        with self._living() as arm:
            return arm.pose

    def opening(self) -> float:
        with self._living() as arm:
            return arm.gripper_opening

    @property
    def mode(self) -> str:
        with self._living() as arm:
            return "Reflex" if arm.fault is not None else "Move" if arm.is_moving else "Idle"

    @property
    def position(self) -> NDArray[np.float64]:
        return self.pose().position_m

    @property
    def quaternion_xyzw(self) -> NDArray[np.float64]:
        return np.roll(self.pose().quaternion_wxyz, -1)

    @property
    def joints_rad(self) -> Any:
        with self._living() as arm:
            return ["?"] * 7 if self.is_talking_nonsense else arm.joints_rad.copy()

    @property
    def width(self) -> float:
        return 0.08 * self.opening()

    def go(self, position: NDArray[np.float64], quaternion_xyzw: NDArray[np.float64]) -> None:
        with self._living() as arm:
            arm.move_to(Pose(position_m=position, quaternion_wxyz=np.roll(quaternion_xyzw, 1)))

    def brake(self, *, is_hard: bool) -> None:
        with self._living() as arm:
            arm.stop(is_hard=is_hard)

    def recover(self) -> bool:
        with self._living() as arm:
            arm.clear_fault()
        return True

    def move_fingers(self, width: float) -> None:
        with self._living() as arm:
            arm.move_gripper(width / 0.08)

    def collide(self) -> None:
        with self._living() as arm:
            arm.raise_fault(ArmFault.COLLISION)

    def cut_off(self) -> None:
        self.brake(is_hard=True)
        self.is_dead = True

    @contextlib.contextmanager
    def _living(self) -> Iterator[SimulatedArm]:
        with self._lock:
            now_s = time.monotonic()
            if self.is_frozen:
                self._arm.skip_to(now_s)
            else:
                self._arm.advance(now_s)
            yield self._arm


def stand_in(arm: Arm | MovingArm) -> types.ModuleType:
    franky: Any = types.ModuleType("franky")
    franky.RealtimeConfig = types.SimpleNamespace(Enforce="enforce", Ignore="ignore")
    franky.ReferenceType = types.SimpleNamespace(Absolute="absolute")
    franky.RobotMode = types.SimpleNamespace(
        Idle="Idle", Move="Move", Reflex="Reflex", UserStopped="UserStopped", Guiding="Guiding"
    )
    franky.Affine = lambda translation, quaternion: types.SimpleNamespace(translation=translation, quaternion=quaternion)
    franky.CartesianMotion = lambda pose, reference: ("motion", pose, reference)
    franky.CartesianStopMotion = lambda: ("stop", None, None)

    class Robot:
        def __init__(self, host: str, realtime_config: str) -> None:
            if arm.is_dead:
                raise OSError("libfranka: Connection to FCI refused")
            arm.log.append(f"open {realtime_config}")

        def __getattr__(self, name: str) -> Limit:
            assert name.endswith("_limit"), name
            return arm.limits.setdefault(name, Limit())

        @property
        def is_in_control(self) -> bool:
            return arm.mode == "Move"

        @property
        def state(self) -> types.SimpleNamespace:
            if arm.is_dead:
                raise OSError("libfranka: UDP receive: Timeout")
            arm.time_ms += 0 if arm.is_frozen else 1
            time_ms = arm.time_ms
            return types.SimpleNamespace(
                q=arm.joints_rad, dq=[0.0] * 7, robot_mode=arm.mode, time=types.SimpleNamespace(to_msec=lambda: time_ms)
            )

        @property
        def current_cartesian_state(self) -> types.SimpleNamespace:
            pose = types.SimpleNamespace(translation=arm.position, quaternion=arm.quaternion_xyzw)
            return types.SimpleNamespace(pose=types.SimpleNamespace(end_effector_pose=pose))

        def move(self, motion: tuple[str, Any, Any], asynchronous: bool) -> None:
            assert asynchronous
            if arm.kept_exception is not None:
                error, arm.kept_exception = arm.kept_exception, None
                raise error
            if arm.mode == "Reflex":
                raise RuntimeError('command not possible in the current mode ("Reflex")')
            kind, pose, reference = motion
            arm.log.append(kind)
            if kind == "motion":
                assert reference == "absolute"
                arm.go(np.array(pose.translation), np.array(pose.quaternion))
            else:
                arm.brake(is_hard=False)

        def stop(self) -> None:
            arm.log.append("abort")
            arm.kept_exception = RuntimeError("Motion aborted by user")
            arm.brake(is_hard=True)

        def join_motion(self) -> None:
            if arm.kept_exception is not None:
                error, arm.kept_exception = arm.kept_exception, None
                raise error

        def recover_from_errors(self) -> bool:
            arm.log.append("recover")
            return arm.recover()

    class Gripper:
        max_width = 0.08

        def __init__(self, host: str) -> None:
            pass

        @property
        def width(self) -> float:
            return arm.width

        def stop(self) -> bool:
            return True

        def open_async(self, speed: float) -> None:
            arm.log.append("open gripper")
            arm.move_fingers(0.08)

        def grasp_async(self, width: float, speed: float, force: float, epsilon_outer: float) -> None:
            assert (width, epsilon_outer) == (0.0, 1.0)
            arm.log.append(f"grasp {force:g} N")
            arm.move_fingers(arm.grasped_width)

    franky.Robot, franky.Gripper = Robot, Gripper
    return franky
