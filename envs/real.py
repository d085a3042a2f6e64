"""A real robot as an environment: a client of its safety supervisor, its cameras, and the operator's labels.

Hop 1 of the tour. It proposes and watches; the supervisor decides what moves. Steps are cut by the supervisor, and an observation
is taken down at every boundary. An episode begins when a person hands the robot over (or takes it) and ends by a person's label,
a stop, a fault or the time limit. After HOLD, FAULT or ESTOP nothing here makes it move again: that takes a person.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import WorkerError
from core.experience import EpisodeEnd, Observation
from core.ids import new_episode_id
from core.specs import CameraSpec
from envs.real_config import RealEnvConfig
from envs.real_episode import EpisodeWatch, LabelGiven, RecordedStep, Telemetry
from envs.real_senses import RobotSenses, Seen, robot_env_spec
from envs.real_waiting import WaitingNotice, what_is_lacking
from envs.task_env import checked_action
from robot_drivers import messages as m
from robot_drivers.cameras.camera import StaleFrameError
from robot_drivers.cameras.camera_set import CameraSet
from robot_drivers.protocol import ProtocolError
from robot_drivers.states import RefusedError

_log = logging.getLogger(__name__)
_POLL_S = 0.005
_MAGNITUDE_LIMIT = 100.0
NO_CHECKPOINT = "none"
"""What the supervisor is told where no policy was loaded."""
LABEL = "a label of the episode: success, failure or abort"
LABEL_UNDO = "the time to pass in which the label may be taken back"
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


class RealEnv:
    """One robot, one task; implements :class:`envs.task_env.TaskEnv`, and more for an actor that plays chunks.

    Consumes: proposed actions. Produces: Observations, RecordedSteps. Waits for: a person, at every reset. Invariant: what
    ``recorded`` holds is what the supervisor executed, whether or not this process kept up.

    An actor that computes while the robot moves uses the parts::

        env.reset(seed=seed)
        while env.ending() is None:
            look = env.look()  # None: something is stale, or nobody lets the policy act
            ... env.propose(look, actions, ...)
        end = env.finish()
        env.first, env.recorded()
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
        self.clock = clock or SystemClock()
        self._config = config
        self._connect = connect
        self._cameras = cameras
        self._is_closing = threading.Event()
        self._acted_s = 0.0
        self._num_looks = 0
        self._is_blind = False
        self._last_refusal = ""
        self._next_start_s = 0.0
        self._watch = EpisodeWatch(self.clock)
        self._link = connect(self._watch.take)
        self.welcome = self._link.welcome
        self.env_spec = robot_env_spec(self.welcome, camera_specs)
        self._senses = RobotSenses(cameras, self.env_spec)
        self._watch.use(self._senses)
        self._notice = WaitingNotice(self.welcome.robot, self.clock, self._tell)

    @property
    def instruction(self) -> str:
        """What the robot is asked to do."""
        return self._config.instruction or self.task

    @property
    def label(self) -> LabelGiven | None:
        """The last label that was given to this episode; None if none was, or it was taken back."""
        return self._watch.label

    @property
    def episode_id(self) -> str | None:
        """As the supervisor, the console and their logs know the episode; None before the first."""
        return self._watch.episode_id

    @property
    def generation(self) -> int:
        """Of the supervisor, as last heard: it grows with every change of who may move the robot."""
        status = self._watch.status
        return status.generation if status is not None else -1

    @property
    def first(self) -> Seen:
        """Where the first recorded step began.

        Raises:
            WorkerError: before the first reset.
        """
        return self._watch.first

    # --- gymnasium's calls ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode: wait for a person to arm, home and hand over (or take) the robot, for as long as that takes.

        Handing over is the operator's word that the scene is set.

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
            self._watch.forget_status()
            self._link = self._connect(self._watch.take)
        while True:
            self._wait(self._lacking)
            self._end_left_over()
            episode_id = str(options.get("episode_id") or new_episode_id())
            self._watch.begin(episode_id)
            try:
                self._link.ask(
                    m.BeginEpisode(
                        request_id=0,
                        episode_id=episode_id,
                        instruction=self.instruction,
                        checkpoint=options.get("checkpoint") or NO_CHECKPOINT,
                    )
                )
            except RefusedError as refusal:
                if str(refusal) != self._last_refusal:
                    _log.info("the episode does not begin yet: %s", refusal)
                self._last_refusal = str(refusal)
                self._sleep()
                continue
            self._watch.take_down_start()
            self._acted_s = self._next_start_s = self.clock.monotonic_s()
            self._wait(self._lacking_operator)
            if self._broken() is None:
                self._acted_s = self._next_start_s = self.clock.monotonic_s()
                return self.first.observation, {"success": False}
            self.end_at_supervisor()

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
        success = end is EpisodeEnd.SUCCESS
        terminated = end is not None and end.is_terminated
        info = {"success": success, "judged_failure": False, "end": end, "steps": self.recorded(), "refused": refused}
        return self._watch.seen().observation, float(success), terminated, end is not None and not terminated, info

    def close(self) -> None:
        """Let go of supervisor and cameras; a robot that was moving for this process is held by its supervisor."""
        self._is_closing.set()
        self._link.close()
        self._cameras.close()

    def observe(self) -> Observation:
        """What there is to see now, whoever acts; waits until every camera has seen something.

        Raises:
            ProtocolError: if there is no supervisor any more.
            WorkerError: if the environment is closed meanwhile.
        """
        self._wait(lambda: "" if self._has_seen() else "a first frame of every camera")
        return self._watch.seen().observation

    # --- for an actor that plays chunks --------------------------------------------------------------------------------------

    def look(self) -> Look | None:
        """A fresh observation, if the policy's actions would be taken now; else None."""
        status = self._watch.status
        if status is None or not self._watch.is_acting or not self._link.is_open:
            return None
        try:
            observation = self._senses.fresh(status, told=self._watch.told)
        except StaleFrameError as stale:
            if not self._is_blind:
                _log.warning("the policy is not asked: %s", stale)
            self._is_blind = True
            return None
        self._is_blind = False
        self._num_looks += 1
        return Look(observation=observation, sequence=self._num_looks, generation=status.generation)

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
        self._tell(m.ReportValue(request_id=0, value=value, advantage=advantage, threshold=threshold))

    def recorded(self) -> list[RecordedStep]:
        """The episode's steps so far, from the first in which somebody acted."""
        return self._watch.recorded()

    def ending(self) -> EpisodeEnd | None:
        """Whether the episode is over, and how, as far as is known now; :meth:`finish` has the last word."""
        label = self._watch.label
        if label is not None:
            return label.end
        broken = self._broken()
        if broken is not None:
            return broken
        if self._watch.num_acted >= self.time_limit_steps:
            return EpisodeEnd.TIME_LIMIT
        if self._watch.is_acting:
            self._acted_s = self.clock.monotonic_s()
        stood_s = self.clock.monotonic_s() - self._acted_s
        return EpisodeEnd.OPERATOR_STOP if stood_s > self._config.hold_limit_s else None

    def finish(self) -> EpisodeEnd:
        """End the episode at the supervisor, give the operator time to label it or to take a label back, and say how it ended.

        A label is never inferred: an episode that was stopped and not labelled is ``OPERATOR_STOP``, neither success nor failure.
        """
        was_labelled, before = self._watch.label is not None, self.ending()
        self.end_at_supervisor()
        ended_s = self.clock.monotonic_s()
        while (
            self.clock.monotonic_s() < max(ended_s, self._watch.label_changed_s) + self._config.label_undo_s
            and self._link.is_open
        ):
            self._notice.show(LABEL if self._watch.label is None else LABEL_UNDO)
            self._sleep()
        self._notice.clear()
        label = self._watch.label
        if label is not None:
            return label.end
        return EpisodeEnd.OPERATOR_STOP if was_labelled or before is None else before

    def end_at_supervisor(self) -> None:
        """The supervisor is told that the episode is over; a policy that was acting stops."""
        try:
            self._link.ask(m.EndEpisode(request_id=0, episode_id=self.episode_id or ""))
        except (RefusedError, ProtocolError) as refusal:
            _log.warning("the episode could not be ended at the supervisor: %s", refusal)

    # --- what is waited for ----------------------------------------------------------------------------------------------------

    def _has_seen(self) -> bool:
        return self._watch.status is not None and None not in self._cameras.latest().values()

    def _lacking(self) -> str:
        return what_is_lacking(self._watch, self._senses, is_homed_first=self._config.is_homed_first)

    def _lacking_operator(self) -> str:
        return "" if self._watch.is_acting or self._broken() is not None else "a person to hand over or to take control"

    def _broken(self) -> EpisodeEnd | None:
        return self._watch.broken() if self._link.is_open else EpisodeEnd.FAULT

    def _end_left_over(self) -> None:
        """A worker that was killed left its episode open."""
        status = self._watch.status
        if status is not None and status.episode_id is not None:
            try:
                self._link.ask(m.EndEpisode(request_id=0, episode_id=status.episode_id))
                _log.warning("ended episode %s, which an earlier worker had left open", status.episode_id)
            except RefusedError as refusal:
                _log.info("%s", refusal)

    def _checkpoint(self) -> str:
        status = self._watch.status
        return (status.checkpoint if status is not None else None) or NO_CHECKPOINT

    def _wait(self, lacking: Callable[[], str]) -> None:
        """Until nothing is lacking."""
        while what := lacking():
            if not self._link.is_open:
                raise ProtocolError(f"the supervisor of {self.welcome.robot} is gone; start it, then this worker again")
            self._notice.show(what)
            self._sleep()
        self._notice.clear()

    def _tell(self, request: m.Request) -> None:
        """For the console's eyes: lost without harm if the supervisor does not take it."""
        try:
            self._link.ask(request)
        except (RefusedError, ProtocolError) as refusal:
            _log.info("%s was not taken: %s", type(request).__name__, refusal)

    def _sleep(self) -> None:
        if self._is_closing.is_set():
            raise WorkerError("the robot's environment was closed while it was in use")
        self.clock.sleep_s(_POLL_S)
