"""Where a run's rollouts and evaluations come from: in turn with learning, at the same time, or from another run.

Hops 1 to 4 and 10 of the tour, as the loop sees them. Three classes with the same calls; the schedule is chosen once, when
the run is built.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.collection import Purpose, committed, complete, episode_seeds, evaluation_seeds
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint, RolloutPool
from configs.schema import ExperimentConfig
from core.errors import WorkerError
from core.experience import Collection
from core.ids import EpisodeId
from learners.run_directory import RunDirectory
from replay.rate_limiter import SamplesPerInsertLimiter

OnCount = Callable[[int], None]
"""Told how many episodes there are."""


class Rollouts(Protocol):
    """What the phases of an iteration ask for."""

    def collect(self, iteration: int, on_count: OnCount) -> list[EpisodeId]:
        """The rollouts of an iteration, in an order that does not depend on which worker was faster."""
        ...

    def evaluate(self, version: int, on_count: OnCount) -> list[EpisodeId]:
        """Episodes of a policy version on the fixed seeds."""
        ...

    def before_samples(self, num_samples: int) -> None:
        """Called before the learner draws; may wait until enough was collected."""
        ...

    def close(self) -> None:
        """Stop whatever runs in the background."""
        ...


class SyncRollouts:
    """Collects when asked, with the policy published last; nothing happens in between."""

    def __init__(self, config: ExperimentConfig, run: RunDirectory, store: Any, pool: RolloutPool) -> None:
        """``store`` is a ``replay.episode_store.EpisodeStore`` or several joined; ``pool`` commits to it."""
        self._config = config
        self._run = run
        self._store = store
        self._pool = pool

    def collect(self, iteration: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`."""
        seeds = episode_seeds(self._config.seed, iteration, self._config.recap.episodes_per_iteration)
        policy = published_policy(self._run)
        return self._complete(Purpose(run=self._run.name, collection=Collection.ROLLOUT), seeds, policy, on_count)

    def evaluate(self, version: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`."""
        purpose = Purpose(run=self._run.name, collection=Collection.EVALUATION, policy_version=version)
        seeds = evaluation_seeds(self._config.evaluation.first_seed, self._config.evaluation.num_episodes)
        policy = PolicyCheckpoint.of(version, self._run.policy(version))
        return self._complete(purpose, seeds, policy, on_count)

    def before_samples(self, num_samples: int) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing runs in the background."""

    def _complete(self, purpose: Purpose, seeds: list[int], policy: PolicyCheckpoint, on_count: OnCount) -> list[EpisodeId]:
        def play(missing: list[int]) -> Iterator[Any]:
            return self._pool.collect([EpisodeSpec(seed=s, collection=purpose.collection) for s in missing], policy=policy)

        return complete(self._store, purpose, seeds, play, on_count=on_count)


def published_policy(run: RunDirectory) -> PolicyCheckpoint:
    """The policy that actors play now."""
    version = run.published()
    return PolicyCheckpoint.of(version, run.policy(version))
