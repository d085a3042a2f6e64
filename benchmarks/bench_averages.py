"""Are averaged weights better than the last ones? One training gives all of them: averaging does not change a step.

``python -m benchmarks.bench_averages`` clones demonstrations of the fake environment (VideoVLA at its smallest), once with a
learning rate that falls to 0 and once with one that stays, and judges the last weights and their averages on the same episodes
and the same held-out windows. ``docs/results/averaged_weights.md`` quotes what it prints.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actors.outcomes import Outcome, summarise
from actors.players import ChunkPlayer, ScriptedPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from benchmarks.report import machine
from configs.load import load_config
from core.command import run_command, whole
from core.experience import Collection, EpisodeEnd, imitation_target
from core.ids import EpisodeId
from core.labels import Indicator
from core.windows import WindowSpec
from envs.fake import ReachEnv, ScriptedReacher
from learners.batch import PolicyBatches, StepTable
from learners.policy_learner import PolicyLearner
from learners.train_state import OptimizerConfig, move_average
from models import presets
from models.normalization import Normalization
from replay.episode_store import EpisodeStore
from replay.sampler import MixConfig, WindowSampler

CONFIG = load_config("smoke")
DECAYS = (0.0, 0.99, 0.999)
SCHEDULES = {"falls to 0": 0.0, "stays": 1.0}
"""Learning rate -> its end as a share of its peak."""
NUM_DEMONSTRATIONS = 300
NUM_HELD_OUT = 100
HELD_OUT_WINDOWS = 512
FIRST_HELD_OUT_SEED, FIRST_EVALUATION_SEED = 100_000, 200_000


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Some weights of one training."""

    seed: int
    schedule: str
    decay: float
    outcomes: tuple[Outcome, ...]
    held_out_loss: float
    """Mean of the trained loss over windows of demonstrations that were not learned from."""


def main() -> None:
    """Train, judge, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_averages", description=__doc__)
    parser.add_argument("--seeds", type=whole(1), default=3, help="trainings of each schedule (default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=2000, help="learner steps of a training (default: %(default)s)")
    parser.add_argument("--episodes", type=whole(1), default=100, help="episodes of each judgement (default: %(default)s)")
    options = parser.parse_args()
    started_s = time.perf_counter()
    found = [
        judged
        for seed in range(options.seeds)
        for judged in train_and_judge(seed, num_steps=options.steps, num_episodes=options.episodes)
    ]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    minutes = (time.perf_counter() - started_s) / 60
    print(f"`python -m benchmarks.bench_averages --steps {options.steps}`, {date}, {minutes:.0f} minutes. {machine()}\n")
    print("\n".join(table(found)))


def table(found: Sequence[Judged]) -> list[str]:
    """Markdown: one row for each schedule and decay, over all seeds."""
    lines = [
        "| learning rate | ema_decay | success (Wilson 95 %) | by seed | mean steps | held-out loss, by seed |",
        "|---" * 6 + "|",
    ]
    for schedule in SCHEDULES:
        for decay in DECAYS:
            rows = [judged for judged in found if (judged.schedule, judged.decay) == (schedule, decay)]
            summary = summarise(outcome for judged in rows for outcome in judged.outcomes)
            by_seed = ", ".join(f"{100 * summarise(judged.outcomes).success:.0f} %" for judged in rows)
            losses = ", ".join(f"{judged.held_out_loss:.4f}" for judged in rows)
            lines.append(f"| {schedule} | {decay:g} | {summary.text} | {by_seed} | {summary.mean_steps:.2f} | {losses} |")
    return lines


def train_and_judge(seed: int, *, num_steps: int, num_episodes: int) -> Iterator[Judged]:
    """A training of each schedule on the same demonstrations; its last weights and their averages."""
    with demonstrations(seed) as (store, learned, held_out):
        for schedule, final_ratio in SCHEDULES.items():
            optimizer = OptimizerConfig(
                num_steps=num_steps, batch_size=16, warmup_steps=50, ema_decay=0.0, final_learning_rate_ratio=final_ratio
            )
            learner = _learner(store, learned, optimizer, seed)
            averages = _trained(learner, _batches(store, learned, learner, seed=seed, batch_size=optimizer.batch_size))
            unseen = _batches(store, held_out, learner, seed=seed, batch_size=HELD_OUT_WINDOWS).draw_undropped()
            for decay, average in averages.items():
                learner.state.module.load_state_dict(average, strict=False)  # buffers are fixed
                with torch.no_grad():
                    losses = learner.policy.loss(unseen.windows, unseen.indicator, torch.Generator().manual_seed(0)).per_example
                outcomes = _outcomes(learner, num_episodes)
                yield Judged(seed=seed, schedule=schedule, decay=decay, outcomes=outcomes, held_out_loss=float(losses.mean()))


def _trained(learner: PolicyLearner, batches: PolicyBatches) -> dict[float, dict[str, torch.Tensor]]:
    """Take the learner through its steps; its weights at the end, averaged in every way."""
    weights = dict(learner.state.module.named_parameters())
    averages = {decay: {key: value.detach().clone() for key, value in weights.items()} for decay in DECAYS}
    for step in range(1, learner.state.config.num_steps + 1):
        learner.step(learner.draw(batches))
        for decay, average in averages.items():
            move_average(average, weights, decay=decay, step=step)
    return averages


@contextmanager
def demonstrations(seed: int) -> Iterator[tuple[EpisodeStore, list[EpisodeId], list[EpisodeId]]]:
    """A store with successful demonstrations of mixed quality, and which of them are to learn from, which are held out."""
    worker = RolloutWorker(_environment(), ScriptedPlayer(ScriptedReacher(seed=seed, quality="mixed")), RolloutConfig())
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder) / "replay", config=CONFIG.store)

        def recorded(first: int, count: int) -> list[EpisodeId]:
            episodes = [worker.run_episode(s, collection=Collection.DEMONSTRATION) for s in range(first, first + count)]
            return [store.append(episode) for episode in episodes if episode.end is EpisodeEnd.SUCCESS]

        learned = recorded(1000 * seed, NUM_DEMONSTRATIONS)
        yield store, learned, recorded(FIRST_HELD_OUT_SEED + 1000 * seed, NUM_HELD_OUT)
        store.close()


def _environment() -> ReachEnv:
    height, width = CONFIG.policy.image_shape
    return ReachEnv(image_height_px=height, image_width_px=width)


def _learner(store: EpisodeStore, ids: Sequence[EpisodeId], optimizer: OptimizerConfig, seed: int) -> PolicyLearner:
    steps = [store.steps(e) for e in ids]
    actions = np.concatenate([imitation_target(s.executed_action, s.supervisor_action) for s in steps])
    spec = store.info(ids[0]).env_spec
    frames = store.windows(ids, np.zeros(len(ids), np.int64), WindowSpec()).images[CONFIG.policy.camera][:, 0]
    torch.manual_seed(seed)  # fresh weights come from torch's own generator
    normalization = Normalization.fit(actions, np.concatenate([s.state for s in steps]), spec.action)
    policy = presets.build_policy(CONFIG.policy, spec, normalization, presets.fit_codec(CONFIG.policy, frames))
    return PolicyLearner(policy, optimizer, seed=seed)


def _batches(
    store: EpisodeStore, ids: Sequence[EpisodeId], learner: PolicyLearner, *, seed: int, batch_size: int
) -> PolicyBatches:
    index = StepTable.build(store, ids, None).index
    return PolicyBatches(
        WindowSampler(store, MixConfig(), seed=seed, ids=ids),
        learner.policy.window_spec,
        index,
        indicator=np.full(index.num_rows, Indicator.POSITIVE, np.int8),
        weight=np.ones(index.num_rows, np.float32),
        indicator_dropout=CONFIG.extraction.indicator_dropout,
        batch_size=batch_size,
    )


def _outcomes(learner: PolicyLearner, count: int) -> tuple[Outcome, ...]:
    worker = RolloutWorker(_environment(), ChunkPlayer(learner.policy, replan_steps=CONFIG.rollout.replan_steps), RolloutConfig())
    episodes = [worker.run_episode(FIRST_EVALUATION_SEED + i, collection=Collection.EVALUATION) for i in range(count)]
    return tuple(
        Outcome(
            seed=FIRST_EVALUATION_SEED + i,
            is_success=episode.end is EpisodeEnd.SUCCESS,
            is_success_once=episode.end is EpisodeEnd.SUCCESS,
            num_steps=len(episode.executed_action),
        )
        for i, episode in enumerate(episodes)
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
