"""Trains a policy on weighted, indicator-carrying windows.

Hop 8 of the tour: PolicyBatch -> a better TrainState and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.contract import Conventions
from learners.batch import PolicyBatch, PolicyBatches, window_rows
from learners.listening import indicator_effect
from learners.losses import effective_examples
from learners.parallel import Ranks
from learners.train_state import OptimizerConfig, TrainState
from models.policy import Policy


class PolicyLearner:
    """One policy in training.

    Consumes: PolicyBatches. Produces: averaged weights, published as checkpoints. Waits for: a batch.
    Invariant: a step that is not finite changes nothing.
    """

    def __init__(self, policy: Policy, config: OptimizerConfig, *, seed: int, ranks: Ranks | None = None) -> None:
        """``policy`` is a torch module as well (every trainable policy here is); ``ranks``: None for one process."""
        self.policy = policy
        self.state = TrainState(cast(torch.nn.Module, policy), config, seed=seed, name="policy", ranks=ranks)

    def draw(self, batches: PolicyBatches) -> PolicyBatch:
        """The next batch; indicator dropout comes from the train state's generator, so that resuming repeats it."""
        return batches.draw(self.state.rng, rank=self.state.ranks.rank, size=self.state.ranks.size)

    def step(self, batch: PolicyBatch) -> dict[str, float]:
        """One optimiser step.

        Returns:
            ``loss``, ``gradient_norm``, ``learning_rate``, ``effective_examples``, the policy's own unweighted means, and the
            ages ``policy_age_mean`` and ``policy_age_max`` of what a policy did, where there is any in the batch.

        Raises:
            NonFiniteError: if the loss or the gradient is not finite.
        """

        def arguments(part: slice) -> tuple[Any, ...]:
            return window_rows(batch.windows, part), batch.indicator[part]

        metrics = self.state.take_step(arguments, rows=batch.rows, weight=batch.weight)
        return {**metrics, "effective_examples": effective_examples(batch.weight), **_staleness(batch.policy_age)}

    def listening(self, batches: PolicyBatches, *, num_batches: int = 4) -> dict[str, float]:
        """How much the indicator changes what the averaged weights do; means over a few batches, drawn after training."""
        found = []
        with self.state.averaged_weights(), self.state.autocast():
            for seed in range(num_batches):
                batch = batches.draw_undropped()
                found.append(indicator_effect(self.policy, batch.windows, batch.indicator, seed=seed))
        return {name: sum(row[name] for row in found) / num_batches for name in found[0]}

    def publish(self, path: Path, *, version: int, extra: Mapping[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version; see ``TrainState.publish``."""
        self.state.publish(path, version=version, extra=extra, conventions=conventions)


def _staleness(policy_age: NDArray[np.float32]) -> dict[str, float]:
    acted = policy_age[np.isfinite(policy_age)]
    return {"policy_age_mean": float(acted.mean()), "policy_age_max": float(acted.max())} if acted.size else {}
