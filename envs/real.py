"""A real robot as an environment: a client of its safety supervisor, its cameras, and the operator's labels.

Hop 1 of the tour. It proposes and watches; the supervisor decides what moves. Steps are cut by the supervisor, and an observation
is taken down at every boundary. An episode begins when a person hands the robot over (or takes it) and ends by a person's label, a
stop, a fault or the time limit. After HOLD, FAULT or ESTOP nothing here makes it move again: that takes a person.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import WorkerError
from core.experience import EpisodeEnd, Observation
from core.ids import new_episode_id
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from envs.real_config import RealEnvConfig
from envs.task_env import checked_action
from robot_drivers import messages as m
from robot_drivers.cameras.camera import Frame, StaleFrameError
from robot_drivers.cameras.camera_set import CameraSet, fresh_age_s
from robot_drivers.protocol import ProtocolError
from robot_drivers.states import RefusedError, State

_log = logging.getLogger(__name__)
_POLL_S = 0.005
_ACTING = (State.POLICY, State.HUMAN)
_MAGNITUDE_LIMIT = 100.0
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
Telemetry = m.Status | m.Step | m.Event
Asked = TypeVar("Asked", bound=m.Request)


class SupervisorLink(Protocol):
    """The part of ``robot_drivers.supervisor_client.SupervisorClient`` that is needed here."""

    welcome: m.Welcome

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        ...

    def ask(self, request: Asked) -> m.Reply:
        """Raises RefusedError if it is refused, ProtocolError if nobody answers."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


Connect = Callable[[Callable[[Telemetry], None]], SupervisorLink]
"""Connects with the token of role policy; is given what takes telemetry."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a policy may act on: everything in it is fresh."""

    observation: Observation
    sequence: int
    generation: int


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


class RealEnv:
    """One robot, one task; implements :class:`envs.task_env.TaskEnv`, and more for an actor that plays chunks.

    Consumes: proposed actions. Produces: Observations, RecordedSteps. Waits for: a person, at every reset. Invariant: what
    ``recorded`` holds is what the supervisor executed, whether or not this process kept up.

    An actor that computes while the robot moves uses the parts::

        env.reset(seed=seed)
        while env.ending() is None:
            look = env.look()  # None: something is stale, or nobody lets the policy act
            ... env.propose(chunk)
        end = env.finish()
        env.first_observation, env.recorded()
    """

    family = "robot"
    asset_set = "none"

    def __init__(
        self,
        connect: Connect,
        cameras: CameraSet,
        camera_specs: tuple[CameraSpec, ...],
        config: RealEnvConfig,
        *,
        task: str,
        clock: Clock | None = None,
    ) -> None:
        """Connect; nothing moves.

        Args:
            connect: to the supervisor.
            cameras: started; closed with this environment.
            camera_specs: the images that a policy is given; frames of another size are scaled.
            config: how an episode goes.
            task: name of what is done, recorded in episodes.
            clock: the supervisor's own: it runs on the same host.

        Raises:
            ProtocolError: if there is no supervisor, or it refuses.
        """
        self.task = task
        self.time_limit_steps = config.time_limit_steps
        self._config = config
        self._connect = connect
        self._cameras = cameras
        self.clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._is_closing = threading.Event()
        self._status: m.Status | None = None
        self._is_homed = False
        self._episode_id: str | None = None
        self._was_announced = False
        self._recorded: list[RecordedStep] = []
        self._num_acted = 0
        self._label: LabelGiven | None = None
        self._label_s = 0.0
        self._acted_s = 0.0
        self._num_looks = 0
        self._next_start_s = 0.0
        self._first: tuple[Observation, float] | None = None
        self._link = connect(self._take)
        welcome = self._link.welcome
        self.welcome = welcome
        state_names = ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper")
        self.env_spec = EnvSpec(
            cameras=camera_specs,
            state=StateSpec(
                names=tuple(f"{arm}.{name}" for arm in welcome.arms for name in state_names),
                units=("m", "m", "m", "1", "1", "1", "1", "1") * len(welcome.arms),
            ),
            action=ActionSpec(
                names=welcome.action_names,
                units=welcome.action_units,
                low=welcome.action_low,
                high=welcome.action_high,
                control_hz=welcome.control_hz,
            ),
        )

    @property
    def instruction(self) -> str:
        """What the robot is asked to do."""
        return self._config.instruction or self.task

    @property
    def label(self) -> LabelGiven | None:
        """The last label that was given to this episode; None if none was, or it was taken back."""
        return self._label

    @property
    def episode_id(self) -> str | None:
        """As the supervisor, the console and their logs know the episode; None before the first."""
        return self._episode_id

    @property
    def generation(self) -> int:
        """Of the supervisor, as last heard: it grows with every change of who may move the robot."""
        with self._lock:
            return self._status.generation if self._status is not None else -1

    @property
    def first_observation(self) -> tuple[Observation, float]:
        """Where the first recorded step began, and the age of its oldest image in seconds.

        Raises:
            WorkerError: before the first reset.
        """
        if self._first is None:
            raise WorkerError("no observation yet; reset comes first")
        return self._first

    # --- gymnasium's calls ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode: wait for a person to arm, home and hand over (or take) the robot, for as long as that takes.

        Args:
            seed: not used: a person sets the scene.
            options: may hold ``episode_id`` and ``checkpoint``, for the supervisor and the console.

        Raises:
            ProtocolError: if there is no supervisor any more.
            WorkerError: if the environment is closed meanwhile.
        """
        options = options or {}
        if not self._link.is_open:
            self._link.close()
            self._link = self._connect(self._take)
        while True:
            self._wait("the robot to be armed, homed and at rest, and every camera to be fresh", self._is_ready)
            self._end_left_over()
            with self._lock:
                self._episode_id = str(options.get("episode_id") or new_episode_id())
                self._recorded, self._num_acted, self._label, self._was_announced = [], 0, None, False
            try:
                self._link.ask(
                    m.BeginEpisode(
                        request_id=0,
                        episode_id=self._episode_id,
                        instruction=self.instruction,
                        checkpoint=options.get("checkpoint") or "none",
                    )
                )
            except RefusedError as refusal:
                _log.info("not yet: %s", refusal)
                self._sleep()
                continue
            self._first = self._snapshot()
            self._acted_s = self._next_start_s = self.clock.monotonic_s()
            self._wait("an operator to hand over or to take control", lambda: self._is_acting() or self._broken() is not None)
            if self._broken() is None:
                self._acted_s = self._next_start_s = self.clock.monotonic_s()
                return self.first_observation[0], {"success": False}
            self._end_at_supervisor()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Propose one action [A] for the next control period and return at its end, by deadline.

        Returns:
            As ``TaskEnv.step``; ``info`` also has ``end`` (an EpisodeEnd, or None), ``steps`` (RecordedSteps so far) and
            ``refused`` (why the supervisor did not take the action; empty if it did).
        """
        wanted = checked_action(action, self.env_spec.action, magnitude_limit=_MAGNITUDE_LIMIT)
        period_s = 1 / self.env_spec.action.control_hz
        now_s = self.clock.monotonic_s()
        start_s = self._next_start_s if self._next_start_s > now_s - period_s else now_s
        self._next_start_s = start_s + period_s
        look, refused = self.look(), "no fresh observation, or it is not the policy's turn"
        if look is not None:
            refused = self.propose(look, wanted[None], policy_version=0, checkpoint=self._checkpoint(), start_s=start_s)
        while self.clock.monotonic_s() < self._next_start_s and self.ending() is None:
            self._sleep()
        end = self.ending()
        observation, _ = self._snapshot()
        success = end is EpisodeEnd.SUCCESS
        terminated = end is not None and end.is_terminated
        info = {"success": success, "judged_failure": False, "end": end, "steps": self.recorded(), "refused": refused}
        return observation, float(success), terminated, end is not None and not terminated, info

    def close(self) -> None:
        """Let go of supervisor and cameras; a robot that was moving for this process is held by its supervisor."""
        self._is_closing.set()
        self._link.close()
        self._cameras.close()

    # --- for an actor that plays chunks --------------------------------------------------------------------------------------

    def look(self) -> Look | None:
        """A fresh observation, if the policy's actions would be taken now; else None."""
        with self._lock:
            status = self._status
        if status is None or status.state not in _ACTING or not self._link.is_open:
            return None
        try:
            frames = self._cameras.read_fresh(fresh_age_s(self.env_spec.action.control_hz))
        except StaleFrameError as stale:
            _log.warning("%s", stale)
            return None
        self._num_looks += 1
        taken_s = min([status.time_monotonic_s, *(frame.capture_monotonic_s for frame in frames.values())])
        return Look(
            observation=self._observation(dict(frames), status, taken_s), sequence=self._num_looks, generation=status.generation
        )

    def propose(self, look: Look, actions: NDArray[np.float32], *, policy_version: int, checkpoint: str, start_s: float) -> str:
        """Send actions [H, A], the first to begin at ``start_s`` and each a control period after the one before.

        Returns:
            Why the supervisor does not take them; empty if it does.
        """
        period_s, now_s = 1 / self.env_spec.action.control_hz, self.clock.monotonic_s()
        starts = [max(0.0, start_s - now_s) + index * period_s for index in range(len(actions))]
        try:
            self._link.ask(
                m.ProposeChunk(
                    request_id=0,
                    generation=look.generation,
                    observation_sequence=look.sequence,
                    observation_age_s=max(0.0, now_s - look.observation.time_s),
                    checkpoint=checkpoint,
                    policy_version=policy_version,
                    actions=tuple(tuple(float(value) for value in action) for action in actions),
                    start_after_s=tuple(starts),
                    expire_after_s=tuple(start + period_s for start in starts),
                )
            )
        except (RefusedError, ProtocolError) as refusal:
            _log.info("a chunk was not taken: %s", refusal)
            return str(refusal)
        return ""

    def report_value(self, value: float, *, advantage: float | None, threshold: float | None) -> None:
        """Tell the console what the value model makes of the present; lost without a word if the supervisor is gone."""
        try:
            self._link.ask(m.ReportValue(request_id=0, value=value, advantage=advantage, threshold=threshold))
        except (RefusedError, ProtocolError) as refusal:
            _log.info("a value was not taken: %s", refusal)

    def recorded(self) -> list[RecordedStep]:
        """The episode's steps so far, from the first in which somebody acted."""
        with self._lock:
            return list(self._recorded)

    def ending(self) -> EpisodeEnd | None:
        """Whether the episode is over, and how, as far as is known now; :meth:`finish` has the last word."""
        if self._label is not None:
            return _LABELLED_END[self._label.label]
        broken = self._broken()
        if broken is not None:
            return broken
        if self._num_acted >= self.time_limit_steps:
            return EpisodeEnd.TIME_LIMIT
        if self._is_acting():
            self._acted_s = self.clock.monotonic_s()
        stood_s = self.clock.monotonic_s() - self._acted_s
        return EpisodeEnd.OPERATOR_STOP if stood_s > self._config.hold_limit_s else None

    def finish(self) -> EpisodeEnd:
        """End the episode at the supervisor, give the operator time to label it or to take a label back, and say how it ended.

        A label is never inferred: an episode that was stopped and not labelled is ``OPERATOR_STOP``, neither success nor failure.
        """
        was_labelled, before = self._label is not None, self.ending()
        self._end_at_supervisor()
        ended_s = self.clock.monotonic_s()
        while self.clock.monotonic_s() < max(ended_s, self._label_s) + self._config.label_undo_s and self._link.is_open:
            self._sleep()
        if self._label is not None:
            return _LABELLED_END[self._label.label]
        return EpisodeEnd.OPERATOR_STOP if was_labelled or before is None else before

    # --- what arrives --------------------------------------------------------------------------------------------------------

    def _take(self, message: Telemetry) -> None:
        """In the client's thread."""
        with self._lock:
            if isinstance(message, m.Status):
                self._status = message
                self._was_announced |= message.episode_id is not None and message.episode_id == self._episode_id
                self._is_homed &= message.state not in _ACTING
            elif isinstance(message, m.Step):
                if message.episode_id is not None and message.episode_id == self._episode_id:
                    self._take_step(message)
            elif message.kind == "state":
                homed = f"{State.HOMING.value} -> {State.ARMED_IDLE.value}:"
                self._is_homed |= message.text.startswith(homed)
            elif message.kind == "label" and message.episode_id == self._episode_id and message.label is not None:
                self._label_s = self.clock.monotonic_s()
                given = LabelGiven(label=message.label, operator=message.operator, tag=message.text)
                self._label = None if message.label is m.Label.NONE else given

    def _take_step(self, step: m.Step) -> None:
        observation, frame_age_s = self._snapshot(step.start_monotonic_s + step.duration_s)
        is_acted = step.source in ("policy", "human")
        if not is_acted and not self._recorded:  # before the first action: only where it will have begun is kept
            self._first = (observation, frame_age_s)
            return
        self._num_acted += is_acted
        self._recorded.append(RecordedStep(step=step, after=observation, frame_age_s=frame_age_s))

    def _snapshot(self, time_s: float | None = None) -> tuple[Observation, float]:
        """What there is, however old, and the age of the oldest image."""
        now_s = self.clock.monotonic_s()
        with self._lock:
            status = self._status
        if status is None:
            raise WorkerError("the supervisor has not said anything yet; reset waits for it")
        frames = self._cameras.latest()
        oldest_s = max((frame.age_s(now_s) for frame in frames.values() if frame is not None), default=0.0)
        return self._observation(frames, status, now_s if time_s is None else time_s), oldest_s

    def _observation(self, frames: dict[str, Frame | None] | dict[str, Frame], status: m.Status, time_s: float) -> Observation:
        state: list[float] = []
        for index, arm in enumerate(status.arms):
            opening = arm.gripper_opening
            if opening is None:  # not read back: what it was last told
                last = self._recorded[-1].step.executed_action if self._recorded else None
                opening = last[7 * index + 6] if last is not None else 1.0
            quaternion = np.array(arm.quaternion_wxyz)
            sign = -1.0 if quaternion[0] < 0 else 1.0  # q and -q are one rotation
            state += [*arm.position_m, *(sign * quaternion), opening]
        return Observation(
            images={spec.name: _scaled(frames[spec.name], spec) for spec in self.env_spec.cameras},
            state=np.array(state, np.float32),
            time_s=time_s,
        )

    # --- what is waited for ----------------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        with self._lock:
            status, is_homed = self._status, self._is_homed
        if status is None or status.state not in (State.ARMED_IDLE, State.HOLD):
            return False
        if self._config.is_homed_first and not is_homed:
            return False
        try:
            self._cameras.read_fresh(fresh_age_s(self.env_spec.action.control_hz))
        except StaleFrameError:
            return False
        return True

    def _is_acting(self) -> bool:
        with self._lock:
            status = self._status
        return status is not None and status.state in _ACTING

    def _broken(self) -> EpisodeEnd | None:
        """An end that nobody labelled: a stop, a fault, a supervisor that is gone or no longer knows of the episode."""
        with self._lock:
            status = self._status
        if not self._link.is_open or status is None:
            return EpisodeEnd.FAULT
        if self._was_announced and status.episode_id != self._episode_id:
            return EpisodeEnd.FAULT
        return _STATE_END.get(status.state)

    def _end_left_over(self) -> None:
        """A worker that was killed left its episode open."""
        with self._lock:
            left = self._status.episode_id if self._status is not None else None
        if left is not None:
            try:
                self._link.ask(m.EndEpisode(request_id=0, episode_id=left))
                _log.warning("ended episode %s, which an earlier worker had left open", left)
            except RefusedError as refusal:
                _log.info("%s", refusal)

    def _end_at_supervisor(self) -> None:
        try:
            self._link.ask(m.EndEpisode(request_id=0, episode_id=self._episode_id or ""))
        except (RefusedError, ProtocolError) as refusal:
            _log.warning("the episode could not be ended at the supervisor: %s", refusal)

    def _checkpoint(self) -> str:
        with self._lock:
            return (self._status.checkpoint if self._status is not None else None) or "none"

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        if not condition():
            _log.info("%s: waiting for %s", self.welcome.robot, what)
        while not condition():
            if not self._link.is_open:
                raise ProtocolError(f"the supervisor of {self.welcome.robot} is gone; start it, then this worker again")
            self._sleep()

    def _sleep(self) -> None:
        if self._is_closing.is_set():
            raise WorkerError("the robot's environment was closed while it was in use")
        self.clock.sleep_s(_POLL_S)


def _scaled(frame: Frame | None, spec: CameraSpec) -> NDArray[np.uint8]:
    size = (spec.width_px, spec.height_px)
    if frame is None:
        raise WorkerError(f"camera {spec.name!r} has no frame; reset waits for it")
    if frame.image.shape[:2] == size[::-1]:
        return frame.image
    return cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
