"""What a robot's worker waits for, in words: for its own log, and for the console of the person who can bring it about."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from core.clock import Clock
from envs.real_episode import EpisodeWatch
from envs.real_senses import RobotSenses
from robot_drivers import messages as m
from robot_drivers.cameras.camera import StaleFrameError
from robot_drivers.states import State

_log = logging.getLogger(__name__)
_REPEAT_S = 1.0
_VALID_S = 3.0
_MAX_TEXT = 400
_BEFORE_READY = {
    State.DISCONNECTED: "the arm to be connected",
    State.DISARMED: "a person to arm the robot",
    State.FAULT: "a person to acknowledge the fault and arm the robot",
    State.ESTOP: "a person to reset the stop and arm the robot",
}


def what_is_lacking(watch: EpisodeWatch, senses: RobotSenses, *, is_homed_first: bool) -> str:
    """What has to happen before an episode can begin, the first thing first; empty if nothing.

    Args:
        watch: how the robot stands.
        senses: its cameras.
        is_homed_first: whether it has to have been sent home since anybody acted.
    """
    status = watch.status
    if status is None:
        return "a first word of the supervisor"
    if status.state in _BEFORE_READY:
        return _BEFORE_READY[status.state]
    if status.state.moves:
        return "the robot to come to rest"
    if is_homed_first and not watch.is_homed:
        return "a person to send it home and watch it go"
    try:
        senses.fresh(status, told=None)
    except StaleFrameError as stale:
        return f"fresh pictures: {stale}"
    return ""


class WaitingNotice:
    """Says what is waited for: to the log when it changes in kind, to the supervisor again and again while it lasts.

    Repeated, and valid for a few seconds only: what a worker that died had waited for disappears by itself.
    """

    def __init__(self, robot: str, clock: Clock, tell: Callable[[m.Request], None]) -> None:
        """Nothing is waited for yet.

        Args:
            robot: its name, for the log.
            clock: whose seconds pass between repetitions.
            tell: takes a request to the supervisor; does not raise.
        """
        self._robot = robot
        self._clock = clock
        self._tell = tell
        self._shown = ""
        self._next_s = -math.inf

    def show(self, what: str) -> None:
        """It is waited for ``what``; to be called often."""
        now_s, kind = self._clock.monotonic_s(), what.partition(":")[0]
        if kind != self._shown:
            _log.info("%s: waiting for %s", self._robot, what)
        elif now_s < self._next_s:
            return
        self._shown, self._next_s = kind, now_s + _REPEAT_S
        self._tell(m.ReportWaiting(request_id=0, what=what[:_MAX_TEXT], valid_s=_VALID_S))

    def clear(self) -> None:
        """It has come."""
        if self._shown:
            self._shown, self._next_s = "", -math.inf
            self._tell(m.ReportWaiting(request_id=0, what="", valid_s=0.0))
