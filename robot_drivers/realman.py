"""Realman RM65 and RM75: JSON lines over TCP for commands, the controller's UDP push for state.

Protocol: the vendor's "JSON protocol" pages (develop.realman-robotics.com). Integers everywhere: position 1e-6 m, quaternion 1e-6
(scalar first), joints 1e-3 degrees. Written without the vendor's closed library, whose calls report success to a dead peer.

What this controller does that a caller must know:

- ``movep_canfd`` is answered by nothing. Whether the arm lives shows in the age of the push only.
- Any motion command clears the error that stopped the arm, so a loop that keeps streaming erases the fault and drives on. The
  latch is therefore here: from the first push with an error on nothing is sent until :meth:`RealmanDriver.clear_fault`. And a
  target leaves right after a push without an error, at most every 20 ms: sent at any time, it would often overtake the push that
  reports the error, and nobody would ever see it. What is left is an error in the millisecond or two from push to target.
- It has no dead-man: when targets stop coming, the last one is held.
- The teach pendant must not be connected at the same time.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.clock import Clock, SystemClock
from core.errors import SpecError
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target
from robot_drivers.realman_link import PUSH_UNIT_S, RealmanConfig, RealmanLink
from robot_drivers.target_gate import TargetGate

_ERROR_NAMES = {
    0x1001: "joint communication lost",
    0x1002: "target over a limit",
    0x1003: "target unreachable or singular",
    0x1007: "over speed",
    0x100D: "collision",
    0x1010: "joint lost enable, or the emergency stop is pressed",
    0x1012: "self-collision",
    0x1013: "fence",
    0x1014: "soft limit",
    0x2001: "gripper communication lost",
}
_NOT_MOVING = {"idle", "stop", "slow_stop", "pause"}
_GRIPPER_PERIOD_S = 0.1
"""The gripper hangs on a slow bus behind the controller; more commands would queue there."""
_GRIPPER_POLL_S = 0.2
_TARGET_PERIOD_S = 0.02
_CLEARING_PUSHES = 5
"""How many pushes may still show an error after it was cleared: those that were under way."""


class RealmanDriver:
    """One Realman arm; a :class:`robot_drivers.driver.RobotDriver`.

    Consumes: targets; the controller's push. Produces: one line a target; states. Waits for: the controller, in ``connect`` and
    ``clear_fault`` only. ``HOLD`` and ``SLOW`` are the same command here, the controller has no third.
    """

    def __init__(self, config: RealmanConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._gate = TargetGate(self._clock)
        self._lock = threading.Lock()
        self._has_news = threading.Condition(self._lock)
        self._link: RealmanLink | None = None
        self._state: ArmState | None = None
        self._faults: tuple[str, ...] = ()
        self._waiting: Target | None = None
        self._sent_s = -math.inf
        self._gripper_opening = math.nan
        self._gripper_command = (-1, -math.inf)
        self._gripper_polled_s = -math.inf

    def connect(self) -> Capabilities:
        """See :meth:`RobotDriver.connect`. Stops the arm, and has the state pushed to here; nothing else is changed."""
        self.close()
        config = self._config
        with self._lock:
            self._state, self._waiting, self._gripper_command = None, None, (-1, -math.inf)
        link = RealmanLink(config, on_push=self._take_push, on_answer=self._take_answer)
        try:
            info = link.ask({"command": "get_arm_software_info"}, "arm_software_info")
            model = str(info.get("Product_version"))
            if not model.startswith(config.model):
                raise DriverError(
                    f"the arm at {config.host} says that it is {model!r}; expected {config.model!r}: check host and model"
                )
            link.send({"command": "set_arm_stop"})  # it may be on its way to the last target of a link that was lost
            answer = link.ask(
                {
                    "command": "set_realtime_push",
                    "cycle": round(config.state_period_s / PUSH_UNIT_S),
                    "enable": True,
                    "port": link.state_address[1],
                    "ip": link.state_address[0],
                    "custom": {"arm_current_status": True, "joint_speed": True},
                },
                "set_realtime_push",
            )
            if answer.get("state") is not True:
                raise DriverError(f"the arm at {config.host} refused to push its state: {answer}; its firmware may be too old")
            with self._has_news:
                if not self._has_news.wait_for(lambda: self._state is not None, config.timeout_s):
                    raise DriverError(
                        f"no state from {config.host} arrived at {link.state_address[0]}:{link.state_address[1]} (UDP) within "
                        f"{config.timeout_s} s: let it through this host's firewall, and give each arm a state_port of its own"
                    )
        except BaseException:
            link.close()
            raise
        self._link = link
        state = self.read()
        return Capabilities(
            model=model,
            num_joints=len(state.joint_position_rad),
            max_rate_hz=1 / _TARGET_PERIOD_S,
            gripper=GripperKind.CONTINUOUS if config.gripper == "eg2" else GripperKind.NONE,
            has_controller_deadman=False,
            has_estop_readback=False,
        )

    def read(self) -> ArmState:
        """See :meth:`RobotDriver.read`."""
        self._require_link()
        with self._lock:
            if self._state is None:
                raise DriverError(f"the arm at {self._config.host} has sent no state yet; connect first")
            return self._state

    def submit(self, target: Target) -> bool:
        """See :meth:`RobotDriver.submit`.

        Sent with the next push, unless a newer one comes before: as ``movep_canfd`` with ``follow`` false, so that the
        controller's on-line planner smooths it.
        """
        self._require_link()
        with self._gate.passage(target) as is_open:
            if self._faults:
                raise DriverError(
                    f"the arm at {self._config.host} has a latched fault: {', '.join(self._faults)}; clear_fault() first"
                )
            if is_open:
                self._waiting = target
        return is_open

    def stop(self, kind: StopKind) -> None:
        """See :meth:`RobotDriver.stop`."""
        with self._gate.closing():
            command = "set_arm_stop" if kind is StopKind.HARD else "set_arm_slow_stop"
            self._require_link().send({"command": command})

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """See :meth:`RobotDriver.clear_fault`. Sends a stop first, so that what is cleared cannot move."""
        del operator, reason  # for the supervisor's log; the controller keeps none
        self.stop(StopKind.HARD)
        link = self._require_link()
        answer = link.ask({"command": "clear_system_err"}, "clear_system_err")
        with self._has_news:
            if answer.get("clear_state") is not True or not self._is_clean_within(self._config.timeout_s):
                self._faults = self._faults or ("the controller did not confirm that the fault is cleared",)
                raise DriverError(f"the fault of the arm at {self._config.host} persists: {', '.join(self._faults)}")

    def close(self) -> None:
        """See :meth:`RobotDriver.close`."""
        link, self._link = self._link, None
        if link is None:
            return
        with self._gate.closing(), contextlib.suppress(DriverError):  # it is down already: there is nobody to tell
            link.send({"command": "set_arm_slow_stop"})
        link.close()

    def _require_link(self) -> RealmanLink:
        link = self._link
        if link is None:
            raise DriverError(f"the arm at {self._config.host} is not connected; connect first")
        link.require_up()
        return link

    def _is_clean_within(self, timeout_s: float) -> bool:
        """Unlatch, and wait for a push without an error; one that was under way when it was cleared may latch it once more."""
        for _ in range(_CLEARING_PUSHES):
            self._faults = ()
            if self._has_news.wait(timeout_s) and not self._faults:
                return True
        return False

    def _send_waiting(self) -> None:
        """From the link's thread, after a push without an error."""
        link, target, now_s = self._link, self._waiting, self._clock.monotonic_s()
        if link is None or target is None or now_s - self._sent_s < _TARGET_PERIOD_S:
            return
        with self._gate.sending(target) as is_current, contextlib.suppress(DriverError):  # the next read says so
            if self._waiting is target:
                self._waiting = None
            if not is_current or self._faults:
                return
            pose = np.concatenate([target.tool_pose.position_m, target.tool_pose.quaternion_wxyz])
            link.send(
                {
                    "command": "movep_canfd",
                    "pose_quat": np.rint(pose * 1e6).astype(int).tolist(),
                    "follow": False,
                    "trajectory_mode": 0,
                    "radio": 0,
                }
            )
            self._sent_s = now_s
            self._send_gripper(link, target.gripper_opening)

    def _send_gripper(self, link: RealmanLink, opening: float | None) -> None:
        if opening is None or self._config.gripper == "none":
            return
        position = max(1, round(min(max(opening, 0.0), 1.0) * 1000))
        last, sent_s = self._gripper_command
        now_s = self._clock.monotonic_s()
        if position != last and now_s - sent_s >= _GRIPPER_PERIOD_S:
            link.send({"command": "set_gripper_position", "position": position, "block": False})
            self._gripper_command = position, now_s

    def _poll_gripper(self) -> None:
        link, now_s = self._link, self._clock.monotonic_s()
        if link is None or self._config.gripper == "none" or now_s - self._gripper_polled_s < _GRIPPER_POLL_S:
            return
        self._gripper_polled_s = now_s
        with contextlib.suppress(DriverError):  # the next read says so
            link.send({"command": "get_gripper_state"})

    def _take_push(self, push: Mapping[str, Any]) -> None:
        """From the link's thread. What cannot be read is no news: the state then grows old, and that is noticed."""
        try:
            faults = _faults(push)
            joints = np.radians(np.array(push["joint_status"]["joint_position"], dtype=np.float64) * 1e-3)
            pose = Pose(
                position_m=np.array(push["waypoint"]["position"], dtype=np.float64) * 1e-6,
                quaternion_wxyz=np.array(push["waypoint"]["quat"], dtype=np.float64) * 1e-6,
            )
            is_enabled = all(push["joint_status"]["joint_en_flag"])
            is_moving = _is_moving(push)
        except (KeyError, TypeError, ValueError, SpecError):
            return
        is_new_fault = False
        with self._has_news:
            if faults and not self._faults:
                self._faults, is_new_fault = faults, True
            self._state = ArmState(
                time_monotonic_s=self._clock.monotonic_s(),
                joint_position_rad=joints,
                tool_pose=pose,
                gripper_opening=self._gripper_opening,
                mode=ArmMode.FAULT if self._faults else ArmMode.READY if is_enabled else ArmMode.IDLE,
                faults=self._faults,
                is_moving=is_moving,
            )
            self._has_news.notify_all()
        if is_new_fault and self._link is not None:
            # A target that was under way when the fault came has cleared it in the controller, and moves the arm.
            with contextlib.suppress(DriverError):  # the next read says so
                self.stop(StopKind.HARD)
        self._send_waiting()
        self._poll_gripper()

    def _take_answer(self, answer: Mapping[str, Any]) -> None:
        if answer.get("command") == "get_gripper_state" and isinstance(answer.get("actpos"), int):
            self._gripper_opening = min(max(answer["actpos"] / 1000, 0.0), 1.0)


def _faults(push: Mapping[str, Any]) -> tuple[str, ...]:
    """In words. Generation 3 has two numbers; generation 4 a number, or a list of numbers or hexadecimal strings."""
    found: list[str] = []
    for key in ("arm_err", "sys_err", "err"):
        value = push.get(key, 0)
        value = value.get("err", 0) if isinstance(value, dict) else value
        for code in value if isinstance(value, list) else [value]:
            number = int(code, 16) if isinstance(code, str) else int(code)
            if number:
                found.append(f"{_ERROR_NAMES.get(number, 'controller error')} (0x{number:04X})")
    for joint, code in enumerate(push["joint_status"]["joint_err_code"], start=1):
        if code:
            found.append(f"joint {joint} (0x{int(code):04X})")
    return tuple(found)


def _is_moving(push: Mapping[str, Any]) -> bool:
    speeds = push["joint_status"].get("joint_speed")
    if speeds is not None:
        return any(speeds)
    return push.get("arm_current_status", "idle") not in _NOT_MOVING
