"""A learner made of several processes, for the loop that knows only one (``learners/fit.py``).

Hop 8 of the tour, from the side of the run: the loop, the rate limiter, metrics and checkpoints' names stay in the run's own
process; drawing, computing and writing happen in the ranks, which are told one call at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from checkpoints.contract import Conventions
from learners.parallel import Parallel, ParallelConfig
from learners.parallel_processes import ProcessTeam
from learners.parallel_rank import LearnerJob
from learners.train_state import OptimizerConfig


class Team(Protocol):
    """The ranks of a learner, wherever they run."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of ``LearnerRank`` in all ranks; returns what the first answers."""
        ...

    def pids(self) -> list[int]:
        """The ranks' process ids."""
        ...


@contextmanager
def open_learner(job: LearnerJob, store: Any, optimizer: OptimizerConfig, config: ParallelConfig) -> Iterator[tuple[Any, Any]]:
    """A learner and its batches, in this process or in several.

    Args:
        job: what to build.
        store: the experience as this process has it open.
        optimizer: of the learner.
        config: how many processes, and how.
    """
    if config.parallel is Parallel.NONE:
        learner = job.make_learner(None)
        yield learner, job.make_batches(store, learner)
        return
    team = ProcessTeam(job, config, device=optimizer.torch_device(), num_threads=optimizer.torch_threads)
    try:
        yield ParallelLearner(team, optimizer), RemoteBatches(team)
    finally:
        team.close()


class ParallelLearner:
    """Looks like a ``PolicyLearner`` or a ``ValueLearner``; a batch stays where it was drawn."""

    def __init__(self, team: Team, config: OptimizerConfig) -> None:
        self._team = team
        self.state = RemoteTrainState(team, config)

    def draw(self, batches: RemoteBatches) -> None:
        """The next batch, each rank its rows."""
        self._team.call("draw")

    def step(self, batch: None) -> dict[str, float]:
        """One optimiser step of all ranks; metrics of the whole batch."""
        metrics: dict[str, float] = self._team.call("step")
        self.state.step += 1
        return metrics

    def publish(self, path: Path, *, version: int, extra: Mapping[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version; see ``TrainState.publish``."""
        self._team.call("publish", path, version, dict(extra), conventions)

    def pids(self) -> list[int]:
        """The ranks' process ids; for monitoring, and for tests that kill one."""
        return self._team.pids()


class RemoteTrainState:
    """The part of ``TrainState`` that the loop asks for."""

    def __init__(self, team: Team, config: OptimizerConfig) -> None:
        self.config = config
        self.step = 0
        self._team = team

    def restore(self, path: Path) -> dict[str, Any]:
        """Continue from a train state, whatever number of processes wrote it."""
        self.step, position = self._team.call("restore", path)
        return dict(position)

    def save(self, path: Path, *, position: Mapping[str, Any]) -> None:
        """Write the train state, in one piece."""
        self._team.call("save", path, dict(position))


class RemoteBatches:
    """Batches that are drawn in the ranks, and their source."""

    def __init__(self, team: Team) -> None:
        self._team = team

    @property
    def source(self) -> RemoteBatches:
        """The samplers, which are all at the same position."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """The samplers' position."""
        position: dict[str, Any] = self._team.call("position")
        return position

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue sampling from a position."""
        self._team.call("move", dict(state))
