"""Builds learners and their batches in whichever process they live in; everything here is picklable.

Hops 7 and 8 of the tour, when a fit begins; a ``LearnerJob`` is made of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.build import load_policy, load_value_model
from configs.schema import ExperimentConfig
from core.ids import EpisodeId
from learners.batch import PolicyBatches, StepIndex, ValueBatches
from learners.extraction import Judgement
from learners.joined_store import JoinedStore
from learners.parallel import Ranks
from learners.policy_learner import PolicyLearner
from learners.train_state import OptimizerConfig
from learners.value_learner import ValueLearner
from replay.sampler import WindowSampler


def make_policy_learner(path: Path, optimizer: OptimizerConfig, seed: int, ranks: Ranks | None = None) -> PolicyLearner:
    """A policy learner that starts from a checkpoint; picklable, as all that a ``LearnerJob`` is made of."""
    return PolicyLearner(load_policy(path), optimizer, seed=seed, ranks=ranks)


def make_value_learner(path: Path, optimizer: OptimizerConfig, seed: int, ranks: Ranks | None = None) -> ValueLearner:
    """A value learner that starts from a checkpoint."""
    return ValueLearner(load_value_model(path), optimizer, seed=seed, ranks=ranks)


def make_policy_batches(
    config: ExperimentConfig,
    ids: Sequence[EpisodeId],
    index: StepIndex,
    judgement: Judgement,
    seed: int,
    newest: int,
    store: JoinedStore,
    learner: PolicyLearner,
) -> PolicyBatches:
    """Batches of judged steps of the episodes ``ids``; ``index`` is the judgement's, ``newest`` the policy before this update."""
    versions = {e: store.info(e).policy_version_max for e in index.length}
    ages = [np.full(length, newest - versions[e] if versions[e] >= 0 else np.nan) for e, length in index.length.items()]
    return PolicyBatches(
        WindowSampler(store, config.mix, seed=seed, ids=ids),
        learner.policy.window_spec,
        index,
        indicator=judgement.indicator,
        weight=judgement.weight,
        indicator_dropout=config.extraction.indicator_dropout,
        batch_size=learner.state.config.batch_size,
        policy_age=np.concatenate(ages).astype(np.float32),
    )


def make_value_batches(
    config: ExperimentConfig,
    targets: Mapping[EpisodeId, NDArray[np.float32]],
    seed: int,
    store: JoinedStore,
    learner: ValueLearner,
) -> ValueBatches:
    """Batches of steps with their returns, ``targets`` [T+1] an episode."""
    windows = WindowSampler(store, config.mix, seed=seed, ids=list(targets))
    return ValueBatches(windows, learner.model.window_spec, targets, batch_size=learner.state.config.batch_size)
