"""How often people had to help: takeovers, minutes, by checkpoint; and which steps led up to a takeover.

Beside hop 4 of the tour: arrays of stored episodes -> counts. An intervention is one takeover, of as many steps as it lasted; a
demonstration has none, whoever acts in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from core.experience import Source
from core.ids import EpisodeId
from replay.schema import EpisodeInfo

_SECONDS_PER_MINUTE = 60.0


class Takeover(NamedTuple):
    """Steps ``start`` to ``stop`` (exclusive), in which one intervention lasted."""

    intervention_id: int
    start: int
    stop: int


class StoredSteps(Protocol):
    """The part of ``replay.episode_files.StepArrays`` that is counted."""

    @property
    def source(self) -> NDArray[np.int8]:
        """[T], values of Source."""
        ...

    @property
    def intervention_id(self) -> NDArray[np.int32]:
        """[T], -1 where nobody intervened."""
        ...

    @property
    def time_s(self) -> NDArray[np.float64]:
        """[T+1]."""
        ...


class InterventionStore(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that is read."""

    def info(self, episode_id: EpisodeId) -> EpisodeInfo:
        """Facts of one episode."""
        ...

    def steps(self, episode_id: EpisodeId) -> StoredSteps:
        """Its small arrays."""
        ...


class CheckpointKey(NamedTuple):
    """What is counted together."""

    env: str
    task: str
    checkpoint: str
    """As the robot's worker recorded it; ``version N`` in simulation; ``no policy`` for demonstrations."""


@dataclass(kw_only=True)
class InterventionStats:
    """Sums over the episodes of one checkpoint."""

    key: CheckpointKey
    num_episodes: int = 0
    num_intervened: int = 0
    """Episodes with a takeover."""
    num_autonomous_successes: int = 0
    """Solved without one."""
    num_interventions: int = 0
    policy_minutes: float = 0.0
    human_minutes: float = 0.0
    hold_minutes: float = 0.0
    """Nobody acted; no part of the rates."""

    @property
    def per_minute(self) -> float:
        """Takeovers a minute of the policy's time; NaN where it had none."""
        return self.num_interventions / self.policy_minutes if self.policy_minutes > 0 else float("nan")

    @property
    def human_fraction(self) -> float:
        """A person's share of the time in which somebody acted; NaN where nobody did."""
        acted = self.policy_minutes + self.human_minutes
        return self.human_minutes / acted if acted > 0 else float("nan")

    def add(self, info: EpisodeInfo, steps: StoredSteps) -> None:
        """Count one more episode."""
        minutes = np.diff(steps.time_s) / _SECONDS_PER_MINUTE
        count = len({span.intervention_id for span in takeovers(steps.intervention_id)})
        self.num_episodes += 1
        self.num_intervened += count > 0
        self.num_interventions += count
        self.num_autonomous_successes += count == 0 and info.end.value == "success"
        self.policy_minutes += float(minutes[steps.source == Source.POLICY].sum())
        self.human_minutes += float(minutes[steps.source == Source.HUMAN].sum())
        self.hold_minutes += float(minutes[steps.source == Source.HOLD].sum())

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; rates are null where there is nothing to divide by."""
        rates = {"per_minute": self.per_minute, "human_fraction": self.human_fraction}
        sums = {name: value for name, value in asdict(self).items() if name != "key"}
        return {**self.key._asdict(), **sums, **{name: rate if rate == rate else None for name, rate in rates.items()}}


def takeovers(intervention_id: NDArray[np.int32]) -> list[Takeover]:
    """The interventions of an episode, in order.

    Args:
        intervention_id: [T], -1 where nobody intervened.

    Example:
        >>> takeovers(np.array([-1, 0, 0, 1, -1]))
        [Takeover(intervention_id=0, start=1, stop=3), Takeover(intervention_id=1, start=3, stop=4)]
    """
    edges = np.flatnonzero(np.diff(intervention_id)) + 1
    bounds = [0, *edges.tolist(), len(intervention_id)]
    spans = [Takeover(int(intervention_id[a]), a, b) for a, b in itertools.pairwise(bounds) if b > a]
    return [span for span in spans if span.intervention_id >= 0]


def is_before_takeover(steps: StoredSteps, *, window_s: float) -> NDArray[np.bool_]:
    """The policy's steps that led up to a takeover: what Sirius (arXiv:2211.08416) weighs down.

    Args:
        steps: of one episode.
        window_s: how long before the takeover a step may have begun.

    Returns:
        [T]; false on steps in which a person or nobody acted.
    """
    found = np.zeros(len(steps.source), bool)
    start_s = steps.time_s[:-1]
    for span in takeovers(steps.intervention_id):
        found |= (start_s < start_s[span.start]) & (start_s >= start_s[span.start] - window_s)
    return found & (steps.source == Source.POLICY)


def intervention_stats(store: InterventionStore, episode_ids: Iterable[EpisodeId]) -> list[InterventionStats]:
    """Count by checkpoint; in the order of their keys."""
    found: dict[CheckpointKey, InterventionStats] = {}
    for episode_id in episode_ids:
        info = store.info(episode_id)
        key = CheckpointKey(info.provenance.env, info.provenance.task, _checkpoint(info))
        found.setdefault(key, InterventionStats(key=key)).add(info, store.steps(episode_id))
    return [found[key] for key in sorted(found)]


def _checkpoint(info: EpisodeInfo) -> str:
    recorded = info.provenance.annotations.get("checkpoint")
    if recorded:
        return str(recorded)
    return f"version {info.policy_version_max}" if info.policy_version_max >= 0 else "no policy"
