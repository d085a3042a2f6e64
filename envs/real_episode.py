"""One episode of a real robot as its supervisor tells of it: status, steps, the operator's labels, and how they end it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from core.clock import Clock
from core.errors import WorkerError
from core.experience import EpisodeEnd, Observation
from envs.real_senses import RobotSenses, Seen
from robot_drivers import messages as m
from robot_drivers.states import State

ACTING = (State.POLICY, State.HUMAN)
ACTED = ("policy", "human")
"""Sources of steps in which somebody decided."""
_LABELLED_END = {
    m.Label.SUCCESS: EpisodeEnd.SUCCESS,
    m.Label.FAILURE: EpisodeEnd.FAILURE,
    m.Label.ABORT: EpisodeEnd.OPERATOR_STOP,
}
_STATE_END = {
    State.ESTOP: EpisodeEnd.OPERATOR_STOP,
    State.DISARMED: EpisodeEnd.OPERATOR_STOP,
    State.FAULT: EpisodeEnd.FAULT,
    State.DISCONNECTED: EpisodeEnd.FAULT,
}
_HOMED = f"{State.HOMING.value} -> {State.ARMED_IDLE.value}:"
Telemetry = m.Status | m.Step | m.Event


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """A step as the supervisor cut it, and the observation at its end."""

    step: m.Step
    after: Observation
    frame_age_s: float
    """Of the oldest image in ``after``."""


@dataclass(frozen=True, kw_only=True)
class LabelGiven:
    """The operator's word on an episode."""

    label: m.Label
    operator: str | None
    tag: str
    time_s: float
    """When it arrived."""

    @property
    def end(self) -> EpisodeEnd:
        """What it says of the episode."""
        return _LABELLED_END[self.label]


class EpisodeWatch:
    """Takes telemetry in the client's thread, answers the environment in its own.

    Consumes: Status, Step, Event. Produces: RecordedSteps and how things stand. Waits for: nothing. Invariant: every step that
    the supervisor tells of the episode is kept, from the first in which somebody acted, whether or not the environment looks.
    """

    def __init__(self, clock: Clock) -> None:
        """``clock``: the supervisor's own."""
        self._clock = clock
        self._lock = threading.RLock()
        self._senses: RobotSenses | None = None
        self._status: m.Status | None = None
        self._is_homed = False
        self._episode_id: str | None = None
        self._was_announced = False
        self._first: Seen | None = None
        self._recorded: list[RecordedStep] = []
        self._num_acted = 0
        self._label: LabelGiven | None = None
        self._label_changed_s = 0.0

    # --- by the environment ----------------------------------------------------------------------------------------------------

    def use(self, senses: RobotSenses) -> None:
        """What observations are made with; after a welcome, whose specification they have."""
        with self._lock:
            self._senses = senses

    def forget_status(self) -> None:
        """The connection is another: what was heard over the last one is the past."""
        with self._lock:
            self._status, self._is_homed = None, False

    def begin(self, episode_id: str) -> None:
        """Another episode, of which nothing has been heard."""
        with self._lock:
            self._episode_id, self._was_announced = episode_id, False
            self._recorded, self._num_acted, self._label = [], 0, None

    def take_down_start(self) -> None:
        """The present is where the first step begins, until a step without an action says otherwise.

        Raises:
            WorkerError: if supervisor or cameras have not said anything yet.
        """
        with self._lock:
            self._first = self.seen()

    # --- by the supervisor -----------------------------------------------------------------------------------------------------

    def take(self, message: Telemetry) -> None:
        """Called with every message, in the client's thread."""
        with self._lock:
            if isinstance(message, m.Status):
                self._status = message
                self._was_announced |= message.episode_id is not None and message.episode_id == self._episode_id
                self._is_homed &= message.state not in ACTING
            elif isinstance(message, m.Step):
                if message.episode_id is not None and message.episode_id == self._episode_id:
                    self._take_step(message)
            elif message.kind == "state":
                self._is_homed |= message.text.startswith(_HOMED)
            elif message.kind == "label" and message.episode_id == self._episode_id and message.label is not None:
                now_s = self._label_changed_s = self._clock.monotonic_s()
                given = LabelGiven(label=message.label, operator=message.operator, tag=message.text, time_s=now_s)
                self._label = None if message.label is m.Label.NONE else given

    def _take_step(self, step: m.Step) -> None:
        seen = self.seen(step.start_monotonic_s + step.duration_s)
        is_acted = step.source in ACTED
        if not is_acted and not self._recorded:  # before the first action: only where it will have begun is kept
            self._first = seen
            return
        self._num_acted += is_acted
        self._recorded.append(RecordedStep(step=step, after=seen.observation, frame_age_s=seen.frame_age_s))

    # --- how things stand ------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> m.Status | None:
        """The newest; None before the first."""
        with self._lock:
            return self._status

    @property
    def episode_id(self) -> str | None:
        """As given to :meth:`begin`."""
        return self._episode_id

    @property
    def label(self) -> LabelGiven | None:
        """The last one given; None if none was, or it was taken back."""
        with self._lock:
            return self._label

    @property
    def label_changed_s(self) -> float:
        """When a label was last given or taken back, in any episode."""
        with self._lock:
            return self._label_changed_s

    @property
    def first(self) -> Seen:
        """Where the first recorded step began.

        Raises:
            WorkerError: before the first :meth:`take_down_start`.
        """
        with self._lock:
            if self._first is None:
                raise WorkerError("no observation yet; reset comes first")
            return self._first

    @property
    def num_acted(self) -> int:
        """Steps so far in which the policy or a person acted."""
        with self._lock:
            return self._num_acted

    @property
    def is_acting(self) -> bool:
        """Whether the policy or a person may move the robot now."""
        with self._lock:
            return self._status is not None and self._status.state in ACTING

    @property
    def is_homed(self) -> bool:
        """Whether it went home since anybody acted."""
        with self._lock:
            return self._is_homed

    @property
    def told(self) -> Sequence[float] | None:
        """[A], the last executed action of the episode."""
        with self._lock:
            return self._recorded[-1].step.executed_action if self._recorded else None

    def recorded(self) -> list[RecordedStep]:
        """The steps so far, from the first in which somebody acted."""
        with self._lock:
            return list(self._recorded)

    def broken(self) -> EpisodeEnd | None:
        """An end that nobody labelled: a stop, a fault, a supervisor that no longer knows of the episode."""
        with self._lock:
            if self._status is None or (self._was_announced and self._status.episode_id != self._episode_id):
                return EpisodeEnd.FAULT
            return _STATE_END.get(self._status.state)

    def seen(self, time_s: float | None = None) -> Seen:
        """What there is now, to be recorded under ``time_s``; default: now.

        Raises:
            WorkerError: if supervisor or cameras have not said anything yet.
        """
        with self._lock:
            if self._status is None or self._senses is None:
                raise WorkerError("the supervisor has not said anything yet; reset waits for it")
            now_s = self._clock.monotonic_s()
            return self._senses.latest(self._status, now_s=now_s, time_s=now_s if time_s is None else time_s, told=self.told)
