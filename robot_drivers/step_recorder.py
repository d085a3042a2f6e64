"""Cuts the stream of ticks into steps, one an action, for the robot actor to store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from robot_drivers.action_plan import PlannedAction
from robot_drivers.messages import Phase, Step
from robot_drivers.safety_filter import ACTION_DIM, Clip, Commanded, SafetyFilter, Vector

Source: TypeAlias = Literal["policy", "human", "hold", "home"]


@dataclass(kw_only=True)
class OpenStep:
    """A step that is still going on."""

    source: Source
    start_s: float
    before: tuple[Commanded, ...] | None
    """One an arm; None while nothing is commanded."""
    requested: Vector
    """[A], so far."""
    generation: int
    episode_id: str | None
    checkpoint: str | None
    operator: str | None = None
    fence: int | None = None
    intervention_id: int = -1
    phase: Phase = Phase.NONE
    planned: PlannedAction | None = None
    clip: Clip = Clip.NONE
    tick_late_s: float = 0.0
    gripper_opening: list[float] = field(default_factory=list)
    """[N]: what the grippers were last told, or where they were; kept for steps in which nobody commands."""


class StepRecorder:
    """Opens and closes steps; the supervisor says when."""

    def __init__(self, filters: Sequence[SafetyFilter]) -> None:
        self._filters = filters
        self._count = 0
        self.current: OpenStep | None = None

    def open(self, step: OpenStep) -> None:
        """Begin a step; the one before must have been closed."""
        self.current = step

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
        planned = step.planned
        return Step(
            index=self._count - 1,
            episode_id=step.episode_id,
            start_monotonic_s=step.start_s,
            duration_s=now_s - step.start_s,
            source=step.source,
            operator=step.operator,
            fence=step.fence,
            generation=step.generation,
            checkpoint=planned.checkpoint if planned else step.checkpoint,
            policy_action=planned.action if planned else None,
            requested_action=tuple(np.asarray(step.requested).tolist()),
            executed_action=tuple(executed),
            clip_mask=int(step.clip),
            intervention_id=step.intervention_id,
            phase=step.phase,
            observation_sequence=planned.observation_sequence if planned else None,
            observation_age_s=step.start_s - planned.observation_s if planned else None,
            action_age_s=step.start_s - planned.received_s if planned else None,
            tick_late_ms=1000 * step.tick_late_s,
        )
