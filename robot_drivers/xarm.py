"""UFACTORY xArm 6 and 7, Lite 6, 850: through the vendor's Python SDK (``xarm-python-sdk``, extra ``xarm``).

Targets go out in mode 7 (``set_position(wait=False)``: re-planned on line, speed and acceleration honoured), as the vendor
advises for targets at 3 to 10 Hz and more (xArm-Python-SDK issue 77). Mode 1 would ignore both.

What the SDK does that shapes this file:

- A call to a frozen controller blocks for 2 to 10 s. So the SDK is called on a thread of its own, which takes the newest target
  only; and a stop has a connection of its own, on which one frame is sent without waiting.
- The controller in state 4 ignores motion. A stop sets state 4, and only this file's thread leaves it again, for a target of a
  newer generation: a target that was under way when the stop came is void whichever of the two arrives first.
"""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from core.clock import Clock, SystemClock
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target
from robot_drivers.target_gate import TargetGate
from robot_drivers.xarm_link import XArmConfig, XArmLink

_TARGET_MODE = 7
_STOPPED = 4
_ESTOP_ERRORS = {1, 2, 3}
_GRIPPER_PULSES = 850
_ERROR_POLL_S = 0.1
_HAS_ERROR = 1
_UNCLEARED = {1, 2}
"""Carried out, and there still is an error or a warning, which is read next."""
_STOPPED_MEANWHILE = {0, 3, 9, -2}
"""No error of a target: taken; no answer in time, which the report's age shows; not ready, because a stop came first."""


class XArmDriver:
    """One xArm; a :class:`robot_drivers.driver.RobotDriver`.

    Consumes: targets; the 100 Hz report. Produces: SDK calls on a thread of its own; states. Waits for: the controller, in
    ``connect`` and ``clear_fault`` only. Every stop is state 4: it has no gentler one that also forgets the target.
    """

    def __init__(self, config: XArmConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._gate = TargetGate(self._clock)
        self._wake = threading.Condition()
        self._target: Target | None = None
        self._link: XArmLink | None = None
        self._armed_generation = -1
        self._report: tuple[float, list[float], list[float], int] | None = None
        self._faults: tuple[str, ...] = ()
        self._has_estop = False
        self._gripper_opening = math.nan
        self._gripper_pulses = -1

    def connect(self) -> Capabilities:
        """See :meth:`RobotDriver.connect`. Stops the arm, sets the fence, and powers the joints if there is no error."""
        self.close()
        self._report, self._armed_generation, self._gripper_pulses = None, -1, -1
        link = XArmLink(self._config, on_report=self._take_report)
        try:
            axes = link.sdk.axis
            if axes != self._config.num_joints:
                raise DriverError(
                    f"the arm at {self._config.host} has {axes} joints; expected {self._config.num_joints}: check host"
                )
            link.sdk.set_state(_STOPPED)
            self._poll_error(link)
            self._set_fence(link)
            if not self._faults:
                link.check("motion_enable", link.sdk.motion_enable(True))
            if not link.has_report.wait(self._config.timeout_s):
                raise DriverError(f"no report from {self._config.host}:30003 within {self._config.timeout_s} s")
        except BaseException:
            link.close()
            raise
        self._link = link
        link.worker = threading.Thread(target=self._work, args=(link,), name="xarm", daemon=True)
        link.worker.start()
        return Capabilities(
            model=f"xArm {axes} (firmware {'.'.join(map(str, link.sdk.version_number))})",
            num_joints=axes,
            max_rate_hz=100.0,
            gripper=GripperKind.CONTINUOUS if self._config.has_gripper else GripperKind.NONE,
            has_controller_deadman=False,
            has_estop_readback=True,
        )

    def read(self) -> ArmState:
        """See :meth:`RobotDriver.read`."""
        self._require_link()
        if self._report is None:
            raise DriverError(f"the arm at {self._config.host} has sent no report yet; connect first")
        time_s, joints, pose, state = self._report
        faults = self._faults
        return ArmState(
            time_monotonic_s=time_s,
            joint_position_rad=np.array(joints[: self._config.num_joints]),
            tool_pose=Pose(
                position_m=np.array(pose[:3]) / 1000,
                quaternion_wxyz=Rotation.from_euler("xyz", pose[3:]).as_quat(scalar_first=True),
            ),
            gripper_opening=self._gripper_opening,
            mode=ArmMode.ESTOP if self._has_estop else ArmMode.FAULT if faults else ArmMode.READY,
            faults=faults,
            is_moving=state == 1,
        )

    def submit(self, target: Target) -> bool:
        """See :meth:`RobotDriver.submit`. Hands the target to the thread; one that was still waiting there is replaced."""
        self._require_link()
        with self._gate.passage(target) as is_open:
            if self._faults:
                raise DriverError(
                    f"the arm at {self._config.host} has a latched fault: {', '.join(self._faults)}; clear_fault() first"
                )
            if not is_open:
                return False
            with self._wake:
                self._target = target
                self._wake.notify()
        return True

    def stop(self, kind: StopKind) -> None:
        """See :meth:`RobotDriver.stop`."""
        del kind
        with self._gate.closing():
            self._require_link().send_stop()

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """See :meth:`RobotDriver.clear_fault`."""
        del operator, reason  # for the supervisor's log; the controller keeps none
        self.stop(StopKind.HARD)
        link = self._require_link()
        with link.calling:
            code = link.sdk.clean_error()
            if code not in _UNCLEARED:
                link.check("clean_error", code)
            self._faults, self._has_estop = (), False
            self._poll_error(link)
            if not self._faults:
                link.check("motion_enable", link.sdk.motion_enable(True))
                self._poll_error(link)
        if self._faults:
            raise DriverError(f"the fault of the arm at {self._config.host} persists: {', '.join(self._faults)}")

    def close(self) -> None:
        """See :meth:`RobotDriver.close`."""
        link, self._link = self._link, None
        if link is None:
            return
        with self._gate.closing(), contextlib.suppress(DriverError):  # it is down already: there is nobody to tell
            link.send_stop()
        with self._wake:
            self._target = None
            self._wake.notify()
        link.close()

    def _require_link(self) -> XArmLink:
        link = self._link
        if link is None:
            raise DriverError(f"the arm at {self._config.host} is not connected; connect first")
        if not link.is_up:
            raise DriverError(f"the link to the arm at {self._config.host} is down; close and connect again")
        return link

    def _take_report(self, report: dict[str, Any]) -> None:
        """From the SDK's thread."""
        self._report = self._clock.monotonic_s(), report["joints"], report["cartesian"], report["state"]

    def _work(self, link: XArmLink) -> None:
        polled_s = -math.inf
        while self._link is link and link.is_up:
            with self._wake:
                if self._target is None:
                    self._wake.wait(_ERROR_POLL_S)
                target, self._target = self._target, None
            with link.calling:
                try:
                    if target is not None and self._gate.is_current(target):
                        self._send(link, target)
                    if self._clock.monotonic_s() - polled_s >= _ERROR_POLL_S:
                        polled_s = self._clock.monotonic_s()
                        self._poll(link)
                except Exception as error:  # DriverError, and whatever the SDK raises: without this thread nothing moves again
                    if self._link is link:
                        self._faults = self._faults or (str(error),)

    def _send(self, link: XArmLink, target: Target) -> None:
        if target.generation != self._armed_generation:
            self._arm(link)
            self._armed_generation = target.generation
            if not self._gate.is_current(target):  # stopped while it was being armed
                return
        x, y, z = target.tool_pose.position_m * 1000
        roll, pitch, yaw = Rotation.from_quat(target.tool_pose.quaternion_wxyz, scalar_first=True).as_euler("xyz")
        code = link.sdk.set_position(
            *(float(value) for value in (x, y, z, roll, pitch, yaw)),
            speed=self._config.max_speed_m_s * 1000,
            mvacc=self._config.max_acceleration_m_s2 * 1000,
            is_radian=True,
            wait=False,
        )
        if code == _HAS_ERROR:
            self._poll_error(link)
        elif code not in _STOPPED_MEANWHILE:
            link.check("set_position", code)
        if target.gripper_opening is not None and self._config.has_gripper:
            pulses = round(min(max(target.gripper_opening, 0.0), 1.0) * _GRIPPER_PULSES)
            if pulses != self._gripper_pulses:
                self._gripper_pulses = pulses
                link.check("set_gripper_position", link.sdk.set_gripper_position(pulses, wait=False, no_check=True))

    def _arm(self, link: XArmLink) -> None:
        if not link.stop_line.settle():
            raise DriverError("the controller does not answer on the connection for stops")
        link.check("set_mode", link.sdk.set_mode(_TARGET_MODE))
        link.check("set_state", link.sdk.set_state(0))
        if self._config.has_gripper and self._gripper_pulses < 0:
            link.check("set_gripper_enable", link.sdk.set_gripper_enable(True))
            link.check("set_gripper_mode", link.sdk.set_gripper_mode(0))

    def _poll(self, link: XArmLink) -> None:
        self._poll_error(link)
        link.stop_line.probe()
        if self._config.has_gripper:
            code, pulses = link.sdk.get_gripper_position()
            if code == 0 and pulses is not None:
                self._gripper_opening = min(max(pulses / _GRIPPER_PULSES, 0.0), 1.0)

    def _poll_error(self, link: XArmLink) -> None:
        code, found = link.sdk.get_err_warn_code()  # without a connection, `found` is a text
        error = found[0] if code == 0 else 0
        if error and self._link in (link, None):
            self._has_estop = self._has_estop or error in _ESTOP_ERRORS
            self._faults = (f"{link.error_title(error)} (C{error})",)

    def _set_fence(self, link: XArmLink) -> None:
        if self._config.fence_m is None:
            return
        boundary = [round(limit * 1000) for low, high in self._config.fence_m for limit in (high, low)]
        link.check("set_reduced_tcp_boundary", link.sdk.set_reduced_tcp_boundary(boundary))
        link.check("set_fence_mode", link.sdk.set_fence_mode(True)[0])
