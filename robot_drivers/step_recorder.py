"""Cuts the stream of ticks into steps, one an action, for the robot actor to store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from robot_drivers.action_plan import PlannedAction
from robot_drivers.messages import HumanInput, Phase, Step
from robot_drivers.safety_filter import ACTION_DIM, Clip, Commanded, SafetyFilter, Vector

Source: TypeAlias = Literal["policy", "human", "hold", "home"]


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """Who acts in a step, and in which episode."""

    source: Source
    generation: int
    episode_id: str | None
    checkpoint: str | None
    operator: str | None
    fence: int | None
    intervention_id: int
    phase: Phase


@dataclass(kw_only=True)
class OpenStep:
    """A step that is still going on."""

    occasion: Occasion
    start_s: float
    before: tuple[Commanded, ...] | None
    """One an arm; None while nothing is commanded."""
    requested: Vector
    """[A], so far."""
    gripper_opening: list[float]
    """[N]: what the grippers were last told, or where they were; kept for steps in which nobody commands."""
    planned: PlannedAction | None = None
    clip: Clip = Clip.NONE
    tick_late_s: float = 0.0


class StepRecorder:
    """Opens, fills and closes steps; the supervisor says when."""

    def __init__(self, filters: Sequence[SafetyFilter], *, tick_s: float, control_s: float) -> None:
        """``filters``: of the arms. ``tick_s``, ``control_s``: between two ticks, and between two actions of a policy."""
        self._filters = filters
        self._tick_s = tick_s
        self._control_s = control_s
        self._count = 0
        self.current: OpenStep | None = None

    def open(
        self, occasion: Occasion, now_s: float, *, before: tuple[Commanded, ...] | None, gripper_opening: list[float]
    ) -> OpenStep:
        """Begin a step in which nothing was requested yet but that the grippers stay; the one before must have been closed."""
        requested = np.zeros(ACTION_DIM * len(self._filters))
        requested[ACTION_DIM - 1 :: ACTION_DIM] = gripper_opening
        self.current = OpenStep(
            occasion=occasion, start_s=now_s, before=before, requested=requested, gripper_opening=gripper_opening
        )
        return self.current

    def add_tick(self, clip: Clip, planned: PlannedAction | None, hand: HumanInput | None) -> None:
        """One tick of motion was commanded.

        Args:
            clip: what limits changed.
            planned: the policy's action that begins, or would begin if a person did not act.
            hand: what a person asks for in this tick, if one does.
        """
        step = self.current
        if step is None:
            return
        step.clip |= clip
        step.planned = step.planned or planned
        if hand is None:
            return
        for index, (twist, opening) in enumerate(zip(hand.twist, hand.gripper_opening, strict=True)):
            start = ACTION_DIM * index
            step.requested[start : start + 6] += np.array(twist) * self._tick_s
            if opening is not None:
                step.requested[start + 6] = opening

    def has_lasted(self, now_s: float, late_s: float) -> bool:
        """Whether a step is open that has lasted long enough; ``late_s``: of this tick.

        A policy's own is ended by its next action, or, where none comes, half an action late.
        """
        step = self.current
        if step is None:
            return False
        step.tick_late_s = max(step.tick_late_s, late_s)
        periods = 1.5 if step.occasion.source == "policy" else 1.0
        return now_s - step.start_s >= periods * self._control_s - self._tick_s / 2

    def close(self, now_s: float, after: tuple[Commanded, ...] | None) -> Step | None:
        """End the step that is open, if one is.

        Args:
            now_s: its end.
            after: what the arms were last told, one an arm; None if nothing.
        """
        step, self.current = self.current, None
        if step is None or now_s <= step.start_s:
            return None
        self._count += 1
        if step.before is not None and after is not None:
            arms = zip(self._filters, step.before, after, strict=True)
            executed = [value for safety, before, end in arms for value in safety.executed(before, end)]
        else:
            executed = [0.0] * (ACTION_DIM * len(self._filters))
            executed[ACTION_DIM - 1 :: ACTION_DIM] = step.gripper_opening
        planned, occasion = step.planned, step.occasion
        return Step(
            index=self._count - 1,
            episode_id=occasion.episode_id,
            start_monotonic_s=step.start_s,
            duration_s=now_s - step.start_s,
            source=occasion.source,
            operator=occasion.operator,
            fence=occasion.fence,
            generation=occasion.generation,
            checkpoint=planned.checkpoint if planned else occasion.checkpoint,
            policy_action=planned.action if planned else None,
            requested_action=tuple(np.asarray(step.requested).tolist()),
            executed_action=tuple(executed),
            clip_mask=int(step.clip),
            intervention_id=occasion.intervention_id,
            phase=occasion.phase,
            observation_sequence=planned.observation_sequence if planned else None,
            observation_age_s=step.start_s - planned.observation_s if planned else None,
            action_age_s=step.start_s - planned.received_s if planned else None,
            tick_late_ms=1000 * step.tick_late_s,
        )
