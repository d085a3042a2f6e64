"""What happens at one seat of a rollout pool: take the weights, run an episode, commit it, report. No Ray here.

Hops 3, 4 and 10 of the tour at once: (request) -> Episode -> EpisodeId, durable -> report. Both pools are made of these, so
that the same seeds give the same episodes in one process and in many. An episode never travels: the host that ran it
writes it to the replay store, and only its id and a few numbers go back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from core.errors import RecapError, WorkerError
from core.experience import Collection, Episode, EpisodeEnd
from core.ids import EpisodeId, new_episode_id


@dataclass(frozen=True, kw_only=True)
class PolicyCheckpoint:
    """A policy version and where its weights are."""

    version: int
    path: str
    """A checkpoint directory, readable where the worker runs."""

    @classmethod
    def of(cls, version: int, path: Path | str) -> PolicyCheckpoint:
        """From a path in either form, made absolute: a worker may run in another working directory."""
        return cls(version=version, path=str(Path(path).absolute()))


PolicySource: TypeAlias = PolicyCheckpoint | Callable[[], PolicyCheckpoint] | None
"""Which policy plays: one for all episodes; a function asked before each episode begins (for collecting while learning);
or None: the worker has its own, for example a scripted expert."""


@dataclass(frozen=True, kw_only=True)
class EpisodeSpec:
    """One episode that is wanted: what the caller of a pool says."""

    seed: int
    collection: Collection = Collection.ROLLOUT
    options: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the environment's reset."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRequest:
    """One episode that is begun: the pool adds the identifier and the policy.

    The identifier is fixed before the episode exists. A worker that dies after committing and before reporting has then
    left an episode that can be recognised, and is not made twice.
    """

    spec: EpisodeSpec
    policy: PolicyCheckpoint | None
    episode_id: EpisodeId = field(default_factory=new_episode_id)


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """A committed episode in a few numbers."""

    episode_id: EpisodeId
    seed: int
    end: EpisodeEnd
    num_steps: int
    policy_version: int
    """The version that was asked for; -1 where the worker plays its own."""
    worker: str
    wall_s: float
    """Time from the request to the commit, at the worker; NaN where the worker died after committing."""
    num_attempts: int = 1

    @property
    def is_success(self) -> bool:
        """Whether the task was solved."""
        return self.end is EpisodeEnd.SUCCESS


class EpisodeRunner(Protocol):
    """The part of ``actors.rollout_worker.RolloutWorker`` that is needed here."""

    def load_policy(self, path: Path) -> None:
        """Use a checkpoint for the episodes from now on."""
        ...

    def run_episode(self, seed: int, *, collection: Collection, options: dict[str, Any] | None) -> Episode:
        """Play one episode from reset to its end."""
        ...

    def close(self) -> None:
        """Free the environment."""
        ...


class EpisodeSink(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that is needed here."""

    def append(self, episode: Episode) -> EpisodeId:
        """Returns once the episode is durable."""
        ...


class CommittedEpisodes(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` with which a pool looks for what a dead worker left."""

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        ...

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All committed episodes."""
        ...

    def info(self, episode_id: EpisodeId) -> Any:
        """With ``num_steps`` and ``end``."""
        ...


MakeRunner: TypeAlias = Callable[[str], EpisodeRunner]
"""Builds a worker (environment, player, rollout worker) from its name, in the process where it will run."""
MakeSink: TypeAlias = Callable[[str], EpisodeSink]
"""Opens the replay store for writing under a writer name."""


OnFailure: TypeAlias = Callable[[EpisodeSpec, RecapError], None]
"""Told of an episode that will not come: its worker crashed too often, or an error was raised on purpose. It returns, and the
others go on; or it raises."""


def give_up(spec: EpisodeSpec, error: RecapError) -> None:
    """One episode that fails ends the collection."""
    raise error


class RolloutPool(Protocol):
    """What a learner uses: ``LocalRolloutPool``, ``ProcessRolloutPool`` and ``RayRolloutPool``.

    Example::

        for report in pool.collect([EpisodeSpec(seed=s) for s in seeds], policy=checkpoint):
            progress.advance(report)
    """

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed."""
        ...

    def close(self) -> None:
        """Stop all workers; an episode in progress is dropped, a committed one never."""
        ...


class RolloutHost:
    """Runs requests one after the other.

    Consumes: EpisodeRequests. Produces: episodes in the replay store, EpisodeReports. Waits for: the environment, the store.
    Invariant: weights change only between episodes, because a request names them and an episode is one request.
    """

    def __init__(self, make_runner: MakeRunner, make_sink: MakeSink, name: str) -> None:
        """Build the worker and open its writer; ``name`` is unique in the store."""
        self._name = name
        self._runner = make_runner(name)
        self._sink = make_sink(name)
        self._policy: PolicyCheckpoint | None = None

    def run(self, request: EpisodeRequest) -> EpisodeReport:
        """Run one episode and commit it.

        Raises:
            WorkerError: if the worker has no policy where the request gives none, or played another version.
            RecapError: whatever the environment, the policy or the store raises.
        """
        started_s = time.perf_counter()
        if request.policy is not None and request.policy != self._policy:
            self._runner.load_policy(Path(request.policy.path))
            self._policy = request.policy
        spec = request.spec
        played = self._runner.run_episode(spec.seed, collection=spec.collection, options=dict(spec.options) or None)
        episode = dataclasses.replace(played, episode_id=request.episode_id)
        version = -1 if request.policy is None else request.policy.version
        found = int(episode.policy_version.max())
        if version >= 0 and found not in (-1, version):  # -1: an operator or an expert played all of it
            raise WorkerError(f"worker {self._name} played policy version {found}; {request.policy} was asked for")
        self._sink.append(episode)
        return EpisodeReport(
            episode_id=episode.episode_id,
            seed=spec.seed,
            end=episode.end,
            num_steps=episode.num_steps,
            policy_version=version,
            worker=self._name,
            wall_s=time.perf_counter() - started_s,
        )

    def close(self) -> None:
        """Free the environment."""
        self._runner.close()


def current_policy(policy: PolicySource) -> PolicyCheckpoint | None:
    """The policy for an episode that begins now."""
    return policy() if callable(policy) else policy
