"""The robot driver interface: one arm, in SI units and the arm's base frame, whatever the vendor speaks.

Hop 1 of the tour on a real robot, the last one before the wire. A driver translates and reports; it decides nothing: limits,
watchdogs and latches are the supervisor's (:mod:`robot_drivers.supervisor`), which is a driver's only caller. Whether an arm
lives is judged by the age of what :meth:`RobotDriver.read` returns, never by a command's return code: a vendor's client
reports success to a dead peer.

The loop that calls it, 50 to 100 times a second::

    state = driver.read()
    driver.submit(target)     # returns at once
    driver.stop(StopKind.HOLD)  # from any thread, at any time; nothing submitted before it moves the arm after it
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import NonFiniteError, RecapError, SpecError


class DriverError(RecapError, ConnectionError):
    """The arm cannot be reached, or answered something that makes no sense. The supervisor latches a fault."""


class StopKind(enum.Enum):
    """How to stop, from the gentlest on."""

    HOLD = "hold"
    """Stay where you are; power on, no fault."""
    SLOW = "slow"
    """Brake along the path as the controller does it."""
    HARD = "hard"
    """As fast as the controller can. A software stop: it is not a safety-rated emergency stop."""


class ArmMode(enum.Enum):
    """What the controller says that it is doing."""

    READY = "ready"
    """Powered, takes targets."""
    IDLE = "idle"
    """Reachable, but not enabled."""
    FAULT = "fault"
    """Latched; only :meth:`RobotDriver.clear_fault` leaves it."""
    ESTOP = "estop"
    """The hardware emergency stop is pressed, where the arm reads it back."""


class GripperKind(enum.Enum):
    """What the gripper takes."""

    NONE = "none"
    BINARY = "binary"
    """Open or closed; a command above 0.5 opens."""
    CONTINUOUS = "continuous"


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the tool is, in the arm's base frame (``T_base_tool``)."""

    position_m: NDArray[np.float64]
    """[3]: x, y, z."""
    quaternion_wxyz: NDArray[np.float64]
    """[4], unit length, scalar first."""

    def __post_init__(self) -> None:
        for name, size in (("position_m", 3), ("quaternion_wxyz", 4)):
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != (size,):
                raise SpecError(f"Pose.{name} has shape {array.shape}; expected ({size},)")
            if not np.isfinite(array).all():
                raise NonFiniteError(f"Pose.{name} is {array.tolist()}; expected finite numbers")
            if name == "quaternion_wxyz":
                length = float(np.linalg.norm(array))
                if abs(length - 1) > 1e-3:
                    raise SpecError(f"Pose.quaternion_wxyz {array.tolist()} has length {length:.4f}; expected 1")
                array /= length
            array.flags.writeable = False
            object.__setattr__(self, name, array)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an arm can do; known once it is connected."""

    model: str
    """As the controller names itself."""
    num_joints: int
    max_rate_hz: float
    """How often it can take a target."""
    gripper: GripperKind
    has_controller_deadman: bool
    """Whether the controller itself stops when targets stop coming. Without it, a dead supervisor leaves the last target held."""
    has_estop_readback: bool
    """Whether :attr:`ArmMode.ESTOP` is ever reported."""


@dataclass(frozen=True, kw_only=True)
class ArmState:
    """What was last heard from the arm."""

    time_monotonic_s: float
    """When it arrived, on this host's monotonic clock. Old means that the link or the controller is dead."""
    joint_position_rad: NDArray[np.float64]
    """[J], base to tip."""
    tool_pose: Pose
    """Measured."""
    gripper_opening: float
    """0 closed .. 1 open, measured; NaN without a gripper or where it is not read back."""
    mode: ArmMode
    faults: tuple[str, ...] = ()
    """In words, with the vendor's code: ``"collision (0x100D)"``."""
    is_moving: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the tool is to be by the next tick. Already filtered: a driver sends it or drops it, and never changes it."""

    tool_pose: Pose
    gripper_opening: float | None
    """0 closed .. 1 open; None leaves the gripper alone."""
    sequence: int
    """Increases with every target."""
    generation: int
    """Of the motion it belongs to. :meth:`RobotDriver.stop` ends a generation: targets of that or an older one are dropped."""
    expires_monotonic_s: float
    """Dropped after that."""


class RobotDriver(Protocol):
    """One arm. Thread-safe: ``stop`` may come from any thread at any time and never waits for a ``submit``."""

    def connect(self) -> Capabilities:
        """Open the link, check that it is the expected arm, clear nothing, move nothing.

        Connecting again ends the generation that was under way, as :meth:`stop` does, and so does :meth:`clear_fault`.

        Raises:
            DriverError: if there is no arm, or another one. The driver is then as before the call.
        """
        ...

    def read(self) -> ArmState:
        """The newest state that has arrived; does not wait for the arm.

        Raises:
            DriverError: if the link is known to be down. A silent link is not: see ``time_monotonic_s``.
        """
        ...

    def submit(self, target: Target) -> bool:
        """Send a target and return at once.

        Returns:
            False if it was dropped: expired, of a stopped generation, or older than one already sent.

        Raises:
            DriverError: if the link is down, or the arm has a latched fault.
        """
        ...

    def stop(self, kind: StopKind) -> None:
        """Stop, and drop every target of the present generation and before, also those that another thread is submitting now.

        Raises:
            DriverError: if the command could not be sent; the generation is ended all the same.
        """
        ...

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """Clear a latched fault, on a person's word only.

        Raises:
            DriverError: if it persists.
        """
        ...

    def close(self) -> None:
        """Hold, and let go of the link. May be called twice."""
        ...
