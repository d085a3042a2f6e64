"""An arm that moves in real time: velocity and acceleration limits on the tool, kinematics behind it, and a log of it all."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_drivers.driver import Pose
from robot_drivers.emulators.serial_chain import SerialChain

_MAX_STEP_S = 0.01
_MAX_CATCH_UP_S = 0.05


class ArmFault(enum.Enum):
    """What stops the arm until it is cleared."""

    COLLISION = "collision"
    SINGULARITY = "singularity"
    ESTOP = "estop"


@dataclass(frozen=True, kw_only=True)
class MotionLimits:
    """Of the tool."""

    speed_m_s: float = 0.25
    acceleration_m_s2: float = 2.0
    speed_rad_s: float = 1.0
    acceleration_rad_s2: float = 8.0
    hard_stop_factor: float = 4.0
    """How many times faster than it accelerates the arm brakes in a hard stop or a fault."""
    gripper_strokes_per_s: float = 2.0


DEFAULT_LIMITS = MotionLimits()


@dataclass(frozen=True, kw_only=True)
class MotionSample:
    """One instant, on the clock that was given to :meth:`SimulatedArm.advance`."""

    time_s: float
    position_m: tuple[float, float, float]
    speed_m_s: float
    speed_rad_s: float
    gripper_opening: float


@dataclass(frozen=True, kw_only=True)
class ArmEvent:
    """One command that reached the controller, or one fault."""

    time_s: float
    name: str
    """"target", "velocity", "stop", "fault", "clear", "gripper"."""
    detail: str = ""


class SimulatedArm:
    """The mechanics that every emulated controller drives. Not thread-safe: its emulator owns it.

    Consumes: targets, velocities, stops, faults. Produces: joint angles, a pose, a log of motion and of events.
    """

    def __init__(
        self,
        chain: SerialChain,
        home_rad: NDArray[np.float64],
        now_s: float,
        limits: MotionLimits = DEFAULT_LIMITS,
        max_samples: int = 200_000,
    ) -> None:
        self.chain = chain
        self.limits = limits
        self.gripper_opening = 1.0
        self.fault: ArmFault | None = None
        self.samples: deque[MotionSample] = deque(maxlen=max_samples)
        self.events: deque[ArmEvent] = deque(maxlen=max_samples)
        self._gripper_target = 1.0
        self._time_s = now_s
        self.joints_rad: NDArray[np.float64]
        self.joint_speeds_rad_s: NDArray[np.float64]
        self._position: NDArray[np.float64]
        self._rotation: NDArray[np.float64]
        self._velocity: NDArray[np.float64]
        self._angular_velocity: NDArray[np.float64]
        self._target: tuple[NDArray[np.float64], NDArray[np.float64]] | None
        self._commanded_velocity: tuple[NDArray[np.float64], NDArray[np.float64], float] | None
        self._is_braking_hard = False
        self._is_estop_pressed = False
        self.place(home_rad)

    @property
    def pose(self) -> Pose:
        """Where the tool is."""
        return self.chain.forward(self.joints_rad)

    @property
    def is_moving(self) -> bool:
        """Whether the tool moves."""
        return bool(np.linalg.norm(self._velocity) > 1e-6 or np.linalg.norm(self._angular_velocity) > 1e-6)

    @property
    def is_estop_pressed(self) -> bool:
        """Whether the emergency stop is."""
        return self._is_estop_pressed

    def place(self, joints_rad: NDArray[np.float64]) -> None:
        """Stand at joint angles [J], at once and without a target."""
        self.joints_rad = np.array(joints_rad, dtype=np.float64)
        self.joint_speeds_rad_s = np.zeros(self.chain.num_joints)
        pose = self.chain.forward(self.joints_rad)
        self._position = pose.position_m.copy()
        self._rotation = Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True).as_matrix()
        self._velocity, self._angular_velocity = np.zeros(3), np.zeros(3)
        self._target, self._commanded_velocity = None, None

    def note(self, name: str, detail: str = "") -> None:
        """Log an event at the present time."""
        self.events.append(ArmEvent(time_s=self._time_s, name=name, detail=detail))

    def set_speed(self, speed_m_s: float, acceleration_m_s2: float) -> None:
        """How fast the tool travels from now on."""
        self.limits = replace(self.limits, speed_m_s=speed_m_s, acceleration_m_s2=acceleration_m_s2)

    def move_to(self, pose: Pose) -> None:
        """Head for a pose, from whatever motion there is. A faulted arm stays."""
        self.note("target", np.array2string(pose.position_m, precision=4))
        if self.fault is None:
            self._target = pose.position_m, Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True).as_matrix()
            self._commanded_velocity = None
            self._is_braking_hard = False

    def move_at(self, velocity_m_s: NDArray[np.float64], angular_rad_s: NDArray[np.float64], duration_s: float) -> None:
        """Move at a velocity, [3] and [3] in the base frame; it falls to zero by itself after ``duration_s``."""
        self.note("velocity")
        if self.fault is None:
            self._target = None
            self._commanded_velocity = velocity_m_s, angular_rad_s, self._time_s + duration_s
            self._is_braking_hard = False

    def move_gripper(self, opening: float) -> None:
        """Head for an opening, 0 closed .. 1 open."""
        self.note("gripper", f"{opening:.3f}")
        self._gripper_target = float(np.clip(opening, 0.0, 1.0))

    def stop(self, *, is_hard: bool) -> None:
        """Brake and forget the target."""
        self.note("stop", "hard" if is_hard else "slow")
        self._brake(is_hard=is_hard)

    def raise_fault(self, fault: ArmFault) -> None:
        """Brake and refuse to move until :meth:`clear_fault`."""
        self.note("fault", fault.value)
        self._is_estop_pressed = self._is_estop_pressed or fault is ArmFault.ESTOP
        self.fault = fault
        self._brake(is_hard=True)

    def release_estop(self) -> None:
        """Pull the button out; the fault stays."""
        self._is_estop_pressed = False

    def clear_fault(self) -> None:
        """Able to move again, unless the emergency stop is pressed; does not move."""
        self.note("clear")
        self.fault = ArmFault.ESTOP if self._is_estop_pressed else None

    def advance(self, now_s: float) -> None:
        """Move on to a time, in steps of 10 ms at most.

        Of a longer gap only the end is lived through: on a machine that is too busy the arm is slow, and never falls behind.
        """
        self.skip_to(now_s - _MAX_CATCH_UP_S)
        while self._time_s < now_s:
            step_s = min(_MAX_STEP_S, now_s - self._time_s)
            self._time_s += step_s
            self._step(step_s)
        self.samples.append(
            MotionSample(
                time_s=self._time_s,
                position_m=(float(self._position[0]), float(self._position[1]), float(self._position[2])),
                speed_m_s=float(np.linalg.norm(self._velocity)),
                speed_rad_s=float(np.linalg.norm(self._angular_velocity)),
                gripper_opening=self.gripper_opening,
            )
        )

    def skip_to(self, time_s: float) -> None:
        """Let the time until then pass without living through it."""
        self._time_s = max(self._time_s, time_s)

    def _brake(self, *, is_hard: bool) -> None:
        self._target = None
        self._commanded_velocity = None
        self._is_braking_hard = is_hard

    def _step(self, step_s: float) -> None:
        limits = self.limits
        reach = limits.gripper_strokes_per_s * step_s
        self.gripper_opening += float(np.clip(self._gripper_target - self.gripper_opening, -reach, reach))
        if self._target is None and self._commanded_velocity is None and not self.is_moving:
            self.joint_speeds_rad_s = np.zeros(self.chain.num_joints)
            return
        linear, angular = self._wanted_velocity(step_s)
        factor = limits.hard_stop_factor if self._is_braking_hard else 1.0
        self._velocity += _shortened(linear - self._velocity, factor * limits.acceleration_m_s2 * step_s)
        self._angular_velocity += _shortened(angular - self._angular_velocity, factor * limits.acceleration_rad_s2 * step_s)
        position = self._position + self._velocity * step_s
        rotation = _turned(self._rotation, self._angular_velocity * step_s)
        joints = self.chain.follow(self.joints_rad, position, rotation)
        if joints is None:
            self._velocity, self._angular_velocity = np.zeros(3), np.zeros(3)
            self.raise_fault(ArmFault.SINGULARITY)
            return
        self.joint_speeds_rad_s = (joints - self.joints_rad) / step_s
        self.joints_rad, self._position, self._rotation = joints, position, rotation

    def _wanted_velocity(self, step_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        limits = self.limits
        if self._target is not None:
            position, rotation = self._target
            return (
                _approach(position - self._position, limits.speed_m_s, limits.acceleration_m_s2, step_s),
                _approach(_turn(self._rotation, rotation), limits.speed_rad_s, limits.acceleration_rad_s2, step_s),
            )
        if self._commanded_velocity is not None:
            linear, angular, until_s = self._commanded_velocity
            if self._time_s <= until_s:
                return _shortened(linear, limits.speed_m_s), _shortened(angular, limits.speed_rad_s)
            self._commanded_velocity = None
        return np.zeros(3), np.zeros(3)


def _turn(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vector [3] in the base frame from one rotation matrix to another."""
    turn = end @ start.T
    if np.abs(turn - np.eye(3)).max() < 1e-9:
        return np.zeros(3)
    return Rotation.from_matrix(turn).as_rotvec()


def _turned(rotation: NDArray[np.float64], rotation_vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation matrix [3, 3] turned about the base axes."""
    if not rotation_vector.any():
        return rotation
    return Rotation.from_rotvec(rotation_vector).as_matrix() @ rotation


def _shortened(vector: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """``vector`` [3], no longer than ``length``."""
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)


def _approach(offset: NDArray[np.float64], speed: float, acceleration: float, step_s: float) -> NDArray[np.float64]:
    """The velocity [3] towards ``offset`` [3] from which there is still room to brake (at 80 % of the acceleration)."""
    distance = float(np.linalg.norm(offset))
    if distance < 1e-9:
        return np.zeros(3)
    return offset / distance * min(speed, float(np.sqrt(1.6 * acceleration * distance)), distance / step_s)
