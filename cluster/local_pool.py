"""A rollout pool of one worker in this process: the twin of ``cluster.ray_pool.RayRolloutPool``, without Ray.

Hop 3 of the tour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cluster.rollout_host import (
    EpisodeReport,
    EpisodeRequest,
    EpisodeSpec,
    MakeRunner,
    MakeSink,
    PolicySource,
    RolloutHost,
    current_policy,
)


class LocalRolloutPool:
    """Runs episodes in this process, in the order given.

    Consumes: EpisodeSpecs, a policy checkpoint. Produces: committed episodes, EpisodeReports. Waits for: the episode, which
    runs while the caller asks for the next report; between two reports nothing happens.
    """

    def __init__(self, make_runner: MakeRunner, make_sink: MakeSink, *, name: str = "worker0") -> None:
        """Build the worker; ``name`` is also the name of its writer in the replay store."""
        self._host = RolloutHost(make_runner, make_sink, name)

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed.

        Args:
            episodes: what to run; taken one by one, so that an endless iterator is fine.
            policy: see ``PolicySource``; the answer of a function holds from the next episode on.
            on_episode: called with each report before it is yielded.

        Raises:
            RecapError: whatever the environment, the policy or the store raises.
        """
        for spec in episodes:
            report = self._host.run(EpisodeRequest(spec=spec, policy=current_policy(policy)))
            if on_episode is not None:
                on_episode(report)
            yield report

    def close(self) -> None:
        """Free the environment."""
        self._host.close()
