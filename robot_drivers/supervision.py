"""The safety supervisor's mind: requests in, one tick after the other, targets out. It knows no socket, no process and no thread.

:meth:`Supervision.handle` answers a client, :meth:`Supervision.tick` is called at the tick rate; both take one lock and neither
waits for an arm, so that a stop takes effect in the call that asks for it. Every change of state grows the *generation*: whatever
was on its way belongs to an older one and is dropped, here, in the link and in the driver.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.clock import Clock
from robot_drivers import messages as m
from robot_drivers.action_plan import ActionPlan, PlannedAction
from robot_drivers.arm_group import ArmGroup
from robot_drivers.arm_link import ArmLink
from robot_drivers.driver import StopKind
from robot_drivers.lease import HeldError, Lease
from robot_drivers.limits import RobotConfig
from robot_drivers.safety_filter import ACTION_DIM, Clip, Commanded, UnsafeError, Vector
from robot_drivers.states import RefusedError, Role, State, Trigger, next_state
from robot_drivers.step_recorder import OpenStep, Source, StepRecorder
from robot_drivers.watchdogs import ClampWatch, TickTiming

_STATUS_HZ = 20.0
_QUIET_S = 0.5
"""Without any input before a reset: nobody holds a key down."""
_RANK = {Role.VIEW: 0, Role.POLICY: 0, Role.OPERATE: 1, Role.SUPERVISE: 2}
_STOP_KINDS = {Trigger.STOP: StopKind.HARD, Trigger.WRONG: StopKind.SLOW, Trigger.LINK_DOWN: StopKind.SLOW}
_SOURCES: dict[State, Source] = {State.POLICY: "policy", State.HUMAN: "human", State.HOMING: "home"}
Telemetry = m.Status | m.Step | m.Event


@dataclass(frozen=True, kw_only=True)
class _Episode:
    episode_id: str
    instruction: str
    checkpoint: str


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
        self._episode: _Episode | None = None
        self._intervention_id = -1
        self._phase = m.Phase.NONE
        self._value: m.ReportValue | None = None
        self._status_sequence = 0
        self._next_status_s = -math.inf
        self._clipped_ticks = 0
        watchdog = config.watchdog
        self._timing = TickTiming(late_s=watchdog.late_tick_s, window_s=watchdog.late_window_s, period_s=self._period_s)
        self._clamps = ClampWatch(window_s=watchdog.clamp_window_s, control_hz=config.control_hz)
        self._recorder = StepRecorder(self._arms.filters)

    @property
    def state(self) -> State:
        """Now."""
        return self._state

    def welcome(self, role: Role) -> m.Welcome:
        """What a client is told first."""
        names, units = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), ("m", "m", "m", "rad", "rad", "rad", "1")
        bounds = [(a.limits.max_step_m / math.sqrt(3), a.limits.max_step_rad / math.sqrt(3)) for a in self._config.arms]
        return m.Welcome(
            version=m.VERSION,
            role=role,
            robot=self._config.name,
            arms=tuple(arm.name for arm in self._config.arms),
            action_names=tuple(f"{arm.name}.{name}" for arm in self._config.arms for name in names),
            action_units=units * len(self._config.arms),
            action_low=tuple(v for step, turn in bounds for v in (-step, -step, -step, -turn, -turn, -turn, 0.0)),
            action_high=tuple(v for step, turn in bounds for v in (step, step, step, turn, turn, turn, 1.0)),
            control_hz=self._config.control_hz,
            limits_digest=self._config.digest,
            lease_ttl_s=self._config.lease_ttl_s,
        )

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

    def _answer(self, request: m.Request, role: Role) -> int | None:
        if isinstance(request, m.Stop):
            self._go(Trigger.STOP, f"stopped by {request.operator}: {request.reason or 'no reason given'}", request.operator)
        elif isinstance(request, m.ProposeChunk | m.BeginEpisode | m.EndEpisode | m.ReportValue):
            if role is not Role.POLICY:
                raise RefusedError(f"role {role.value} may not send {type(request).__name__}; expected the token of role policy")
            self._answer_policy(request)
        elif isinstance(request, m.PersonsRequest):
            effective = min(role, request.role, key=_RANK.__getitem__)
            if _RANK[effective] < _RANK[Role.OPERATE]:
                raise RefusedError(f"{request.operator} has role {effective.value}; {type(request).__name__} needs operate")
            return self._answer_person(request, effective)
        elif isinstance(request, m.HumanInput | m.Release):
            if _RANK[role] < _RANK[Role.OPERATE]:
                raise RefusedError(f"role {role.value} may not move the robot; expected operate")
            self._answer_hand(request)
        else:
            raise RefusedError(f"no answer to {type(request).__name__} here")
        return None

    def _answer_policy(self, request: m.ProposeChunk | m.BeginEpisode | m.EndEpisode | m.ReportValue) -> None:
        if isinstance(request, m.ProposeChunk):
            self._take_chunk(request)
        elif isinstance(request, m.ReportValue):
            self._value = request
        elif isinstance(request, m.BeginEpisode):
            if self._state.moves or self._episode is not None:
                open_one = f"episode {self._episode.episode_id} is open" if self._episode else "the robot is moving"
                raise RefusedError(f"cannot begin an episode in state {self._state.value}: {open_one}; end it first")
            self._episode = _Episode(
                episode_id=request.episode_id, instruction=request.instruction, checkpoint=request.checkpoint
            )
            self._value = None
            self._end_generation()
            self._say("episode", f"begins with checkpoint {request.checkpoint}: {request.instruction}")
        else:
            if self._episode is None or self._episode.episode_id != request.episode_id:
                raise RefusedError(f"episode {request.episode_id} is not open; open is {self._episode}")
            if self._state is State.POLICY:
                self._go(Trigger.EPISODE_OVER, "the episode is over")
            self._close_step(self._clock.monotonic_s())
            self._say("episode", "ends")
            self._episode = None
            self._end_generation()

    def _take_chunk(self, chunk: m.ProposeChunk) -> None:
        if self._state not in (State.POLICY, State.HUMAN):
            raise RefusedError(f"no action is taken in state {self._state.value}; a person has to hand back to the policy")
        if chunk.generation != self._generation:
            raise RefusedError(f"a chunk of generation {chunk.generation}; the present one is {self._generation}. Look again.")
        if self._episode is not None and chunk.checkpoint != self._episode.checkpoint:
            raise RefusedError(
                f"a chunk of checkpoint {chunk.checkpoint} in an episode of {self._episode.checkpoint}; swap between episodes"
            )
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
        self._phase, self._input = request.phase, None
        self._intervention_id += 1
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
        self._input, self._phase = request, request.phase or self._phase

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
            self._input, self._phase = None, m.Phase.NONE
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
        step = self._recorder.current
        motions = self._arms.along(self._input) if is_human else self._arms.to_goals()
        clip = self._arms.advance(motions, generation=self._generation)
        self._clipped_ticks += clip is not Clip.NONE
        if step is not None:
            step.clip |= clip
            step.planned = step.planned or planned
            if is_human and self._input is not None:
                self._add_hand(step, self._input)
        if self._state is State.HOMING and self._arms.are_home():
            self._go(Trigger.HOMED, "home")

    def _begin_action(self, planned: PlannedAction, now_s: float) -> None:
        self._close_step(now_s)
        before = self._arms.commanded
        clip = self._arms.compose(planned.action)
        self._open_step("policy", now_s, before=before, planned=planned, requested=np.array(planned.action), clip=clip)
        self._last_action_s, self._has_acted = now_s, True
        self._clamps.add(now_s, was_clamped=clip is not Clip.NONE)

    def _add_hand(self, step: OpenStep, hand: m.HumanInput) -> None:
        """What was asked for in this tick, in action units."""
        for index, (twist, opening) in enumerate(zip(hand.twist, hand.gripper_opening, strict=True)):
            start = ACTION_DIM * index
            step.requested[start : start + 6] += np.array(twist) * self._period_s
            if opening is not None:
                step.requested[start + 6] = opening

    # --- what is told --------------------------------------------------------------------------------------------

    def _keep_step(self, now_s: float, late_s: float) -> None:
        """Close what has lasted long enough, open what has begun."""
        step, control_s = self._recorder.current, 1 / self._config.control_hz
        if step is not None:
            step.tick_late_s = max(step.tick_late_s, late_s)
            lasts_s = now_s - step.start_s
            if lasts_s >= (1.5 if step.source == "policy" else 1.0) * control_s - self._period_s / 2:
                self._close_step(now_s)
        if self._recorder.current is None and (self._state.moves or self._episode is not None):
            source = _SOURCES.get(self._state, "hold")
            self._open_step("hold" if source == "policy" else source, now_s)

    def _open_step(
        self,
        source: Source,
        now_s: float,
        *,
        before: tuple[Commanded, ...] | None = None,
        planned: PlannedAction | None = None,
        requested: Vector | None = None,
        clip: Clip = Clip.NONE,
    ) -> None:
        openings = self._arms.gripper_openings()
        if requested is None:
            requested = np.zeros(ACTION_DIM * len(self._arms))
            requested[ACTION_DIM - 1 :: ACTION_DIM] = openings
        is_human = source == "human"
        self._recorder.open(
            OpenStep(
                source=source,
                start_s=now_s,
                before=before or self._arms.commanded,
                requested=requested,
                generation=self._generation,
                episode_id=self._episode.episode_id if self._episode else None,
                checkpoint=self._episode.checkpoint if self._episode else None,
                operator=self._lease.holder if is_human else None,
                fence=self._lease.fence if is_human else None,
                intervention_id=self._intervention_id if is_human else -1,
                phase=self._phase if is_human else m.Phase.NONE,
                planned=planned,
                clip=clip,
                gripper_opening=openings,
            )
        )

    def _close_step(self, now_s: float) -> None:
        step = self._recorder.close(now_s, self._arms.commanded)
        if step is not None:
            self._publish(step)

    def _say(self, kind: str, text: str, operator: str | None = None) -> None:
        episode_id = self._episode.episode_id if self._episode else None
        now_s = self._clock.monotonic_s()
        self._publish(m.Event(time_monotonic_s=now_s, kind=kind, operator=operator, text=text, episode_id=episode_id))

    def _status(self, now_s: float) -> m.Status:
        self._status_sequence += 1
        value, episode = self._value, self._episode
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
            episode_id=episode.episode_id if episode else None,
            instruction=episode.instruction if episode else "",
            checkpoint=episode.checkpoint if episode else None,
            intervention_id=self._intervention_id if self._state is State.HUMAN else -1,
            value=value.value if value else None,
            advantage=value.advantage if value else None,
            threshold=value.threshold if value else None,
            ticks=self._timing.num_ticks,
            late_ticks=self._timing.num_late,
            tick_late_p99_ms=self._timing.p99_ms(),
            clipped_ticks=self._clipped_ticks,
            dropped_actions=self._plan.num_dropped,
        )
