"""Trains a policy on weighted, indicator-carrying windows.

Hop 8 of the tour: PolicyBatch -> a better TrainState and metrics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from checkpoints.contract import Conventions, with_contract
from checkpoints.directory import write_checkpoint
from learners.batch import PolicyBatch, PolicyBatches
from learners.listening import indicator_effect
from learners.losses import effective_examples, weighted_mean
from learners.train_state import OptimizerConfig, TrainState
from models.policy import Policy


class PolicyLearner:
    """One policy in training.

    Consumes: PolicyBatches. Produces: averaged weights, published as checkpoints. Waits for: a batch.
    Invariant: a step that is not finite changes nothing.
    """

    def __init__(self, policy: Policy, config: OptimizerConfig, *, seed: int) -> None:
        """``policy`` is a torch module as well (every trainable policy here is)."""
        self.policy = policy
        self.state = TrainState(cast(torch.nn.Module, policy), config, seed=seed, name="policy")

    def draw(self, batches: PolicyBatches) -> PolicyBatch:
        """The next batch; indicator dropout comes from the train state's generator, so that resuming repeats it."""
        return batches.draw(self.state.rng)

    def step(self, batch: PolicyBatch) -> dict[str, float]:
        """One optimiser step.

        Returns:
            ``loss``, ``gradient_norm``, ``learning_rate``, ``effective_examples``, and the policy's own unweighted means.

        Raises:
            NonFiniteError: if the loss or the gradient is not finite.
        """
        with self.state.autocast():
            example = self.policy.loss(batch.windows, batch.indicator, self.state.generator)
        per_example = example.per_example.float()
        loss = weighted_mean(per_example, torch.from_numpy(batch.weight).to(per_example.device))
        metrics = self.state.apply(loss)
        return {**metrics, "effective_examples": effective_examples(batch.weight), **example.metrics}

    def listening(self, batches: PolicyBatches, *, num_batches: int = 4) -> dict[str, float]:
        """How much the indicator changes what the averaged weights do; means over a few batches, drawn after training."""
        found = []
        with self.state.averaged_weights(), self.state.autocast():
            for seed in range(num_batches):
                batch = batches.draw_undropped()
                found.append(indicator_effect(self.policy, batch.windows, batch.indicator, seed=seed))
        return {name: sum(row[name] for row in found) / num_batches for name in found[0]}

    def publish(self, path: Path, *, version: int, extra: dict[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version.

        Args:
            path: must not exist.
            version: of what is published.
            extra: JSON-like, into the manifest.
            conventions: of the environment it learned in, for the contract in the manifest; None: none is written, and the
                conventions are declared by whoever adds the checkpoint to a store.
        """
        self.policy.version = version
        with self.state.averaged_weights():
            tensors, manifest = self.policy.to_checkpoint()  # views of the weights, which are the averaged ones only in here
            if conventions is not None:
                manifest = with_contract(manifest, conventions)
            write_checkpoint(path, tensors, {**manifest, "version": version, "extra": {**manifest.get("extra", {}), **extra}})
