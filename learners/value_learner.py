"""Trains a value model on Monte-Carlo returns.

Hop 8 of the tour, the other half: ValueBatch -> a better TrainState and metrics. RECAP refits the value from its pretrained
checkpoint in every iteration, on all data; restarting avoids drift (pi*0.6, Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from checkpoints.contract import Conventions
from learners.batch import ValueBatch, ValueBatches, window_rows
from learners.parallel import Ranks
from learners.train_state import OptimizerConfig, TrainState
from models.value import ValueModel


class ValueLearner:
    """One value model in training.

    Consumes: ValueBatches. Produces: averaged weights, published as checkpoints. Waits for: a batch.
    Invariant: a step that is not finite changes nothing.
    """

    def __init__(self, model: ValueModel, config: OptimizerConfig, *, seed: int, ranks: Ranks | None = None) -> None:
        """``model`` is a torch module as well (every trainable value model here is); ``ranks``: None for one process."""
        self.model = model
        self.state = TrainState(cast(torch.nn.Module, model), config, seed=seed, name="value", ranks=ranks)

    def draw(self, batches: ValueBatches) -> ValueBatch:
        """The next batch."""
        return batches.draw(self.state.rng, rank=self.state.ranks.rank, size=self.state.ranks.size)

    def step(self, batch: ValueBatch) -> dict[str, float]:
        """One optimiser step.

        Returns:
            ``loss``, ``gradient_norm``, ``learning_rate``, and the model's own unweighted means.

        Raises:
            NonFiniteError: if the loss or the gradient is not finite.
        """

        def arguments(part: slice) -> tuple[Any, ...]:
            return window_rows(batch.windows, part), batch.target[part]

        return self.state.take_step(arguments, rows=batch.rows, weight=np.ones(batch.batch_size, np.float32))

    def publish(self, path: Path, *, version: int, extra: Mapping[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version; see ``TrainState.publish``."""
        self.state.publish(path, version=version, extra=extra, conventions=conventions)
