"""One of the processes that train a model together: builds its learner and does what the team's owner says.

Hop 8 of the tour, several times at once. No processes are started here; see ``learners/parallel_processes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from checkpoints.contract import Conventions
from learners.parallel import DdpRanks, FsdpRanks, Parallel, ParallelConfig, Ranks

_SILENCE = timedelta(hours=24)
"""How long a process waits for the others in a collective: the owner ends the team when one dies, and knows it at once."""


@dataclass(frozen=True, kw_only=True)
class LearnerJob:
    """What is trained, on what. Everything is picklable: it is built in the process where it is used."""

    make_learner: Callable[[Ranks | None], Any]
    """Builds a ``PolicyLearner`` or ``ValueLearner`` from its starting checkpoint."""
    make_batches: Callable[[Any, Any], Any]
    """(store, learner) -> ``PolicyBatches`` or ``ValueBatches``."""
    open_store: Callable[[], Any]
    """Opens the experience that the batches are drawn from, in another process."""


class LearnerRank:
    """A learner that is one of several.

    Consumes: calls, in the same order in all ranks. Produces: metrics, checkpoints (rank 0). Waits for: the other ranks, inside
    the calls. Invariant: between two calls all ranks are at the same step, and their samplers at the same position.
    """

    def __init__(self, job: LearnerJob, config: ParallelConfig, *, rank: int, rendezvous: str, device: torch.device) -> None:
        """Join the others and build the learner.

        Args:
            job: the same in all ranks.
            config: the same in all ranks.
            rank: of this process.
            rendezvous: where the ranks meet, as ``torch.distributed`` writes it: ``file:///...`` or ``tcp://HOST:PORT``.
            device: where this rank's part of the model is.
        """
        dist.init_process_group(
            config.backend_on(device), init_method=rendezvous, rank=rank, world_size=config.num_processes, timeout=_SILENCE
        )
        ranks = FsdpRanks() if config.parallel is Parallel.FSDP else DdpRanks()
        self._learner = job.make_learner(ranks)
        self._batches = job.make_batches(job.open_store(), self._learner)
        self._batch: Any = None

    def draw(self) -> None:
        """The next batch; it is kept here."""
        self._batch = self._learner.draw(self._batches)

    def step(self) -> dict[str, float]:
        """One step on the batch that was drawn."""
        metrics: dict[str, float] = self._learner.step(self._batch)
        return metrics

    def position(self) -> dict[str, Any]:
        """Of the sampler."""
        position: dict[str, Any] = self._batches.source.state_dict()
        return position

    def move(self, position: Mapping[str, Any]) -> None:
        """Continue sampling from a position."""
        self._batches.source.load_state_dict(position)

    def restore(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Continue from a train state; returns its step and what else was saved with it."""
        position = self._learner.state.restore(path)
        return self._learner.state.step, position

    def save(self, path: Path, position: Mapping[str, Any]) -> None:
        """Write the train state."""
        self._learner.state.save(path, position=position)

    def publish(self, path: Path, version: int, extra: Mapping[str, Any], conventions: Conventions | None) -> None:
        """Write the averaged weights as a checkpoint."""
        self._learner.publish(path, version=version, extra=extra, conventions=conventions)

    def close(self) -> None:
        """Leave the others."""
        dist.destroy_process_group()
