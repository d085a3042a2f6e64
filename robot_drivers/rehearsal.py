"""One rehearsed incident: an operator drives an emulated arm, something happens, and the arm's own log says when it stood.

Everything between hand and arm is real: the supervisor, its threads, the driver, the vendor's protocol on sockets, real time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.clock import SystemClock
from core.errors import RecapError
from robot_drivers import messages as m
from robot_drivers.arm_link import ArmLink
from robot_drivers.driver import RobotDriver
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated import PatternScene, SimulatedController
from robot_drivers.emulators.simulated_arm import ArmEvent, MotionSample, SimulatedArm
from robot_drivers.emulators.xarm import HOME_RAD, XArmController
from robot_drivers.limits import Box, RobotConfig
from robot_drivers.realman import RealmanDriver
from robot_drivers.realman_link import RealmanConfig
from robot_drivers.simulated import SimulatedConfig, SimulatedDriver
from robot_drivers.states import Role, State
from robot_drivers.supervision import Supervision
from robot_drivers.supervisor import keep_time
from robot_drivers.xarm import XArmDriver
from robot_drivers.xarm_link import XArmConfig

SPEED_M_S = 0.05
OPERATOR_CAUSES = ("stop", "release", "silence")
"""What an operator does: presses stop, lets go, says nothing any more. Any other cause is a fault that is injected."""
_DRIVE_S, _WATCH_S, _INPUT_S, _PATIENCE_S, _JOIN_S = 0.8, 1.2, 0.05, 10.0, 5.0
_STANDING_M_S = 1e-3
_XARM_PORT = 15502


class BusyError(RecapError, RuntimeError):
    """This computer did not keep the supervisor's ticks, or the hand's input, so there is nothing to measure."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A driver, and the emulated arm behind it."""

    name: str
    driver: RobotDriver
    emulator: Emulator


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """To one cause, once. Times are from the cause, in seconds; NaN for what did not happen."""

    state: State
    """That followed; the one before, if nothing changed."""
    noticed_s: float
    """Until the supervisor changed its state."""
    stopped_by: str
    """The first stop or fault in the arm's log after the cause: "stop hard", "fault collision"; "" if there is none."""
    told_s: float
    """Until that, by the arm's clock."""
    standing_s: float
    """Until the arm's last movement, by its own log."""
    path_m: float
    """That the tool still went."""

    @classmethod
    def read_from(
        cls,
        *,
        caused_s: float,
        states: Sequence[tuple[float, State]],
        events: Sequence[ArmEvent],
        samples: Sequence[MotionSample],
        final: State,
    ) -> Reaction:
        """Read it from what was logged from the cause on.

        Args:
            caused_s: when it happened.
            states: that the supervisor went to, with times.
            events: of the arm.
            samples: of the arm, the last one at the end of watching.
            final: the supervisor's state then.
        """
        stops = [event for event in events if event.name in ("stop", "fault")]
        positions = np.array([sample.position_m for sample in samples])
        moving_s = [sample.time_s for sample in samples if sample.speed_m_s > _STANDING_M_S]
        return cls(
            state=states[0][1] if states else final,
            noticed_s=states[0][0] - caused_s if states else math.nan,
            stopped_by=f"{stops[0].name} {stops[0].detail}" if stops else "",
            told_s=stops[0].time_s - caused_s if stops else math.nan,
            standing_s=math.nan if final.moves else max([caused_s, *moving_s]) - caused_s,
            path_m=float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()),
        )


class Rehearsal:
    """A supervisor with its threads, one arm, and a hand on the key."""

    def __init__(self, config: RobotConfig, subject: Subject) -> None:
        here = subject.emulator.pose().position_m
        box = Box(low_m=tuple((here - 0.25).tolist()), high_m=tuple((here + 0.25).tolist()))
        arm = config.arms[0]
        limits = dataclasses.replace(arm.limits, box=box, keep_out=(), cone_half_angle_rad=math.pi)
        config = dataclasses.replace(config, arms=(dataclasses.replace(arm, limits=limits),))
        self._subject = subject
        self._clock = SystemClock()
        self._link = ArmLink(arm.name, subject.driver, self._clock)
        self._changes: list[tuple[float, State]] = []
        self._supervision = Supervision(config, [self._link], self._clock, self._notice)
        self._over = threading.Event()
        self._sequence = 0
        self._ticker = threading.Thread(
            target=keep_time,
            args=(self._supervision.tick,),
            kwargs={"clock": self._clock, "period_s": 1 / config.tick_hz, "wait_s": self._over.wait},
            daemon=True,
        )
        self._link.start()
        self._ticker.start()

    def measure(self, cause: str) -> Reaction:
        """Drive, let the cause happen, watch.

        Args:
            cause: one of ``OPERATOR_CAUSES``, or a fault of :class:`robot_drivers.emulators.emulator.Fault`.

        Raises:
            BusyError: if the supervisor held before the cause.
            RecapError: if a request was refused.
        """
        self._await(State.DISARMED)
        person = {"request_id": 0, "operator": "rehearsal"}
        self._ask(m.Arm(role=Role.OPERATE, **person))  # type: ignore[arg-type]
        fence = self._ask(m.Acquire(role=Role.OPERATE, **person)).fence or 0  # type: ignore[arg-type]
        self._push(fence, until_s=self._clock.monotonic_s() + _DRIVE_S)
        if self._supervision.state is not State.HUMAN:
            raise BusyError(f"{self._subject.name}: {self._supervision.state.value} before {cause}; is this computer busy?")
        caused_s = self._clock.monotonic_s()
        self._cause(cause, fence)
        if cause == "silence":
            self._clock.sleep_s(_WATCH_S)
        else:
            self._push(fence, until_s=caused_s + _WATCH_S)  # the hand does not know yet
        final = self._supervision.state
        return Reaction.read_from(
            caused_s=caused_s,
            states=[(time_s, state) for time_s, state in self._changes if time_s >= caused_s],
            events=self._subject.emulator.events(caused_s),
            samples=self._subject.emulator.samples(caused_s),
            final=final,
        )

    def close(self) -> None:
        """Stop and let go."""
        self._supervision.shut_down("the rehearsal ends")
        self._over.set()
        self._ticker.join(_JOIN_S)
        self._link.close()

    def _cause(self, cause: str, fence: int) -> None:
        if cause == "stop":
            self._ask(m.Stop(request_id=0, operator="rehearsal"))
        elif cause == "release":
            self._ask(m.Release(request_id=0, fence=fence))
        elif cause != "silence":
            self._subject.emulator.inject(cause)

    def _push(self, fence: int, *, until_s: float) -> None:
        """Hold the stick, for as long as it has control."""
        while (now_s := self._clock.monotonic_s()) < until_s:
            if self._supervision.state is State.HUMAN:
                self._sequence += 1
                hand = m.HumanInput(
                    request_id=0,
                    fence=fence,
                    sequence=self._sequence,
                    age_s=0.0,
                    twist=((0.0, SPEED_M_S, 0.0, 0.0, 0.0, 0.0),),
                    gripper_opening=(None,),
                )
                self._supervision.handle(hand, role=Role.OPERATE)
            self._clock.sleep_s(min(_INPUT_S, until_s - now_s))

    def _ask(self, request: m.Request) -> m.Reply:
        reply = self._supervision.handle(request, role=Role.OPERATE)
        if not reply.ok:
            raise RecapError(f"{self._subject.name}: {reply.error}")
        return reply

    def _await(self, state: State) -> None:
        deadline_s = self._clock.monotonic_s() + _PATIENCE_S
        while self._supervision.state is not state:
            if self._clock.monotonic_s() > deadline_s:
                raise RecapError(
                    f"{self._subject.name}: still {self._supervision.state.value} after {_PATIENCE_S} s: {self._link.error}"
                )
            self._clock.sleep_s(_INPUT_S)

    def _notice(self, telemetry: m.Status | m.Step | m.Event) -> None:
        if isinstance(telemetry, m.Event) and telemetry.kind == "state":
            self._changes.append((telemetry.time_monotonic_s, self._supervision.state))


@contextlib.contextmanager
def _realman() -> Iterator[Subject]:
    with Emulator(RealmanController(host="127.0.0.1", port=0, generation=3)) as emulator:
        config = RealmanConfig(host="127.0.0.1", port=emulator.port, state_port=0, model="RM75", gripper="eg2")
        yield Subject(name="realman", driver=RealmanDriver(config), emulator=emulator)


@contextlib.contextmanager
def _xarm() -> Iterator[Subject]:
    with Emulator(XArmController(host="127.0.0.1", port=_XARM_PORT)) as emulator:
        config = XArmConfig(
            host="127.0.0.1", port=_XARM_PORT, num_joints=7, max_speed_m_s=0.25, max_acceleration_m_s2=2.0, has_gripper=True
        )
        yield Subject(name="xarm", driver=XArmDriver(config), emulator=emulator)


@contextlib.contextmanager
def _simulated() -> Iterator[Subject]:
    arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic())
    controller = SimulatedController(arm, PatternScene(), host="127.0.0.1", port=0, camera_port=0, model="kinematic")
    with Emulator(controller) as emulator:
        config = SimulatedConfig(host="127.0.0.1", port=emulator.port, model="kinematic")
        yield Subject(name="simulated", driver=SimulatedDriver(config), emulator=emulator)


SUBJECTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Subject]]] = {
    "realman": _realman,
    "simulated": _simulated,
    "xarm": _xarm,
}


def rehearse(name: str, config: RobotConfig, cause: str) -> Reaction:
    """One incident, with an arm and a supervisor of its own.

    Args:
        name: of ``SUBJECTS``.
        config: whose watchdogs and limits are used; the box is put around the arm.
        cause: see :meth:`Rehearsal.measure`.

    Raises:
        BusyError: if this computer did not keep up.
        RecapError: if the arm cannot be driven.
    """
    with SUBJECTS[name]() as subject:
        rehearsal = Rehearsal(config, subject)
        try:
            return rehearsal.measure(cause)
        finally:
            rehearsal.close()
