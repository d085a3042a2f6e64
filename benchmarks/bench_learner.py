"""What does the policy learner cost over a bare torch loop on the same network, the same batches and the same optimiser?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from actors.players import ScriptedPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from benchmarks.report import interleaved_medians_s, write_report
from core.experience import Collection, imitation_target
from core.labels import Indicator
from core.windows import WindowSpec
from envs.fake import ReachEnv, ScriptedReacher
from learners.batch import PolicyBatches, StepTable
from learners.policy_learner import PolicyLearner
from learners.train_state import OptimizerConfig
from models import presets
from models.normalization import Normalization
from replay.episode_store import EpisodeStore
from replay.sampler import MixConfig, WindowSampler

BATCH = 32
EPISODES = 40
REPEATS = 8


def main() -> None:
    """Whole steps of the learner (draw, forward, backward, clip, AdamW, moving average) against forward, backward, AdamW."""
    torch.manual_seed(0)
    with _store() as store:
        ids = store.episode_ids()
        learner, batches = _learner(store)
        batch = learner.draw(batches)
        network = list(learner.state.module.parameters())
        optimizer = torch.optim.AdamW(network, lr=1e-3)
        generator = torch.Generator().manual_seed(0)

        def bare() -> None:
            loss = learner.policy.loss(batch.windows, batch.indicator, generator).per_example.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        medians = interleaved_medians_s(
            (lambda: learner.step(learner.draw(batches)), bare, lambda: learner.draw(batches)), repeats=REPEATS, warmup=2
        )
        names = ("learner step, batch drawn from replay", "bare torch loop, batch in memory", "drawing the batch alone")
        write_report(
            "learner",
            question="Policy learner step (VideoVLA tiny) against a bare torch loop",
            headings=("what", "ms (median)", "ratio to bare"),
            rows=[(n, f"{1000 * s:.0f}", f"{s / medians[1]:.2f}") for n, s in zip(names, medians, strict=True)],
            notes=(
                f"Batch {BATCH}, float32, {torch.get_num_threads()} thread(s), {REPEATS} interleaved repeats; "
                f"{len(ids)} episodes of the fake environment at 128x160.",
                "Both pay for encoding the images; the learner adds sampling, gradient clipping, checks and the moving average.",
            ),
        )


@contextmanager
def _store() -> Iterator[EpisodeStore]:
    worker = RolloutWorker(ReachEnv(), ScriptedPlayer(ScriptedReacher(seed=0, quality="mixed")), RolloutConfig())
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder) / "replay")
        for seed in range(EPISODES):
            store.append(worker.run_episode(seed, collection=Collection.DEMONSTRATION))
        yield store
        store.close()


def _learner(store: EpisodeStore) -> tuple[PolicyLearner, PolicyBatches]:
    ids = list(store.episode_ids())
    steps = [store.steps(e) for e in ids]
    action = np.concatenate([imitation_target(s.executed_action, s.supervisor_action) for s in steps])
    frames = store.windows(ids, np.zeros(len(ids), np.int64), WindowSpec()).images["camera"][:, 0]
    config = presets.VideoVlaConfig(camera="camera")
    policy = presets.build_policy(
        config,
        store.info(ids[0]).env_spec,
        Normalization.fit(action, np.concatenate([s.state for s in steps])),
        presets.fit_codec(config, frames),
    )
    learner = PolicyLearner(policy, OptimizerConfig(batch_size=BATCH, num_steps=1000), seed=0)
    table = StepTable.build(store, ids, None)
    batches = PolicyBatches(
        WindowSampler(store, MixConfig(), seed=0, ids=ids),
        policy.window_spec,
        table.index,
        indicator=np.full(table.index.num_rows, Indicator.POSITIVE, np.int8),
        weight=np.ones(table.index.num_rows, np.float32),
        indicator_dropout=0.3,
        batch_size=BATCH,
    )
    return learner, batches
