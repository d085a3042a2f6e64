"""Jobs for learners in several processes: small real models on windows that are drawn from memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from model_toys import small_policy, square_windows
from value_toys import clip_windows, small_value_model, window_rows

from core.ids import EpisodeId
from core.windows import WindowBatch, WindowSpec
from learners.batch import PolicyBatches, StepIndex, ValueBatches
from learners.parallel import Ranks
from learners.parallel_rank import LearnerJob
from learners.policy_learner import PolicyLearner
from learners.train_state import OptimizerConfig
from learners.value_learner import ValueLearner

EPISODE = EpisodeId("0" * 32)
POOL = 12
OPTIMIZER = OptimizerConfig(num_steps=4, batch_size=8, learning_rate=3e-3, warmup_steps=2, ema_decay=0.9)


class PoolWindows:
    """Draws from a few windows; t is a window's place in the pool."""

    def __init__(self, pool: WindowBatch, seed: int = 0) -> None:
        self._pool = pool
        self._rng = np.random.default_rng(seed)

    def sample(self, n: int, spec: WindowSpec, *, rows: range | None = None) -> Any:
        """See replay.sampler.WindowSampler."""
        t = self._rng.integers(0, len(self._pool), n)
        read = range(n)[rows.start : rows.stop] if rows is not None else range(n)
        windows = window_rows(self._pool, t[read.start : read.stop])
        return SimpleNamespace(windows=windows, episode_id=(EPISODE,) * n, t=t)

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position."""
        self._rng.bit_generator.state = state["rng"]


def make_learner(kind: str, config: OptimizerConfig, ranks: Ranks | None) -> Any:
    """VideoVLA for ``"videovla"``, otherwise the value model of that kind."""
    if kind == "videovla":
        return PolicyLearner(small_policy(), config, seed=5, ranks=ranks)
    return ValueLearner(small_value_model(kind), config, seed=5, ranks=ranks)


def make_batches(kind: str, store: Any, learner: Any) -> Any:
    """Batches for :func:`make_learner`."""
    rng, batch_size = np.random.default_rng(1), learner.state.config.batch_size
    if kind == "videovla":
        windows = square_windows(POOL, rng)
        windows = WindowBatch(**{**vars(windows), "t": np.arange(POOL)})
        return PolicyBatches(
            PoolWindows(windows),
            learner.policy.window_spec,
            StepIndex.build({EPISODE: POOL}),
            indicator=np.arange(POOL, dtype=np.int8) % 2,
            weight=rng.random(POOL).astype(np.float32),
            indicator_dropout=0.3,
            batch_size=batch_size,
        )
    windows, target = clip_windows(learner.model, count=POOL)
    batches = ValueBatches(PoolWindows(windows), WindowSpec(), {EPISODE: np.zeros(POOL, np.float32)}, batch_size=batch_size)
    batches._target = target  # of the pool's windows, whatever their number of offsets
    return batches


def no_store() -> None:
    """The pool is in memory."""


def job(kind: str, config: OptimizerConfig = OPTIMIZER) -> LearnerJob:
    """Of one model."""
    return LearnerJob(
        make_learner=functools.partial(make_learner, kind, config),
        make_batches=functools.partial(make_batches, kind),
        open_store=no_store,
    )
