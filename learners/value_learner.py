"""Trains a value model on Monte-Carlo returns.

Hop 8 of the tour, the other half: ValueBatch -> a better TrainState and metrics. RECAP refits the value from its pretrained
checkpoint in every iteration, on all data; restarting avoids drift (pi*0.6, Algorithm 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from checkpoints.contract import Conventions, with_contract
from checkpoints.directory import write_checkpoint
from learners.batch import ValueBatch, ValueBatches
from learners.losses import weighted_mean
from learners.train_state import OptimizerConfig, TrainState
from models.value import ValueModel


class ValueLearner:
    """One value model in training.

    Consumes: ValueBatches. Produces: averaged weights, published as checkpoints. Waits for: a batch.
    Invariant: a step that is not finite changes nothing.
    """

    def __init__(self, model: ValueModel, config: OptimizerConfig, *, seed: int) -> None:
        """``model`` is a torch module as well (every trainable value model here is)."""
        self.model = model
        self.state = TrainState(cast(torch.nn.Module, model), config, seed=seed, name="value")

    def draw(self, batches: ValueBatches) -> ValueBatch:
        """The next batch."""
        return batches.draw(self.state.rng)

    def step(self, batch: ValueBatch) -> dict[str, float]:
        """One optimiser step.

        Returns:
            ``loss``, ``gradient_norm``, ``learning_rate``, and the model's own unweighted means.

        Raises:
            NonFiniteError: if the loss or the gradient is not finite.
        """
        with self.state.autocast():
            example = self.model.loss(batch.windows, batch.target, self.state.generator)
        per_example = example.per_example.float()
        return {**self.state.apply(weighted_mean(per_example, torch.ones_like(per_example))), **example.metrics}

    def publish(self, path: Path, *, version: int, extra: dict[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version.

        Args:
            path: must not exist.
            version: of what is published.
            extra: JSON-like, into the manifest.
            conventions: of the environment it learned in, for the contract in the manifest; None: none is written, and the
                conventions are declared by whoever adds the checkpoint to a store.
        """
        self.model.version = version
        with self.state.averaged_weights():
            tensors, manifest = self.model.to_checkpoint()  # views of the weights, which are the averaged ones only in here
            if conventions is not None:
                manifest = with_contract(manifest, conventions)
            write_checkpoint(path, tensors, {**manifest, "version": version, "extra": {**manifest.get("extra", {}), **extra}})
