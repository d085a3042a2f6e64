"""A rollout pool and a labelling that say what they do, as events; otherwise as those they wrap.

What the events are for is in docs/observability.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from cluster.events import log_event
from cluster.rollout_host import EpisodeReport, EpisodeSpec, OnFailure, PolicySource, RolloutPool, current_policy, give_up
from core.errors import RecapError
from core.ids import EpisodeId
from value_service.client import Labelling, LabellingReport, OnProgress
from value_service.labeler import ValueCheckpoint


class StoreOfRun(Protocol):
    """The part of the replay store whose size is told."""

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        ...

    def info(self, episode_id: EpisodeId) -> Any:
        """With ``num_bytes``."""
        ...


class ObservedPool:
    """Says ``episode`` for every one that is committed, ``episode_failed`` for every one that will not come."""

    def __init__(self, pool: RolloutPool, store: StoreOfRun) -> None:
        """``store`` sees what ``pool`` commits."""
        self._pool = pool
        self._store = store

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """See ``RolloutPool``."""

        def told_failure(spec: EpisodeSpec, error: RecapError) -> None:
            log_event("episode_failed", seed=spec.seed, collection=spec.collection.value, error=str(error))
            on_failure(spec, error)

        reports = self._pool.collect(episodes, policy=policy, on_episode=on_episode, on_failure=told_failure)
        try:
            for report in reports:
                self._tell(report, policy)
                yield report
        finally:
            if isinstance(reports, Generator):  # whoever stops early stops the pool's workers too, and now
                reports.close()

    def close(self) -> None:
        """See ``RolloutPool``."""
        self._pool.close()

    def _tell(self, report: EpisodeReport, policy: PolicySource) -> None:
        newest = current_policy(policy)
        self._store.refresh()
        log_event(
            "episode",
            episode_id=report.episode_id,
            seed=report.seed,
            end=report.end.value,
            num_steps=report.num_steps,
            policy_version=report.policy_version,
            policy_age=newest.version - report.policy_version if newest is not None and report.policy_version >= 0 else 0,
            worker=report.worker,
            wall_s=report.wall_s if report.wall_s == report.wall_s else None,
            num_attempts=report.num_attempts,
            num_bytes=self._store.info(report.episode_id).num_bytes,
        )


class ObservedLabelling:
    """Says ``labels`` after every call."""

    def __init__(self, labelling: Labelling) -> None:
        """``labelling`` does the work."""
        self._labelling = labelling

    def load(self, checkpoint: ValueCheckpoint) -> None:
        """See ``Labelling``."""
        self._labelling.load(checkpoint)

    def label_many(
        self, episode_ids: Sequence[EpisodeId], checkpoint: ValueCheckpoint, on_progress: OnProgress | None = None
    ) -> LabellingReport:
        """See ``Labelling``."""
        started_s = time.perf_counter()
        report = self._labelling.label_many(episode_ids, checkpoint, on_progress)
        wall_s = round(time.perf_counter() - started_s, 3)
        log_event("labels", value_version=checkpoint.version, num_labelled=report.num_labelled, wall_s=wall_s)
        return report

    def close(self) -> None:
        """See ``Labelling``."""
        self._labelling.close()
