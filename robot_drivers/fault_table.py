"""Measures what ends motion, how fast, and how far the arm still goes: ``python -m robot_drivers.fault_table --out FILE.md``.

For each cause an operator drives the arm at 0.05 m/s through the real supervisor, its threads and the driver's real protocol, in
real time; then the cause happens, and the arm's true pose, not the supervisor's view of it, says when it stood.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.clock import SystemClock
from core.errors import RecapError
from robot_drivers import messages as m
from robot_drivers.arm_link import ArmLink
from robot_drivers.driver import Pose, RobotDriver
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.fake import FakeArm, FakeArmConfig
from robot_drivers.limits import Box, RobotConfig, read_robot_config
from robot_drivers.realman import RealmanDriver
from robot_drivers.realman_link import RealmanConfig
from robot_drivers.states import Role, State
from robot_drivers.supervision import Supervision
from robot_drivers.supervisor import keep_time

SPEED_M_S = 0.05
_DRIVE_S, _WATCH_S, _INPUT_S, _LOOK_S, _PATIENCE_S = 0.8, 1.5, 0.05, 0.002, 10.0
_MOVED_M = 2e-5
"""Less than that between two looks is standing."""
_ATTEMPTS = 5


class BusyError(RecapError, RuntimeError):
    """This computer did not keep the supervisor's ticks, or the hand's input, so there is nothing to measure."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A driver with the arm behind it."""

    name: str
    driver: RobotDriver
    true_pose: Callable[[], Pose]
    faults: dict[str, Callable[[], None]]


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """To one cause, once."""

    state: State
    """That followed."""
    noticed_s: float
    """From the cause to that state; NaN if there was none."""
    standing_s: float
    """From the cause to the arm's last movement."""
    path_m: float
    """That the tool still went."""


class Rehearsal:
    """A supervisor with its threads, one arm, and a hand on the key."""

    def __init__(self, config: RobotConfig, subject: Subject) -> None:
        here = subject.true_pose().position_m
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
        )
        self._link.start()
        self._ticker.start()

    def measure(self, cause: str) -> Reaction:
        """Drive, let the cause happen, watch.

        Args:
            cause: ``stop``, ``release``, ``silence`` of the operator, or one of the subject's faults.

        Raises:
            BusyError: if the supervisor held before the cause.
            RecapError: if a request was refused.
        """
        self._await(State.DISARMED)
        person = {"request_id": 0, "operator": "rehearsal"}
        self._ask(m.Arm(role=Role.OPERATE, **person))  # type: ignore[arg-type]
        fence = self._ask(m.Acquire(role=Role.OPERATE, **person)).fence or 0  # type: ignore[arg-type]
        for _ in range(round(_DRIVE_S / _INPUT_S)):
            self._push(fence)
            self._clock.sleep_s(_INPUT_S)
        if self._supervision.state is not State.HUMAN:
            raise BusyError(
                f"{self._subject.name}: it came to {self._supervision.state.value} before {cause}; is this computer busy?"
            )
        caused_s, before = self._clock.monotonic_s(), self._subject.true_pose().position_m
        self._cause(cause, fence)
        last_s, path_m, next_push_s = caused_s, 0.0, caused_s + _INPUT_S
        while (now_s := self._clock.monotonic_s()) < caused_s + _WATCH_S:
            if cause != "silence" and self._supervision.state is State.HUMAN and now_s >= next_push_s:
                self._push(fence)  # the hand does not know yet
                next_push_s = now_s + _INPUT_S
            here = self._subject.true_pose().position_m
            step_m = float(np.linalg.norm(here - before))
            if step_m > _MOVED_M:
                last_s, path_m, before = now_s, path_m + step_m, here
            self._clock.sleep_s(_LOOK_S)
        noticed = [(time_s, state) for time_s, state in self._changes if time_s >= caused_s]
        return Reaction(
            state=noticed[0][1] if noticed else self._supervision.state,
            noticed_s=noticed[0][0] - caused_s if noticed else math.nan,
            standing_s=last_s - caused_s,
            path_m=path_m,
        )

    def close(self) -> None:
        """Stop and let go."""
        self._supervision.shut_down("the rehearsal ends")
        self._over.set()
        self._ticker.join()
        self._link.close()

    def _cause(self, cause: str, fence: int) -> None:
        if cause == "stop":
            self._ask(m.Stop(request_id=0, operator="rehearsal"))
        elif cause == "release":
            self._ask(m.Release(request_id=0, fence=fence))
        elif cause != "silence":
            self._subject.faults[cause]()

    def _push(self, fence: int) -> None:
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
def _fake() -> Iterator[Subject]:
    arm = FakeArm(FakeArmConfig())
    faults = {
        "freeze": arm.freeze,
        "drop": arm.drop_link,
        "collision": arm.collide,
        "junk": arm.send_junk,
        "estop": arm.press_estop,
    }
    yield Subject(name="fake", driver=arm, true_pose=arm.true_pose, faults=faults)


@contextlib.contextmanager
def _realman() -> Iterator[Subject]:
    with Emulator(RealmanController(host="127.0.0.1", port=0, generation=3)) as emulator:
        config = RealmanConfig(host="127.0.0.1", port=emulator.port, state_port=0, model="RM75", gripper="eg2")

        def inject(fault: str) -> Callable[[], None]:
            return lambda: emulator.inject(fault)

        faults = {fault: inject(fault) for fault in ("freeze", "drop", "collision", "junk")}
        yield Subject(name="realman", driver=RealmanDriver(config), true_pose=emulator.pose, faults=faults)


SUBJECTS = {"fake": _fake, "realman": _realman}


def measure(name: str, config: RobotConfig, *, rounds: int) -> dict[str, list[Reaction]]:
    """Every cause, so many times; a fresh arm and supervisor each time.

    Args:
        name: of ``SUBJECTS``.
        config: whose watchdogs and limits are used; the box is put around the arm.
        rounds: of each cause.
    """
    with SUBJECTS[name]() as subject:
        causes = ["stop", "release", "silence", *subject.faults]
    found = {}
    for cause in causes:
        found[cause] = [_once(name, config, cause) for _ in range(rounds)]
    return found


def _once(name: str, config: RobotConfig, cause: str) -> Reaction:
    """A computer that is too busy to keep its ticks gets a few more chances; the supervisor rightly holds on it."""
    for attempt in range(1, _ATTEMPTS + 1):
        with SUBJECTS[name]() as subject:
            rehearsal = Rehearsal(config, subject)
            try:
                return rehearsal.measure(cause)
            except BusyError:
                if attempt == _ATTEMPTS:
                    raise
            finally:
                rehearsal.close()
    raise AssertionError("unreachable")


def table(name: str, found: dict[str, list[Reaction]]) -> str:
    """As Markdown: median and worst of each cause."""
    lines = [
        f"| {name}: cause | becomes | noticed after, median (worst) | arm stood after, median (worst) | path, median (worst) |",
        "|---|---|---|---|---|",
    ]
    for cause, reactions in found.items():
        states = "/".join(sorted({reaction.state.value for reaction in reactions}))
        columns = [
            ([1000 * r.noticed_s for r in reactions], "ms", 0),
            ([1000 * r.standing_s for r in reactions], "ms", 0),
            ([1000 * r.path_m for r in reactions], "mm", 1),
        ]
        texts = [f"{statistics.median(v):.{d}f} ({max(v):.{d}f}) {unit}" for v, unit, d in columns]
        lines.append(f"| {cause} | {states} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.fault_table", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config", type=Path, default=Path("configs/robots/fake.yaml"), help="whose watchdogs and limits are used"
    )
    parser.add_argument("--subjects", nargs="+", choices=sorted(SUBJECTS), default=sorted(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=5, help="of each cause")
    parser.add_argument("--out", type=Path, help="append the tables to this file")
    options = parser.parse_args(arguments)
    try:
        config = read_robot_config(options.config)
        tables = [table(name, measure(name, config, rounds=options.rounds)) for name in options.subjects]
    except RecapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = "\n\n".join(tables) + "\n"
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
