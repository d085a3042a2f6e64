"""A kinematic arm that is not there: bounded speed, a controller at the other end of a link, and faults on demand.

It is what tests, the demonstration without hardware and the fault table drive. Time is the clock's, so that a test moves it by
hand and a demonstration runs in real time: nothing happens between two calls, and each call first lives through the time since
the last one. The controller keeps the last target when its host goes silent, as a Realman does: no dead-man.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import ConfigError
from robot_drivers import poses
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target


@dataclass(frozen=True, kw_only=True)
class FakeArmConfig:
    """An arm of six joints; it moves nothing, so it may have defaults."""

    start_position_m: tuple[float, float, float] = (0.3, 0.0, 0.3)
    start_quaternion_wxyz: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)
    """Tool pointing down."""
    max_linear_speed_m_s: float = 1.0
    max_angular_speed_rad_s: float = 3.0
    gripper_speed_per_s: float = 2.0
    state_rate_hz: float = 200.0

    def __post_init__(self) -> None:
        for name in ("max_linear_speed_m_s", "max_angular_speed_rad_s", "gripper_speed_per_s", "state_rate_hz"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"FakeArmConfig.{name} is {value}; expected a positive number")


class FakeArm:
    """A driver (:class:`robot_drivers.driver.RobotDriver`) and, behind its link, the arm."""

    def __init__(self, config: FakeArmConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._unhung = threading.Event()
        self._unhung.set()
        # The driver's side.
        self._is_connected = False
        self._junk_reply: str | None = None
        self._received: ArmState | None = None
        self._newest_sequence = -1
        self._newest_generation = -1
        self._stopped_generation = -1
        # The link: what is under way, with its time of arrival.
        self._is_link_up = True
        self._delay_s = 0.0
        self._to_arm: deque[tuple[float, Target | StopKind]] = deque()
        self._to_driver: deque[ArmState] = deque()
        # The arm's side.
        self._is_frozen = False
        self._is_deaf = False
        self._mode = ArmMode.READY
        self._faults: tuple[str, ...] = ()
        self._pose = Pose(
            position_m=np.array(config.start_position_m), quaternion_wxyz=np.array(config.start_quaternion_wxyz, np.float64)
        )
        self._gripper_opening = 1.0
        self._goal: Target | None = None
        self._lived_until_s = self._clock.monotonic_s()
        self._next_push_s = self._lived_until_s

    # --- the driver -----------------------------------------------------------------------------------------------------

    def connect(self) -> Capabilities:
        """Open the link; see :meth:`robot_drivers.driver.RobotDriver.connect`. What moved the arm before does so no more."""
        with self._lock:
            if not self._is_link_up:
                raise DriverError("fake arm: no answer; expected a listening arm. Call restore_link().")
            self._goal = None
            self._live()
            self._is_connected = True
            self._junk_reply = None
            self._stopped_generation = self._newest_generation
            return Capabilities(
                model="fake",
                num_joints=6,
                max_rate_hz=self._config.state_rate_hz,
                gripper=GripperKind.CONTINUOUS,
                has_controller_deadman=False,
                has_estop_readback=True,
            )

    def read(self) -> ArmState:
        """The newest state that has arrived; see :meth:`robot_drivers.driver.RobotDriver.read`."""
        with self._lock:
            self._live()
            self._require_link()
            if self._junk_reply is not None:
                self._is_connected, reply, self._junk_reply = False, self._junk_reply, None
                raise DriverError(f"fake arm: the reply {reply!r} is not a state; the link is closed. Connect again.")
            if self._received is None:
                raise DriverError("fake arm: no state has arrived yet; wait one state period after connecting")
            return self._received

    def submit(self, target: Target) -> bool:
        """Send a target; see :meth:`robot_drivers.driver.RobotDriver.submit`."""
        self._unhung.wait()
        with self._lock:
            self._live()
            self._require_link()
            if self._received is not None and self._received.mode in (ArmMode.FAULT, ArmMode.ESTOP):
                raise DriverError(f"fake arm: {', '.join(self._received.faults)}; a person has to clear the fault first")
            is_old = target.sequence <= self._newest_sequence or target.generation <= self._stopped_generation
            if is_old or target.expires_monotonic_s < self._clock.monotonic_s():
                return False
            self._newest_sequence = target.sequence
            self._newest_generation = max(self._newest_generation, target.generation)
            self._send(target)
            return True

    def stop(self, kind: StopKind) -> None:
        """Stop; see :meth:`robot_drivers.driver.RobotDriver.stop`. The arm has no mass: every kind stops at once."""
        with self._lock:
            self._stopped_generation = self._newest_generation
            self._live()
            self._require_link()
            self._send(kind)

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """Clear a latched fault; see :meth:`robot_drivers.driver.RobotDriver.clear_fault`."""
        with self._lock:
            self._live()
            self._require_link()
            self._stopped_generation = self._newest_generation
            self._goal = None
            if self._mode is ArmMode.ESTOP:
                raise DriverError("fake arm: the emergency stop is pressed; release it before clearing")
            self._mode, self._faults = ArmMode.READY, ()
            self._push(self._clock.monotonic_s())
            self._live()

    def close(self) -> None:
        """Hold, and let go of the link."""
        with self._lock:
            self._live()
            self._goal = None
            self._to_arm.clear()
            self._stopped_generation = self._newest_generation
            self._is_connected = False
        self._unhung.set()

    # --- faults on demand, and the truth -----------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The controller stops in its tracks and says nothing more, while the link stays open."""
        with self._lock:
            self._live()
            self._is_frozen = True

    def thaw(self) -> None:
        """The controller goes on, with whatever has arrived in the meantime."""
        with self._lock:
            self._live()
            self._is_frozen = False

    def drop_link(self) -> None:
        """The link is gone, with all that was under way."""
        with self._lock:
            self._live()
            self._is_link_up = self._is_connected = False
            self._to_arm.clear()
            self._to_driver.clear()

    def restore_link(self) -> None:
        """The arm can be reached again; the driver has to connect."""
        with self._lock:
            self._live()
            self._is_link_up = True

    def set_delay_s(self, delay_s: float) -> None:
        """From now on everything under way takes so long, in both directions."""
        with self._lock:
            self._live()
            self._delay_s = delay_s

    def send_junk(self, reply: str = '{"arm_state": [1, 2') -> None:
        """The next reply makes no sense."""
        with self._lock:
            self._junk_reply = reply

    def collide(self, fault: str = "collision (0x100D)") -> None:
        """The controller notices a collision: it stops and latches the fault."""
        with self._lock:
            self._live()
            self._mode, self._faults, self._goal = ArmMode.FAULT, (fault,), None

    def press_estop(self) -> None:
        """The hardware emergency stop is pressed."""
        with self._lock:
            self._live()
            self._mode, self._faults, self._goal = ArmMode.ESTOP, ("emergency stop pressed",), None

    def release_estop(self) -> None:
        """It is pulled out again; the controller stays in fault until that is cleared."""
        with self._lock:
            self._live()
            self._mode, self._faults = ArmMode.FAULT, ("emergency stop released, not cleared",)

    def deafen(self, is_deaf: bool = True) -> None:
        """The controller takes targets and does not follow them, as one in a wrong mode does."""
        with self._lock:
            self._live()
            self._is_deaf = is_deaf

    def hang(self) -> None:
        """Every :meth:`submit` blocks until :meth:`unhang`, as a vendor's client does with a frozen controller."""
        self._unhung.clear()

    def unhang(self) -> None:
        """Let the blocked calls go."""
        self._unhung.set()

    def true_pose(self) -> Pose:
        """Where the tool is now, whatever the link says."""
        with self._lock:
            self._live()
            return self._pose

    def true_gripper_opening(self) -> float:
        """0 closed .. 1 open, now."""
        with self._lock:
            self._live()
            return self._gripper_opening

    # --- the arm's life ----------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Live through the time since the last call: arrivals, motion, state pushes, each at its own time."""
        now = self._clock.monotonic_s()
        period_s = 1 / self._config.state_rate_hz
        if self._is_frozen:
            self._lived_until_s = now
            self._next_push_s = now
        while not self._is_frozen:
            arrival_s = self._to_arm[0][0] if self._to_arm else math.inf
            until_s = min(arrival_s, self._next_push_s, now)
            self._move(max(0.0, until_s - self._lived_until_s))
            self._lived_until_s = max(self._lived_until_s, until_s)
            if arrival_s <= now and arrival_s <= self._next_push_s:
                self._obey(self._to_arm.popleft()[1])
            elif self._next_push_s <= now:
                self._push(self._next_push_s)
                self._next_push_s += period_s
            else:
                break
        while self._to_driver and self._to_driver[0].time_monotonic_s <= now:
            self._received = self._to_driver.popleft()

    def _obey(self, command: Target | StopKind) -> None:
        if isinstance(command, StopKind):
            self._goal = None
        elif self._mode is ArmMode.READY and not self._is_deaf:
            self._goal = command

    def _move(self, duration_s: float) -> None:
        if self._goal is None or duration_s == 0.0:
            return
        config = self._config
        opening = self._goal.gripper_opening
        if opening is not None:
            reach = config.gripper_speed_per_s * duration_s
            self._gripper_opening += max(-reach, min(reach, opening - self._gripper_opening))
        if self._pose is self._goal.tool_pose:
            return
        translation_m, rotation_rad = poses.delta(self._pose, self._goal.tool_pose)
        needed_s = max(
            float(np.linalg.norm(translation_m)) / config.max_linear_speed_m_s,
            float(np.linalg.norm(rotation_rad)) / config.max_angular_speed_rad_s,
        )
        if needed_s <= duration_s:
            self._pose = self._goal.tool_pose
        else:
            fraction = duration_s / needed_s
            self._pose = poses.moved(self._pose, translation_m=fraction * translation_m, rotation_rad=fraction * rotation_rad)

    def _push(self, time_s: float) -> None:
        if not self._is_link_up:
            return
        is_moving = self._goal is not None and self._pose is not self._goal.tool_pose
        self._to_driver.append(
            ArmState(
                time_monotonic_s=time_s + self._delay_s,
                joint_position_rad=self._joints(),
                tool_pose=self._pose,
                gripper_opening=self._gripper_opening,
                mode=self._mode,
                faults=self._faults,
                is_moving=is_moving,
            )
        )

    def _joints(self) -> NDArray[np.float64]:
        """[6], rad: a stand-in that changes with the pose; this arm has no links to have kinematics of."""
        x, y, z = self._pose.position_m
        return np.array([math.atan2(y, x), math.hypot(x, y), z, *self._pose.quaternion_wxyz[1:]])

    def _send(self, command: Target | StopKind) -> None:
        self._to_arm.append((self._clock.monotonic_s() + self._delay_s, command))
        self._live()

    def _require_link(self) -> None:
        if not self._is_connected:
            raise DriverError("fake arm: not connected; expected connect() after the link was made or lost")
