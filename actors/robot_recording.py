"""From what a supervisor recorded to an Episode: every step as it was executed, by whom, and what limits made of it.

Hop 3 of the tour on a real robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.experience import Collection, Episode, EpisodeEnd, Observation, Provenance, Source
from core.robot_steps import InterventionPhase, RobotSteps
from core.specs import EnvSpec

_SOURCES = {"policy": Source.POLICY, "human": Source.HUMAN, "hold": Source.HOLD, "home": Source.HOLD}
_PHASES = {
    "none": InterventionPhase.NONE,
    "recovery": InterventionPhase.RECOVERY,
    "correction": InterventionPhase.CORRECTION,
}


def acted(recorded: Sequence[Any]) -> list[Any]:
    """Without the steps after the last in which somebody acted; ``recorded``: ``envs.real_episode.RecordedStep``."""
    last = max((index for index, each in enumerate(recorded) if each.step.source in ("policy", "human")), default=-1)
    return list(recorded[: last + 1])


def episode_of(
    first: Any,
    recorded: Sequence[Any],
    *,
    spec: EnvSpec,
    instruction: str,
    end: EpisodeEnd,
    provenance: Provenance,
    policy_version: int,
    checkpoint: str,
    limits_digest: str,
) -> Episode:
    """Put an episode together.

    Args:
        first: ``envs.real_senses.Seen`` at the start of the first step.
        recorded: T ``envs.real_episode.RecordedStep``, at least one.
        spec: of the robot.
        instruction: what it was asked to do.
        end: how it ended; success is the only reward.
        provenance: in a demonstration nobody intervenes, whoever acts.
        policy_version: of the policy that was loaded; -1 for none.
        checkpoint: its name, as the supervisor was told.
        limits_digest: of the supervisor's limits.
    """
    steps = [each.step for each in recorded]
    observations: list[Observation] = [first.observation, *(each.after for each in recorded)]
    source = np.array([int(_SOURCES[step.source]) for step in steps], np.int8)
    operators = tuple(sorted({step.operator for step in steps if step.operator is not None}))
    is_demonstration = provenance.collection is Collection.DEMONSTRATION
    reward = np.zeros(len(steps), np.float32)
    reward[-1] = float(end is EpisodeEnd.SUCCESS)

    def actions(rows: Sequence[tuple[float, ...] | None]) -> NDArray[np.float32]:
        return np.array([[np.nan] * spec.action.dim if row is None else row for row in rows], np.float32)

    def numbers(rows: Sequence[float | None], missing: float) -> NDArray[np.float32]:
        return np.array([missing if row is None else row for row in rows], np.float32)

    return Episode(
        images={camera.name: np.stack([seen.images[camera.name] for seen in observations]) for camera in spec.cameras},
        state=np.stack([seen.state for seen in observations]).astype(np.float32),
        time_s=np.array([steps[0].start_monotonic_s, *(each.after.time_s for each in recorded)], np.float64),
        executed_action=actions([step.executed_action for step in steps]),
        policy_action=actions([step.policy_action for step in steps]),
        supervisor_action=actions([None] * len(steps)),
        source=source,
        intervention_id=_renumbered([-1 if is_demonstration else step.intervention_id for step in steps]),
        reward=reward,
        policy_version=np.where(source == Source.POLICY, policy_version, -1).astype(np.int32),
        action_age_s=numbers([step.observation_age_s for step in steps], 0.0),
        instruction=instruction,
        end=end,
        env_spec=spec,
        provenance=provenance,
        robot=RobotSteps(
            requested_action=actions([step.requested_action for step in steps]),
            clip_mask=np.array([step.clip_mask for step in steps], np.int32),
            phase=np.array([int(_PHASES[step.phase]) for step in steps], np.int8),
            lease=np.array([-1 if step.fence is None else step.fence for step in steps], np.int32),
            operator=np.array([-1 if s.operator is None else operators.index(s.operator) for s in steps], np.int16),
            plan_age_s=numbers([step.action_age_s for step in steps], np.nan),
            tick_late_s=np.array([step.tick_late_ms / 1000 for step in steps], np.float32),
            frame_age_s=np.array([first.frame_age_s, *(each.frame_age_s for each in recorded)], np.float32),
            operators=operators,
            checkpoint=checkpoint,
            limits_digest=limits_digest,
        ),
    )


def _renumbered(ids: Sequence[int]) -> NDArray[np.int32]:
    """The supervisor counts takeovers since it was started; an episode counts its own, from 0."""
    order = {found: number for number, found in enumerate(dict.fromkeys(each for each in ids if each >= 0))}
    return np.array([order.get(each, -1) for each in ids], np.int32)
