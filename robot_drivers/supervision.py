"""The safety supervisor's mind: requests in, one tick after the other, targets out. It knows no socket, no process and no thread.

:meth:`Supervision.handle` answers a client, :meth:`Supervision.tick` is called at the tick rate; both take one lock and neither
waits for an arm, so that a stop takes effect in the call that asks for it. Every change of state grows the *generation*: whatever
was on its way belongs to an older one and is dropped, here, in the link and in the driver.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np

from core.clock import Clock
from robot_drivers import introduction
from robot_drivers import messages as m
from robot_drivers.action_plan import ActionPlan, PlannedAction
from robot_drivers.arm_group import ArmGroup
from robot_drivers.arm_link import ArmLink
from robot_drivers.driver import StopKind
from robot_drivers.lease import HeldError, Lease
from robot_drivers.limits import RobotConfig
from robot_drivers.permission import effective_role
from robot_drivers.safety_filter import ACTION_DIM, Clip, UnsafeError
from robot_drivers.states import RefusedError, Role, State, Trigger, next_state
from robot_drivers.step_recorder import Occasion, Source, StepRecorder
from robot_drivers.undertaking import Undertaking
from robot_drivers.watchdogs import ClampWatch, TickTiming

_STATUS_HZ = 20.0
_QUIET_S = 0.5
"""Without any input before a reset: nobody holds a key down."""
_STOP_KINDS = {Trigger.STOP: StopKind.HARD, Trigger.WRONG: StopKind.SLOW, Trigger.LINK_DOWN: StopKind.SLOW}
_SOURCES: dict[State, Source] = {State.POLICY: "policy", State.HUMAN: "human", State.HOMING: "home"}
Telemetry = m.Status | m.Step | m.Event


class Supervision:
    """N arms, one state."""

    def __init__(self, config: RobotConfig, links: Sequence[ArmLink], clock: Clock, publish: Callable[[Telemetry], None]) -> None:
        """Nothing moves until a person arms it.

        Args:
            config: of the robot.
            links: one an arm, in the configuration's order.
            clock: also of the drivers.
            publish: takes telemetry; must not block.
        """
        self._config = config
        self._clock = clock
        self._publish = publish
        self._lock = threading.RLock()
        self._period_s = 1 / config.tick_hz
        self._arms = ArmGroup(config, links, clock)
        self._state = State.DISCONNECTED
        self._reason = "started"
        self._operator: str | None = None
        self._generation = 0
        self._state_since_s = clock.monotonic_s()
        self._lease = Lease(config.lease_ttl_s)
        self._plan = ActionPlan()
        self._input: m.HumanInput | None = None
        self._last_input_s = -math.inf
        self._last_action_s = -math.inf
        self._has_acted = False
        self._undertaking = Undertaking()
        self._status_sequence = 0
        self._next_status_s = -math.inf
        self._clipped_ticks = 0
        watchdog = config.watchdog
        self._timing = TickTiming(late_s=watchdog.late_tick_s, window_s=watchdog.late_window_s, period_s=self._period_s)
        self._clamps = ClampWatch(window_s=watchdog.clamp_window_s, control_hz=config.control_hz)
        self._recorder = StepRecorder(self._arms.filters, tick_s=self._period_s, control_s=1 / config.control_hz)

    @property
    def state(self) -> State:
        """Now."""
        return self._state

    def welcome(self, role: Role) -> m.Welcome:
        """What a client is told first."""
        return introduction.welcome(self._config, role)

    # --- requests ------------------------------------------------------------------------------------------------------------

    def handle(self, request: m.Request, *, role: Role) -> m.Reply:
        """Do what a client asks, or say why not.

        Args:
            request: as received.
            role: of the client's token; a person's own may be less.
        """
        with self._lock:
            fence: int | None = None
            error, holder = "", None
            try:
                fence = self._answer(request, role)
            except HeldError as refusal:
                error, holder = str(refusal), refusal.holder
            except (RefusedError, UnsafeError) as refusal:
                error = str(refusal)
            return m.Reply(
                request_id=request.request_id,
                ok=not error,
                error=error,
                generation=self._generation,
                state=self._state,
                fence=fence,
                holder=holder,
            )

    def _answer(self, request: m.Request, token_role: Role) -> int | None:
        role = effective_role(request, token_role)
        if isinstance(request, m.Stop):
            self._go(Trigger.STOP, f"stopped by {request.operator}: {request.reason or 'no reason given'}", request.operator)
        elif isinstance(request, m.ProposeChunk):
            self._take_chunk(request)
        elif isinstance(request, m.ReportValue | m.ReportWaiting):
            self._undertaking.hear(request, self._clock.monotonic_s())
        elif isinstance(request, m.BeginEpisode):
            self._begin_episode(request)
        elif isinstance(request, m.EndEpisode):
            self._end_episode(request)
        elif isinstance(request, m.PersonsRequest):
            return self._answer_person(request, role)
        elif isinstance(request, m.HumanInput | m.Release):
            self._answer_hand(request)
        else:
            raise RefusedError(f"no answer to {type(request).__name__} here")
        return None

    def _begin_episode(self, request: m.BeginEpisode) -> None:
        self._undertaking.begin(request, self._state)
        self._end_generation()
        self._say("episode", f"begins with checkpoint {request.checkpoint}: {request.instruction}")

    def _end_episode(self, request: m.EndEpisode) -> None:
        self._undertaking.require_open(request.episode_id)
        if self._state is State.POLICY:
            self._go(Trigger.EPISODE_OVER, "the episode is over")
        self._close_step(self._clock.monotonic_s())
        self._say("episode", "ends")
        self._undertaking.episode = None
        self._end_generation()

    def _take_chunk(self, chunk: m.ProposeChunk) -> None:
        if self._state not in (State.POLICY, State.HUMAN):
            raise RefusedError(f"no action is taken in state {self._state.value}; a person has to hand back to the policy")
        if chunk.generation != self._generation:
            raise RefusedError(f"a chunk of generation {chunk.generation}; the present one is {self._generation}. Look again.")
        self._undertaking.require_checkpoint(chunk.checkpoint)
        limit_s = self._config.watchdog.stale_observation_s
        if chunk.observation_age_s > limit_s:
            raise RefusedError(f"the observation is {chunk.observation_age_s:.3f} s old; expected at most {limit_s} s")
        self._plan.replace(chunk, self._clock.monotonic_s(), action_dim=ACTION_DIM * len(self._arms))

    def _answer_person(self, request: m.PersonsRequest, role: Role) -> int | None:
        operator, now_s = request.operator, self._clock.monotonic_s()
        if isinstance(request, m.Arm):
            self._arms.require_able()
            self._go(Trigger.ARM, f"armed by {operator}", operator)
        elif isinstance(request, m.Disarm):
            self._go(Trigger.DISARM, f"disarmed by {operator}", operator)
        elif isinstance(request, m.HandBack):
            self._undertaking.require_actor(now_s)
            self._go(Trigger.HAND_BACK, f"handed to the policy by {operator}", operator)
            self._clamps.clear()
        elif isinstance(request, m.Home):
            self._go(Trigger.HOME, f"homing, asked by {operator}", operator)
            self._arms.aim_home()
        elif isinstance(request, m.Acquire):
            return self._take_over(request, role, now_s)
        elif isinstance(request, m.Reset):
            self._require_quiet(request, now_s)
            self._go(Trigger.RESET, f"reset by {operator}: {request.reason}", operator)
        elif isinstance(request, m.Acknowledge):
            self._go(Trigger.ACKNOWLEDGE, f"acknowledged by {operator}: {request.reason}", operator)
            self._arms.clear_faults(operator=operator, reason=request.reason)
        elif isinstance(request, m.SetLabel):
            self._publish(
                m.Event(
                    time_monotonic_s=now_s,
                    kind="label",
                    operator=operator,
                    text=request.tag,
                    episode_id=request.episode_id,
                    label=request.label,
                )
            )
        return None

    def _take_over(self, request: m.Acquire, role: Role, now_s: float) -> int:
        next_state(self._state, Trigger.TAKE_OVER)
        if not self._state.moves:
            self._arms.require_able()
        holder = self._lease.holder if self._lease.is_alive(now_s) else None
        try:
            fence = self._lease.acquire(request.operator, role, now_s, forced=request.forced)
        except HeldError:
            self._say("request", f"{request.operator} asks {holder} for control", request.operator)
            raise
        self._undertaking.intervene(request.phase)
        self._input = None
        from_whom = f", from {holder} by force" if holder not in (None, request.operator) else ""
        self._go(Trigger.TAKE_OVER, f"{request.operator} has control{from_whom}", request.operator)
        return fence

    def _answer_hand(self, request: m.HumanInput | m.Release) -> None:
        now_s = self._clock.monotonic_s()
        if isinstance(request, m.Release):
            self._lease.release(request.fence)
            self._go(Trigger.RELEASE, f"{self._operator} let go", self._operator)
            return
        self._last_input_s = now_s
        if len(request.twist) != len(self._arms) or len(request.gripper_opening) != len(self._arms):
            raise RefusedError(f"input for {len(request.twist)} arms; this robot has {len(self._arms)}")
        numbers = [v for twist in request.twist for v in twist] + [v for v in request.gripper_opening if v is not None]
        if not all(map(math.isfinite, numbers)):
            raise RefusedError("the input is not finite; expected numbers in m/s and rad/s")
        self._lease.renew(request.fence, request.sequence, request.age_s, now_s)
        self._input = request
        self._undertaking.phase = request.phase or self._undertaking.phase

    def _require_quiet(self, request: m.Reset, now_s: float) -> None:
        if not request.confirmed:
            raise RefusedError("the reset is not confirmed; look at the robot, then confirm")
        if self._lease.is_alive(now_s) or now_s - self._last_input_s < _QUIET_S:
            raise RefusedError("somebody is holding a key or a stick; let go of every input first")
        self._arms.require_rest()

    # --- changes of state ------------------------------------------------------------------------------------------------------

    def _go(self, trigger: Trigger, reason: str, operator: str | None = None) -> None:
        before, after = self._state, next_state(self._state, trigger)
        now_s = self._clock.monotonic_s()
        begins = after.moves and not before.moves
        started = self._arms.begin() if begins else None
        self._close_step(now_s)
        if begins:
            self._arms.commanded = started
        elif after.moves:
            self._arms.forget_goals()
        if after is not State.HUMAN:
            self._lease.revoke()
            self._input, self._undertaking.phase = None, m.Phase.NONE
        if not after.moves:
            self._arms.commanded = None
            if before.moves or trigger in _STOP_KINDS:
                self._arms.stop(_STOP_KINDS.get(trigger, StopKind.HOLD), generation=self._generation)
        self._state, self._reason, self._operator = after, reason, operator
        self._state_since_s, self._last_action_s, self._has_acted = now_s, now_s, False
        self._end_generation()
        self._next_status_s = -math.inf
        self._say("state", f"{before.value} -> {after.value}: {reason}", operator)

    def _end_generation(self) -> None:
        self._generation += 1
        self._plan.clear()

    def shut_down(self, reason: str) -> None:
        """Stop everything, for good."""
        with self._lock:
            self._go(Trigger.STOP, reason)

    # --- the tick ------------------------------------------------------------------------------------------------

    def tick(self, due_s: float) -> None:
        """One period.

        Args:
            due_s: when it should have started.
        """
        with self._lock:
            now_s = self._clock.monotonic_s()
            late_s = max(0.0, now_s - due_s)
            self._timing.add(late_s)
            self._watch_arms(now_s)
            self._watch_progress(now_s)
            try:
                self._move(now_s)
            except (UnsafeError, RefusedError) as error:
                self._go(Trigger.WRONG, str(error))
            if not self._state.moves:
                self._arms.restop(generation=self._generation)
            self._keep_step(now_s, late_s)
            if now_s >= self._next_status_s:
                self._next_status_s = now_s + 1 / _STATUS_HZ
                self._publish(self._status(now_s))

    def _watch_arms(self, now_s: float) -> None:
        for trigger, reason in self._arms.troubles(now_s):
            self._go_if_possible(trigger, reason)
        if self._state is State.DISCONNECTED and self._arms.are_heard():
            self._go(Trigger.LINK_UP, "all arms are connected")

    def _go_if_possible(self, trigger: Trigger, reason: str) -> None:
        """For what the supervisor notices by itself: where the table lists nothing, it changes nothing."""
        try:
            following = next_state(self._state, trigger)
        except RefusedError:
            return
        if following is not self._state:
            self._go(trigger, reason)

    def _watch_progress(self, now_s: float) -> None:
        watchdog = self._config.watchdog
        if not self._state.moves:
            return
        if self._timing.late_fraction > watchdog.late_fraction:
            percent = 100 * self._timing.late_fraction
            self._go(Trigger.MISSING, f"{percent:.0f} % of the last ticks were late; this computer is too busy")
        elif self._state is State.HUMAN and not self._lease.is_alive(now_s):
            self._go(Trigger.MISSING, f"no input from {self._lease.holder} for {self._config.lease_ttl_s} s")
        elif self._state is State.HOMING and now_s - self._state_since_s > watchdog.homing_s:
            self._go(Trigger.MISSING, f"not home after {watchdog.homing_s} s; is something in the way?")
        elif self._state is State.POLICY:
            limit_s = watchdog.stale_action_s if self._has_acted else watchdog.first_action_s
            if now_s - self._last_action_s > limit_s:
                self._go(Trigger.MISSING, f"no action from the policy for {limit_s} s")
            elif self._clamps.fraction > watchdog.clamp_fraction:
                percent = 100 * self._clamps.fraction
                self._go(Trigger.WRONG, f"{percent:.0f} % of the policy's actions hit a limit; are units and frames right?")

    def _move(self, now_s: float) -> None:
        if not self._state.moves:
            return
        planned, is_human = self._plan.due(now_s), self._state is State.HUMAN
        if self._state is State.POLICY and planned is not None:
            self._begin_action(planned, now_s)
        motions = self._arms.along(self._input) if is_human else self._arms.to_goals()
        clip = self._arms.advance(motions, generation=self._generation)
        self._clipped_ticks += clip is not Clip.NONE
        self._recorder.add_tick(clip, planned, self._input if is_human else None)
        if self._state is State.HOMING and self._arms.are_home():
            self._go(Trigger.HOMED, "home")

    def _begin_action(self, planned: PlannedAction, now_s: float) -> None:
        self._close_step(now_s)
        before = self._arms.commanded
        clip = self._arms.compose(planned.action)
        openings = self._arms.gripper_openings()
        step = self._recorder.open(self._occasion("policy"), now_s, before=before, gripper_opening=openings)
        step.planned, step.requested, step.clip = planned, np.array(planned.action), clip
        self._last_action_s, self._has_acted = now_s, True
        self._clamps.add(now_s, was_clamped=clip is not Clip.NONE)

    # --- what is told --------------------------------------------------------------------------------------------

    def _keep_step(self, now_s: float, late_s: float) -> None:
        """Close what has lasted long enough, open what has begun."""
        if self._recorder.has_lasted(now_s, late_s):
            self._close_step(now_s)
        if self._recorder.current is None and (self._state.moves or self._undertaking.episode is not None):
            source = _SOURCES.get(self._state, "hold")
            occasion = self._occasion("hold" if source == "policy" else source)
            self._recorder.open(occasion, now_s, before=self._arms.commanded, gripper_opening=self._arms.gripper_openings())

    def _occasion(self, source: Source) -> Occasion:
        return self._undertaking.occasion(source, generation=self._generation, lease=self._lease)

    def _close_step(self, now_s: float) -> None:
        step = self._recorder.close(now_s, self._arms.commanded)
        if step is not None:
            self._publish(step)

    def _say(self, kind: str, text: str, operator: str | None = None) -> None:
        now_s, episode_id = self._clock.monotonic_s(), self._undertaking.episode_id
        self._publish(m.Event(time_monotonic_s=now_s, kind=kind, operator=operator, text=text, episode_id=episode_id))

    def _status(self, now_s: float) -> m.Status:
        self._status_sequence += 1
        undertaking, value = self._undertaking, self._undertaking.value
        is_held = self._lease.is_alive(now_s)
        return m.Status(
            sequence=self._status_sequence,
            time_monotonic_s=now_s,
            state=self._state,
            reason=self._reason,
            generation=self._generation,
            holder=self._lease.holder if is_held else None,
            fence=self._lease.fence,
            lease_age_s=self._lease.age_s(now_s) if is_held else None,
            operator_of_last_change=self._operator,
            arms=self._arms.status(now_s),
            episode_id=undertaking.episode_id,
            instruction=undertaking.episode.instruction if undertaking.episode else "",
            checkpoint=undertaking.checkpoint,
            intervention_id=undertaking.intervention_id if self._state is State.HUMAN else -1,
            value=value.value if value else None,
            advantage=value.advantage if value else None,
            threshold=value.threshold if value else None,
            waiting_for=undertaking.waiting_for(now_s),
            ticks=self._timing.num_ticks,
            late_ticks=self._timing.num_late,
            tick_late_p99_ms=self._timing.p99_ms(),
            clipped_ticks=self._clipped_ticks,
            dropped_actions=self._plan.num_dropped,
        )
