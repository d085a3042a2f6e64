"""A rollout pool of one worker in this process: the twin of ``cluster.ray_pool.RayRolloutPool``, without Ray.

Hop 3 of the tour.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator

from cluster.rollout_host import (
    EpisodeReport,
    EpisodeRequest,
    EpisodeSpec,
    MakeRunner,
    MakeSink,
    OnFailure,
    PolicySource,
    RolloutHost,
    current_policy,
    give_up,
)
from core.errors import RecapError, WorkerError

_log = logging.getLogger(__name__)


class LocalRolloutPool:
    """Runs episodes in this process, in the order given.

    Consumes: EpisodeSpecs, a policy checkpoint. Produces: committed episodes, EpisodeReports. Waits for: the episode, which
    runs while the caller asks for the next report; between two reports nothing happens. On failure: after an error that nobody
    raised on purpose, the worker is built anew and the episode begun again; after the second, a WorkerError.
    """

    def __init__(
        self, make_runner: MakeRunner, make_sink: MakeSink, *, name: str = "worker0", max_episode_retries: int = 1
    ) -> None:
        """Build the worker; ``name`` is also the name of its writer in the replay store."""
        self._make_runner = make_runner
        self._make_sink = make_sink
        self._name = name
        self._max_episode_retries = max_episode_retries
        self._num_rebuilt = 0
        self._host: RolloutHost | None = RolloutHost(make_runner, make_sink, name)

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed.

        Args:
            episodes: what to run; taken one by one, so that an endless iterator is fine.
            policy: see ``PolicySource``; the answer of a function holds from the next episode on.
            on_episode: called with each report before it is yielded.
            on_failure: see ``OnFailure``.

        Raises:
            WorkerError: if an episode crashed its worker more than ``max_episode_retries`` times.
            RecapError: whatever the environment, the policy or the store raises.
        """
        for spec in episodes:
            try:
                report = self._run(EpisodeRequest(spec=spec, policy=current_policy(policy)))
            except RecapError as error:
                on_failure(spec, error)
                continue
            if on_episode is not None:
                on_episode(report)
            yield report

    def close(self) -> None:
        """Free the environment."""
        if self._host is not None:
            self._host.close()

    def _run(self, request: EpisodeRequest) -> EpisodeReport:
        for num_attempts in range(1, self._max_episode_retries + 2):
            self._host = self._host or self._rebuilt()
            try:
                return dataclasses.replace(self._host.run(request), num_attempts=num_attempts)
            except RecapError:
                raise
            except Exception as error:
                crash = error
                _log.warning("rollout worker %s failed on seed %d", self._name, request.spec.seed, exc_info=error)
                self._host = None  # not closed: what failed may fail at that too
        raise WorkerError(
            f"the episode with seed {request.spec.seed} failed on {num_attempts} workers, the last time with "
            f"{type(crash).__name__}: {crash}"
        ) from crash

    def _rebuilt(self) -> RolloutHost:
        self._num_rebuilt += 1
        return RolloutHost(self._make_runner, self._make_sink, f"{self._name}-{self._num_rebuilt}")
