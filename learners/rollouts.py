"""Where a run's rollouts and evaluations come from: in turn with learning, or at the same time.

Hops 1 to 4 and 10 of the tour, as the loop sees them. Two classes with the same calls; the schedule is chosen once, when
the run is built.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from actors.collection import Purpose, committed, complete, episode_seeds, evaluation_seeds
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint, RolloutPool
from configs.schema import ExperimentConfig
from core.errors import WorkerError
from core.experience import Collection
from core.ids import EpisodeId
from learners.joined_store import JoinedStore
from learners.run_directory import RunDirectory
from replay.rate_limiter import RateLimiterConfig, SamplesPerInsertLimiter

_log = logging.getLogger(__name__)

MAX_POLICY_AGE = 3
"""Versions that the policy of a rollout may be behind the newest one when it is first used. The limiter keeps rollouts this
fresh where episodes end about in the order in which they began."""

OnCount = Callable[[int], None]
"""Told how many episodes there are."""
_POLL_S = 0.1
_STALLED_S = 3600.0


class Rollouts(Protocol):
    """What the phases of an iteration ask for."""

    def collect(self, iteration: int, on_count: OnCount) -> list[EpisodeId]:
        """The rollouts of an iteration."""
        ...

    def collect_again(self, iteration: int, left: list[EpisodeId], on_count: OnCount) -> list[EpisodeId]:
        """The rollouts of an iteration that is over and of which ``left`` are left in the store."""
        ...

    def evaluate(self, version: int, on_count: OnCount) -> list[EpisodeId]:
        """Episodes of a policy version on the fixed seeds, in the order of the seeds."""
        ...

    def before_samples(self, num_samples: int) -> None:
        """Called before the learner draws; may wait until enough was collected."""
        ...

    def close(self) -> None:
        """Stop whatever runs in the background."""
        ...


class SyncRollouts:
    """Collects when asked, with the policy published last; nothing happens in between.

    Consumes: seeds. Produces: committed episodes, in the order of their seeds whichever worker was faster. Waits for: the pool.
    """

    def __init__(self, config: ExperimentConfig, run: RunDirectory, store: JoinedStore, pool: RolloutPool) -> None:
        """``pool`` commits to the first of the joined stores."""
        self._config = config
        self._run = run
        self._store = store
        self._pool = pool

    def collect(self, iteration: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`."""
        seeds = episode_seeds(self._config.seed, iteration, self._config.recap.episodes_per_iteration)
        purpose = Purpose(run=self._run.name, collection=Collection.ROLLOUT)
        version = iteration - 1  # published before an iteration begins; a newer one where the iteration is mended
        return self._complete(purpose, seeds, PolicyCheckpoint.of(version, self._run.policy(version)), on_count)

    def collect_again(self, iteration: int, left: list[EpisodeId], on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`: what is missing is played again, with the same seeds and policy, so it is the same."""
        return self.collect(iteration, on_count)

    def evaluate(self, version: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`."""
        purpose, seeds = evaluation_of(self._config, self._run, version)
        return self._complete(purpose, seeds, PolicyCheckpoint.of(version, self._run.policy(version)), on_count)

    def before_samples(self, num_samples: int) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing runs in the background."""

    def _complete(self, purpose: Purpose, seeds: list[int], policy: PolicyCheckpoint, on_count: OnCount) -> list[EpisodeId]:
        def play(missing: list[int]) -> Iterator[Any]:
            return self._pool.collect([EpisodeSpec(seed=s, collection=purpose.collection) for s in missing], policy=policy)

        return complete(self._store, purpose, seeds, play, on_count=on_count)


class AsyncRollouts:
    """Collects without a pause, in a thread, with the policy that is the newest when an episode begins.

    Calls may come from two threads, one that collects and one that evaluates and draws.

    Consumes: seeds, evaluation requests (these go first). Produces: committed episodes. Waits for: the samples-per-insert
    limiter, so that collection is never more than about one and a half iterations ahead of the policy learner. On failure: the
    error is raised in the loop at its next call. Invariant: an iteration takes every rollout committed before it began and
    none twice, but none whose policy is more than ``MAX_POLICY_AGE`` versions old: what a slow worker brings that late stays
    in the store, unused, and another rollout takes its place.
    """

    def __init__(self, config: ExperimentConfig, run: RunDirectory, store: JoinedStore, pool: RolloutPool) -> None:
        """``pool`` commits to the first of the joined stores; nothing starts before :meth:`collect` is called."""
        self._config = config
        self._run = run
        self._store = store
        self._pool = pool
        self._purpose = Purpose(run=run.name, collection=Collection.ROLLOUT)
        self._limiter = SamplesPerInsertLimiter(_limits(config))
        self._too_old: set[EpisodeId] = set()
        self._evaluations: deque[tuple[int, int]] = deque()
        """(version, seed)."""
        self._next_policy: PolicyCheckpoint | None = None
        self._is_closing = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def collect(self, iteration: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`; in the order of the run's seeds, which is about the order in which they began."""
        self._start()
        wanted = self._config.recap.episodes_per_iteration
        earlier = {e for k in range(1, iteration) for e in self._run.result(f"{k:03d}/collect")["episodes"]}

        def fresh() -> list[EpisodeId]:
            found = [e for e in committed(self._store, self._purpose, self._seeds()).values() if e not in earlier]
            self._put_aside([e for e in found if self._age(e, iteration) > MAX_POLICY_AGE])
            return [e for e in found if e not in self._too_old]

        return self._await(fresh, wanted, on_count)

    def collect_again(self, iteration: int, left: list[EpisodeId], on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`: ``left``, because who played which seed depends on time."""
        return left

    def evaluate(self, version: int, on_count: OnCount) -> list[EpisodeId]:
        """See :class:`Rollouts`; shares the workers with collection, and goes first."""
        self._start()
        purpose, seeds = evaluation_of(self._config, self._run, version)
        have = committed(self._store, purpose, seeds)
        self._evaluations.extend((version, seed) for seed in seeds if seed not in have)
        return self._await(lambda: list(committed(self._store, purpose, seeds).values()), len(seeds), on_count)

    def before_samples(self, num_samples: int) -> None:
        """Wait until collection has kept pace."""
        while not self._limiter.can_sample(num_samples):
            self._raise_error()
            time.sleep(_POLL_S)
        self._limiter.await_sample(num_samples, timeout_s=_STALLED_S)

    def close(self) -> None:
        """Stop collecting; episodes in progress are dropped."""
        self._is_closing.set()
        if self._thread is not None:
            self._pool.close()
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = self._started()

    def _started(self) -> threading.Thread:
        recap = self._config.recap
        done = set(committed(self._store, self._purpose, self._seeds()))
        self._limiter.count_inserts(len(done))
        # A resumed run: the learner drew its share in the iterations before.
        updates = sum(self._run.is_done(f"{k:03d}/update_policy") for k in range(1, recap.iterations + 1))
        samples = updates * recap.policy.num_steps * recap.policy.batch_size
        self._limiter.load_state_dict({**self._limiter.state_dict(), "num_samples": samples})
        missing = [seed for seed in self._seeds() if seed not in done]
        thread = threading.Thread(target=self._collect_for_ever, args=(missing,), name="async-rollouts", daemon=True)
        thread.start()
        return thread

    def _collect_for_ever(self, missing: list[int]) -> None:
        try:
            for _ in self._pool.collect(self._specs(deque(missing)), policy=self._policy_of_next):
                pass
        except BaseException as error:
            self._error = error

    def _policy_of_next(self) -> PolicyCheckpoint:
        assert self._next_policy is not None, "the pool asks for a policy right after it took a spec"
        return self._next_policy

    def _specs(self, missing: deque[int]) -> Iterator[EpisodeSpec]:
        """What to play next; sets the policy that the pool asks for right after."""
        while not self._is_closing.is_set():
            if self._evaluations:
                version, seed = self._evaluations.popleft()
                self._next_policy = PolicyCheckpoint.of(version, self._run.policy(version))
                yield EpisodeSpec(seed=seed, collection=Collection.EVALUATION)
            elif missing and self._limiter.can_insert():
                self._limiter.count_inserts(1)
                self._next_policy = published_policy(self._run)
                yield EpisodeSpec(seed=missing.popleft(), collection=Collection.ROLLOUT)
            else:
                time.sleep(_POLL_S)

    def _age(self, episode: EpisodeId, iteration: int) -> int:
        """Versions between the policy that played and the newest that there can be when the iteration is used."""
        version = int(self._store.info(episode).policy_version_max)
        return iteration - 1 - version if version >= 0 else 0  # -1: a person did all of it

    def _put_aside(self, too_old: list[EpisodeId]) -> None:
        for episode in set(too_old) - self._too_old:
            self._too_old.add(episode)
            self._limiter.count_inserts(-1)  # nobody learns from it: another may begin
            _log.warning("rollout %s came too late: its policy is more than %d versions old; unused", episode, MAX_POLICY_AGE)

    def _seeds(self) -> list[int]:
        """Of all rollouts that the run can come to want: twice what it needs."""
        recap = self._config.recap
        return episode_seeds(self._config.seed, 1, 2 * recap.iterations * recap.episodes_per_iteration)

    def _await(self, found: Callable[[], list[EpisodeId]], wanted: int, on_count: OnCount) -> list[EpisodeId]:
        while True:
            episodes = found()
            on_count(min(len(episodes), wanted))
            if len(episodes) >= wanted:
                return episodes
            self._raise_error()
            time.sleep(_POLL_S)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
        if self._thread is not None and not self._thread.is_alive():
            raise WorkerError("collection in the background has ended before the run has; resume the run")


def evaluation_of(config: ExperimentConfig, run: RunDirectory, version: int) -> tuple[Purpose, list[int]]:
    """What an evaluation of a policy version consists of."""
    purpose = Purpose(run=run.name, collection=Collection.EVALUATION, policy_version=version)
    return purpose, evaluation_seeds(config.evaluation.first_seed, config.evaluation.num_episodes)


def published_policy(run: RunDirectory) -> PolicyCheckpoint:
    """The policy that actors play now."""
    version = run.published()
    return PolicyCheckpoint.of(version, run.policy(version))


def _limits(config: ExperimentConfig) -> RateLimiterConfig:
    """An insert is an episode, a sample a window; over an iteration both sides take exactly their share."""
    recap = config.recap
    samples = recap.policy.num_steps * recap.policy.batch_size
    return RateLimiterConfig(
        samples_per_insert=samples / recap.episodes_per_iteration,
        min_size_to_sample=recap.episodes_per_iteration,
        error_buffer=max(1.5 * samples, samples / recap.episodes_per_iteration, recap.policy.batch_size),
    )
