"""Franka FR3 and Panda through franky (``franky-control``, extra ``franka``).

franky's Ruckig plans every motion within the limits set here, at 1 kHz in its own C++ thread; a new motion preempts the old.
Written from franky's documentation; tested against a stand-in of the calls that it uses and, where it is installed, against
``franky-sim``; not run on a robot.

What shapes this file:

- After a collision the error flags read clear once the arm has braked, while the robot stays in mode ``Reflex`` and rejects
  everything. So health is the *mode*, and the latch is ours.
- An exception in the control thread is kept and thrown by the next ``move``; after our own hard stop that one is expected.
- While nothing moves ``state`` is read from the wire, while something does it is the control thread's copy. Either way it is
  fresh only if the robot's own clock has advanced.
- The real robot wants a PREEMPT_RT kernel and a cable of its own: 20 ms of silence trip it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.clock import Clock, SystemClock
from core.errors import ConfigError
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target
from robot_drivers.target_gate import TargetGate

_POLL_S = 0.01
_GRIPPER_POLL_S = 0.2
_NUM_JOINTS = 7


@dataclass(frozen=True, kw_only=True)
class FrankaConfig:
    """Where the arm is, and what its planner may do; the supervisor's own limits, or a little above."""

    host: str
    max_speed_m_s: float
    max_acceleration_m_s2: float
    max_jerk_m_s3: float
    max_speed_rad_s: float
    max_acceleration_rad_s2: float
    max_jerk_rad_s3: float
    has_gripper: bool
    """The Franka Hand. It has to be homed before, in Desk: this driver does not move it on its own."""
    gripper_speed_m_s: float = 0.1
    gripper_force_n: float = 20.0
    needs_realtime_kernel: bool = True
    """False for the simulator only."""

    def __post_init__(self) -> None:
        for name in (
            "max_speed_m_s", "max_acceleration_m_s2", "max_jerk_m_s3", "gripper_speed_m_s", "gripper_force_n",
            "max_speed_rad_s", "max_acceleration_rad_s2", "max_jerk_rad_s3",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive number")


class FrankaDriver:
    """One Franka arm; a :class:`robot_drivers.driver.RobotDriver`.

    Consumes: targets; the robot's state, polled 100 times a second. Produces: preempting Cartesian motions; states. Waits for:
    the robot, in ``connect`` and ``clear_fault`` only. ``HOLD`` and ``SLOW`` brake within the limits, ``HARD`` aborts the control
    loop.
    """

    def __init__(self, config: FrankaConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._gate = TargetGate(self._clock)
        self._franky: Any = None
        self._robot: Any = None
        self._gripper: Any = None
        self._poller: threading.Thread | None = None
        self._closing = threading.Event()
        self._state: ArmState | None = None
        self._robot_time_ms = -1
        self._faults: tuple[str, ...] = ()
        self._link_error: str | None = "it was never opened"
        self._is_aborting = False
        self._gripper_opening = math.nan
        self._wanted_open: bool | None = None
        self._is_open: bool | None = None

    def connect(self) -> Capabilities:
        """See :meth:`RobotDriver.connect`. Recovers from no error and homes no gripper: both are a person's doing."""
        try:
            import franky
        except ImportError as error:
            raise DriverError("a Franka arm needs franky: pip install 'viva-recap[franka]'") from error
        self.close()
        with self._gate.closing():  # what was under way before is over
            pass
        config = self._config
        library: Any = franky
        realtime = library.RealtimeConfig.Enforce if config.needs_realtime_kernel else library.RealtimeConfig.Ignore
        try:
            robot = library.Robot(config.host, realtime_config=realtime)
            for limit, value in (
                (robot.translation_velocity_limit, config.max_speed_m_s),
                (robot.translation_acceleration_limit, config.max_acceleration_m_s2),
                (robot.translation_jerk_limit, config.max_jerk_m_s3),
                (robot.rotation_velocity_limit, config.max_speed_rad_s),
                (robot.rotation_acceleration_limit, config.max_acceleration_rad_s2),
                (robot.rotation_jerk_limit, config.max_jerk_rad_s3),
            ):
                limit.set(value)
            gripper = library.Gripper(config.host) if config.has_gripper else None
            self._franky, self._robot, self._gripper = library, robot, gripper
            self._robot_time_ms, self._link_error, self._is_aborting = -1, None, False
            self._poll()
        except Exception as error:  # franky's exceptions have no base of their own
            self._robot, self._link_error = None, "it was never opened"
            raise DriverError(
                f"no Franka arm at {config.host}: {error}; check that FCI is active, the brakes are unlocked, "
                "and franky is the build for this robot's version"
            ) from error
        self._closing.clear()
        self._poller = threading.Thread(target=self._poll_until_closed, name="franka", daemon=True)
        self._poller.start()
        return Capabilities(
            model="Franka",
            num_joints=_NUM_JOINTS,
            max_rate_hz=100.0,
            gripper=GripperKind.BINARY if config.has_gripper else GripperKind.NONE,
            has_controller_deadman=False,
            has_estop_readback=True,
        )

    def read(self) -> ArmState:
        """See :meth:`RobotDriver.read`."""
        self._require_link()
        if self._state is None:
            raise DriverError(f"the arm at {self._config.host} has sent no state yet; connect first")
        return self._state

    def submit(self, target: Target) -> bool:
        """See :meth:`RobotDriver.submit`."""
        robot = self._require_link()
        with self._gate.passage(target) as is_open:
            if self._faults:
                raise DriverError(f"the arm has a latched fault: {', '.join(self._faults)}; clear_fault() first")
            if not is_open or self._is_aborting:
                return False
            pose = self._franky.Affine(target.tool_pose.position_m, np.roll(target.tool_pose.quaternion_wxyz, -1))
            try:
                robot.move(self._franky.CartesianMotion(pose, self._franky.ReferenceType.Absolute), asynchronous=True)
            except Exception as error:  # as in connect
                self._faults = (f"motion rejected: {error}",)
                raise DriverError(f"the arm at {self._config.host} rejected a motion: {error}; clear_fault() first") from error
        if target.gripper_opening is not None:
            self._wanted_open = target.gripper_opening > 0.5
        return True

    def stop(self, kind: StopKind) -> None:
        """See :meth:`RobotDriver.stop`."""
        with self._gate.closing():
            robot = self._require_link()
            try:
                if kind is StopKind.HARD:
                    self._is_aborting = True
                    robot.stop()
                elif robot.is_in_control:
                    robot.move(self._franky.CartesianStopMotion(), asynchronous=True)
            except Exception as error:  # as in connect
                raise DriverError(f"the stop could not be sent to the arm at {self._config.host}: {error}") from error

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """See :meth:`RobotDriver.clear_fault`."""
        del operator, reason  # for the supervisor's log; the controller keeps none
        robot = self._require_link()
        with self._gate.closing():
            try:
                with contextlib.suppress(Exception):  # what is kept from the motion that failed
                    robot.join_motion()
                is_recovered = bool(robot.recover_from_errors())
            except Exception as error:  # as in connect
                raise DriverError(f"the fault of the arm at {self._config.host} persists: {error}") from error
            self._faults = ()
            self._poll()
        if self._faults or not is_recovered:
            self._faults = self._faults or ("the robot did not recover",)
            raise DriverError(f"the fault of the arm at {self._config.host} persists: {', '.join(self._faults)}")

    def close(self) -> None:
        """See :meth:`RobotDriver.close`."""
        if self._robot is None:
            return
        with contextlib.suppress(DriverError):  # it is down already: there is nobody to tell
            self.stop(StopKind.HOLD)
        self._closing.set()
        if self._poller is not None:
            self._poller.join()
        with contextlib.suppress(Exception):  # brake to the end; what the motion ended with is of no interest any more
            self._robot.join_motion()
        self._robot = self._gripper = None
        self._link_error = "it was closed"

    def _require_link(self) -> Any:
        if self._link_error is not None:
            raise DriverError(f"the link to the arm at {self._config.host} is down: {self._link_error}; close and connect again")
        return self._robot

    def _poll_until_closed(self) -> None:
        gripper_polled_s = -math.inf
        while not self._closing.wait(_POLL_S):
            try:
                if self._is_aborting:
                    with contextlib.suppress(Exception):  # the abort that was asked for
                        self._robot.join_motion()
                    self._is_aborting = False
                self._poll()
                if self._gripper is not None:
                    self._drive_gripper()
                    if self._clock.monotonic_s() - gripper_polled_s >= _GRIPPER_POLL_S:
                        gripper_polled_s = self._clock.monotonic_s()
                        self._gripper_opening = min(max(self._gripper.width / self._gripper.max_width, 0.0), 1.0)
            except Exception as error:  # as in connect; a supervisor that reads next is told
                self._link_error = str(error)
                return

    def _poll(self) -> None:
        state = self._robot.state
        time_ms = state.time.to_msec()
        if time_ms == self._robot_time_ms:
            return
        self._robot_time_ms = time_ms
        modes = self._franky.RobotMode
        pose = self._robot.current_cartesian_state.pose.end_effector_pose
        if state.robot_mode == modes.Reflex:
            self._faults = self._faults or ("reflex: a collision or a limit stopped the robot (mode Reflex)",)
        is_stopped = state.robot_mode == modes.UserStopped
        is_ready = state.robot_mode in (modes.Idle, modes.Move)
        mode = ArmMode.READY if is_ready else ArmMode.IDLE
        self._state = ArmState(
            time_monotonic_s=self._clock.monotonic_s(),
            joint_position_rad=np.array(state.q, dtype=np.float64),
            tool_pose=Pose(
                position_m=np.array(pose.translation).reshape(3), quaternion_wxyz=np.roll(np.array(pose.quaternion).reshape(4), 1)
            ),
            gripper_opening=self._gripper_opening,
            mode=ArmMode.ESTOP if is_stopped else ArmMode.FAULT if self._faults else mode,
            faults=("user stop is pressed",) if is_stopped else self._faults,
            is_moving=float(np.abs(state.dq).max()) > 1e-3,
        )

    def _drive_gripper(self) -> None:
        """Carry out the newest wish; a grasp holds with force, which a move to width zero would not."""
        wanted, self._wanted_open = self._wanted_open, None
        if wanted is None or wanted == self._is_open:
            return
        self._is_open = wanted
        self._gripper.stop()
        if wanted:
            self._gripper.open_async(self._config.gripper_speed_m_s)
        else:
            self._gripper.grasp_async(0.0, self._config.gripper_speed_m_s, self._config.gripper_force_n, epsilon_outer=1.0)
