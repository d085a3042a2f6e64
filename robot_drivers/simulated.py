"""A simulated arm: SIMPLER's robots stepping in real time (:mod:`envs.simulated_arm`), or the kinematic one of the emulators.

The simulation is a process of its own, as a real controller is a computer of its own: physics and rendering may take their time
without making the supervisor's ticks late, and the stack cannot tell the difference. Its protocol is
:mod:`robot_drivers.emulators.simulated`. Like a Realman it has no dead-man: the last target is held.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.clock import Clock, SystemClock
from core.errors import ConfigError, SpecError
from robot_drivers.driver import ArmMode, ArmState, Capabilities, DriverError, GripperKind, Pose, StopKind, Target
from robot_drivers.json_lines import JsonLines
from robot_drivers.target_gate import TargetGate

PROTOCOL_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig:
    """Where the simulation is and which robot it is expected to be."""

    host: str
    port: int
    model: str
    """For example "google_robot_static"."""
    timeout_s: float = 1.0
    """For an answer, where there is one to wait for."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; expected a positive number of seconds")


class SimulatedDriver:
    """One simulated arm; a :class:`robot_drivers.driver.RobotDriver`.

    Consumes: targets; the controller's reports. Produces: one line a target; states. Waits for: the controller, in ``connect``
    and ``clear_fault`` only. ``HOLD`` and ``SLOW`` brake within the arm's acceleration, ``HARD`` faster.
    """

    def __init__(self, config: SimulatedConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._gate = TargetGate(self._clock)
        self._has_news = threading.Condition()
        self._lines: JsonLines | None = None
        self._state: ArmState | None = None
        self._state_time_s = -np.inf
        self._fault: str | None = None

    def connect(self) -> Capabilities:
        """See :meth:`RobotDriver.connect`. Stops the arm."""
        self.close()
        config = self._config
        with self._has_news:
            self._state, self._state_time_s = None, -np.inf
        lines = JsonLines(config.host, config.port, timeout_s=config.timeout_s, on_message=self._take)
        lines.start()
        try:
            answer = lines.ask({"command": "hello", "report": True}, "hello")
            if answer.get("version") != PROTOCOL_VERSION or answer.get("model") != config.model:
                raise DriverError(
                    f"{config.host}:{config.port} says that it is {answer.get('model')!r}, protocol {answer.get('version')}; "
                    f"expected {config.model!r}, protocol {PROTOCOL_VERSION}"
                )
            lines.send({"command": "stop", "is_hard": True})  # it may be on its way to the last target of a link that was lost
            with self._has_news:
                if not self._has_news.wait_for(lambda: self._state is not None, config.timeout_s):
                    raise DriverError(f"{config.host}:{config.port} reported nothing within {config.timeout_s} s; is it frozen?")
        except BaseException:
            lines.close()
            raise
        self._lines = lines
        return Capabilities(
            model=config.model,
            num_joints=len(self.read().joint_position_rad),
            max_rate_hz=100.0,
            gripper=GripperKind.CONTINUOUS,
            has_controller_deadman=False,
            has_estop_readback=True,
        )

    def read(self) -> ArmState:
        """See :meth:`RobotDriver.read`."""
        self._require_link()
        with self._has_news:
            if self._state is None:
                raise DriverError(f"{self._config.host}:{self._config.port} has reported nothing yet; connect first")
            return self._state

    def submit(self, target: Target) -> bool:
        """See :meth:`RobotDriver.submit`."""
        lines = self._require_link()
        with self._gate.passage(target) as is_open:
            if self._fault is not None:
                raise DriverError(f"the simulated arm has a latched fault: {self._fault}; clear_fault() first")
            if is_open:
                lines.send(
                    {
                        "command": "move",
                        "position_m": target.tool_pose.position_m.tolist(),
                        "quaternion_wxyz": target.tool_pose.quaternion_wxyz.tolist(),
                        "gripper_opening": target.gripper_opening,
                        "generation": target.generation,
                        "sequence": target.sequence,
                    }
                )
        return is_open

    def stop(self, kind: StopKind) -> None:
        """See :meth:`RobotDriver.stop`."""
        with self._gate.closing():
            self._require_link().send({"command": "stop", "is_hard": kind is StopKind.HARD})

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """See :meth:`RobotDriver.clear_fault`."""
        del operator, reason  # for the supervisor's log; the controller keeps none
        self.stop(StopKind.HARD)
        answer = self._require_link().ask({"command": "clear"}, "clear")
        if answer.get("is_clear") is not True:
            raise DriverError(f"the fault of the simulated arm persists: {self._fault}")
        with self._has_news:  # reports keep their order: the next one was made after the answer
            self._fault = None
            is_clean = self._has_news.wait(self._config.timeout_s) and self._fault is None
        if not is_clean:
            raise DriverError(f"the simulated arm did not report that its fault is gone within {self._config.timeout_s} s")

    def close(self) -> None:
        """See :meth:`RobotDriver.close`."""
        lines, self._lines = self._lines, None
        if lines is None:
            return
        with self._gate.closing(), contextlib.suppress(DriverError):  # it is down already: there is nobody to tell
            lines.send({"command": "stop", "is_hard": False})
        lines.close()

    def _require_link(self) -> JsonLines:
        lines = self._lines
        if lines is None:
            raise DriverError(f"the simulated arm at {self._config.host}:{self._config.port} is not connected; connect first")
        lines.require_up()
        return lines

    def _take(self, message: Mapping[str, Any]) -> None:
        """From the link's thread. What cannot be read is no news: the state then grows old, and that is noticed."""
        try:
            report = message["report"]
            time_s, fault, is_estop_pressed = float(report["time_s"]), report["fault"], bool(report["is_estop_pressed"])
            state = ArmState(
                time_monotonic_s=self._clock.monotonic_s(),
                joint_position_rad=np.array(report["joints_rad"], dtype=np.float64),
                tool_pose=Pose(
                    position_m=np.array(report["position_m"], dtype=np.float64),
                    quaternion_wxyz=np.array(report["quaternion_wxyz"], dtype=np.float64),
                ),
                gripper_opening=min(1.0, max(0.0, float(report["gripper_opening"]))),
                mode=ArmMode.READY,
                is_moving=bool(report["is_moving"]),
            )
        except (KeyError, TypeError, ValueError, SpecError):
            return
        with self._has_news:
            if time_s <= self._state_time_s:
                return
            self._state_time_s = time_s
            self._fault = self._fault if fault is None else str(fault)
            if self._fault is not None:
                mode = ArmMode.ESTOP if is_estop_pressed else ArmMode.FAULT
                state = replace(state, mode=mode, faults=(self._fault,))
            self._state = state
            self._has_news.notify_all()
