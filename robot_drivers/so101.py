"""SO-100 and SO-101 (five joints and a gripper) through LeRobot's motor bus and kinematics (``lerobot`` 0.4, extra ``so101``).

Written from LeRobot's source; tested against a stand-in of the calls that it uses; not run on an arm. LeRobot's ``Robot`` class
is left out: its ``connect`` may ask at the terminal, and its torque goes off on disconnect, which drops the arm.

What an arm without a controller means:

- Five joints reach a position and two of the three rotations. The inverse kinematics weighs the position; what is left over of
  the rotation is ignored, what is left over of the position is a fault.
- There is no protective stop and no dead-man. All stops are the same: the goal becomes the present position, torque stays on.
- The bus is half duplex and one thread's. ``stop`` ends the generation at once, and the bus thread carries it out with its next
  round, before any target.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import ConfigError
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target
from robot_drivers.so101_kinematics import GRIPPER, JOINTS, SO101Kinematics
from robot_drivers.target_gate import TargetGate

_PERIOD_S = 0.02
_MOVING_RAD = 0.005


@dataclass(frozen=True, kw_only=True)
class SO101Config:
    """Where the arm is, and what its kinematics may do."""

    port: str
    """Serial device, best /dev/serial/by-id/..."""
    calibration: Path
    """As ``lerobot-calibrate`` wrote it."""
    urdf: Path
    """Of the arm with the frame ``gripper_frame_link``."""
    max_joint_step_rad: float
    """A target further than that from the present joints is a fault: the servos would go there at full speed."""
    max_position_error_m: float = 0.01
    """How far from a target the nearest reachable position may lie."""

    def __post_init__(self) -> None:
        for name in ("max_joint_step_rad", "max_position_error_m"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive number")


class SO101Driver:
    """One SO-100 or SO-101 follower arm; a :class:`robot_drivers.driver.RobotDriver`.

    Consumes: targets. Produces: joint goals, 50 times a second; states. Waits for: the bus, in ``connect`` only.
    """

    def __init__(self, config: SO101Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._gate = TargetGate(self._clock)
        self._bus: Any = None
        self._kinematics: Any = None
        self._worker: threading.Thread | None = None
        self._closing = threading.Event()
        self._target: Target | None = None
        self._must_hold = False
        self._state: ArmState | None = None
        self._faults: tuple[str, ...] = ()
        self._link_error: str | None = "it was never opened"

    def connect(self) -> Capabilities:
        """See :meth:`RobotDriver.connect`. The goal is set to where the arm is before the torque goes on, so nothing moves."""
        try:
            from lerobot.motors import Motor, MotorCalibration, MotorNormMode
            from lerobot.motors.feetech import FeetechMotorsBus
        except ImportError as error:
            raise DriverError("an SO-101 needs LeRobot: pip install 'viva-recap[so101]'") from error
        self.close()
        with self._gate.closing():  # what was under way before is over
            pass
        config = self._config
        try:
            records = json.loads(config.calibration.read_text())
            calibration = {name: MotorCalibration(**records[name]) for name in (*JOINTS, GRIPPER)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DriverError(
                f"the calibration {config.calibration} cannot be used: {error!r}; make one with lerobot-calibrate"
            ) from error
        motors = {name: Motor(number, "sts3215", MotorNormMode.DEGREES) for number, name in enumerate(JOINTS, start=1)}
        motors[GRIPPER] = Motor(len(JOINTS) + 1, "sts3215", MotorNormMode.RANGE_0_100)
        bus: Any = FeetechMotorsBus(port=config.port, motors=motors, calibration=calibration)
        try:
            self._kinematics = SO101Kinematics(config.urdf)
            bus.connect()
            if not bus.is_calibrated:
                raise DriverError(
                    f"the motors at {config.port} are calibrated otherwise than {config.calibration}: lerobot-calibrate"
                )
            bus.sync_write("Goal_Position", bus.sync_read("Present_Position"))
            bus.enable_torque()
            self._bus, self._link_error, self._target, self._must_hold, self._state = bus, None, None, False, None
            self._read_bus()
        except DriverError:
            self._let_go(bus)
            raise
        except Exception as error:  # LeRobot raises ConnectionError, RuntimeError, and what the serial port raises
            self._let_go(bus)
            raise DriverError(f"no SO-101 at {config.port}: {error}; check power, cable and port") from error
        self._closing.clear()
        self._worker = threading.Thread(target=self._work, name="so101", daemon=True)
        self._worker.start()
        return Capabilities(
            model="SO-101",
            num_joints=len(JOINTS),
            max_rate_hz=1 / _PERIOD_S,
            gripper=GripperKind.CONTINUOUS,
            has_controller_deadman=False,
            has_estop_readback=False,
        )

    def read(self) -> ArmState:
        """See :meth:`RobotDriver.read`."""
        self._require_link()
        if self._state is None:
            raise DriverError(f"the arm at {self._config.port} has given no state yet; connect first")
        return self._state

    def submit(self, target: Target) -> bool:
        """See :meth:`RobotDriver.submit`. One that is still waiting for the bus is replaced."""
        self._require_link()
        with self._gate.passage(target) as is_open:
            if self._faults:
                raise DriverError(
                    f"the arm at {self._config.port} has a latched fault: {', '.join(self._faults)}; clear_fault() first"
                )
            if is_open:
                self._target = target
            return is_open

    def stop(self, kind: StopKind) -> None:
        """See :meth:`RobotDriver.stop`."""
        del kind
        with self._gate.closing():
            self._require_link()
            self._target, self._must_hold = None, True

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """See :meth:`RobotDriver.clear_fault`."""
        del operator, reason  # for the supervisor's log; there is no controller to keep them
        self.stop(StopKind.HOLD)
        self._faults = ()

    def close(self) -> None:
        """See :meth:`RobotDriver.close`. The torque stays on: without it the arm would drop."""
        if self._bus is None:
            return
        with self._gate.closing():
            self._target, self._must_hold = None, True
        self._closing.set()
        if self._worker is not None:
            self._worker.join()
        self._let_go(self._bus)
        self._bus, self._link_error = None, "it was closed"

    def _require_link(self) -> None:
        if self._link_error is not None:
            raise DriverError(f"the link to the arm at {self._config.port} is down: {self._link_error}; close and connect again")

    def _let_go(self, bus: Any) -> None:
        if bus.is_connected:
            bus.disconnect(disable_torque=False)

    def _work(self) -> None:
        try:
            while not self._closing.wait(_PERIOD_S):
                self._round()
            self._round()
        except Exception as error:  # as in connect; a supervisor that reads next is told
            self._link_error = str(error)

    def _round(self) -> None:
        present = self._read_bus()
        if self._must_hold:
            self._must_hold = False
            self._bus.sync_write("Goal_Position", {name: present[name] for name in JOINTS})
        target = self._target
        if target is None or not self._gate.is_current(target) or self._faults:
            return
        goal = self._solve(np.array([present[name] for name in JOINTS]), target.tool_pose)
        if goal is None:
            return
        positions = dict(zip(JOINTS, goal.tolist(), strict=True))
        if target.gripper_opening is not None:
            positions[GRIPPER] = 100 * min(max(target.gripper_opening, 0.0), 1.0)
        with self._gate.sending(target) as is_current:
            if is_current:
                self._bus.sync_write("Goal_Position", positions)

    def _solve(self, present_deg: NDArray[np.float64], pose: Pose) -> NDArray[np.float64] | None:
        """Joint angles [5], degrees; None after latching a fault."""
        goal, error_m = self._kinematics.joints_near(present_deg, pose)
        step_rad = float(np.abs(np.radians(goal - present_deg)).max())
        if error_m > self._config.max_position_error_m:
            self._faults = (f"target unreachable: {error_m * 1000:.1f} mm are left",)
        elif step_rad > self._config.max_joint_step_rad:
            self._faults = (f"target too far: a joint would step {step_rad:.2f} rad",)
        else:
            return goal
        self._must_hold = True
        return None

    def _read_bus(self) -> dict[str, float]:
        present: dict[str, float] = self._bus.sync_read("Present_Position")
        time_s = self._clock.monotonic_s()
        joints_deg = np.array([present[name] for name in JOINTS])
        joints_rad = np.radians(joints_deg)
        last = self._state
        self._state = ArmState(
            time_monotonic_s=time_s,
            joint_position_rad=joints_rad,
            tool_pose=self._kinematics.tool_pose(joints_deg),
            gripper_opening=min(max(present[GRIPPER] / 100, 0.0), 1.0),
            mode=ArmMode.FAULT if self._faults else ArmMode.READY,
            faults=self._faults,
            is_moving=last is not None and float(np.abs(joints_rad - last.joint_position_rad).max()) > _MOVING_RAD,
        )
        return present
