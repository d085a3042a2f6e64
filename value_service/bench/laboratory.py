"""Trains and measures variants of value models on the bench, one after the other; what is done is not done again.

``OUT/models/ROBOT/VARIANT_SEED/`` holds a variant's checkpoint, its ``training.json`` and its ``predictions.npz``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import SpecError
from learners.display import Display
from learners.train_state import OptimizerConfig
from models.value import ValueModel
from replay.episode_store import EpisodeStore
from value_service.bench.prediction import Predictions, predict_all
from value_service.bench.scoring import Sums, added, score
from value_service.bench.training import train, trained, training_episodes
from value_service.bench.truth import BenchEpisode, Kind, Split, bench_episodes
from value_service.bench.variants import Configure, Variant

Scores = Mapping[Split, Mapping[str, Sums]]
CLOCK = "clock"
"""A control among the models: elapsed steps over the mean length of the training experts; it sees nothing."""


@dataclass(frozen=True, kw_only=True)
class LaboratoryConfig:
    """How models are trained here."""

    num_steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3

    def optimizer(self) -> OptimizerConfig:
        """Of every training: the same number of samples for each model, on one core."""
        return OptimizerConfig(
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=min(50, self.num_steps // 4),
            torch_threads=1,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One variant on one robot, all seeds."""

    variant: str
    robot: str
    training: tuple[Mapping[str, Any], ...]
    """Of each seed; see :func:`value_service.bench.training.train`. Empty for the clock."""
    sums: Scores
    """Scores on held-out episodes and on the held-out task, added over seeds."""
    of_seed: tuple[Scores, ...]
    """The same, of each seed."""


class Laboratory:
    """A store of the bench, and models trained on it.

    Consumes: variants. Produces: their scores. Waits for: the machine, minutes a variant.
    """

    def __init__(
        self, store: EpisodeStore, out: Path, config: LaboratoryConfig, *, configure: Configure, display: Display
    ) -> None:
        """Look into the store.

        Raises:
            SpecError: if it holds no episode of the bench.
        """
        self.store = store
        self.episodes = bench_episodes(store)
        if not self.episodes:
            raise SpecError(f"{store.root} holds no episode of the bench; make some with: python -m value_service.bench generate")
        self._out = out
        self._optimizer = config.optimizer()
        self._configure = configure
        self._display = display

    @property
    def robots(self) -> tuple[str, ...]:
        """Families of environments in the store, sorted."""
        return tuple(sorted({e.robot for e in self.episodes}))

    def tests(self, robot: str, *, most: int | None = None, splits: Sequence[Split] = tuple(Split)) -> list[BenchEpisode]:
        """Episodes of one robot that nobody is trained on.

        Args:
            robot: family of environments.
            most: at most so many of a task and kind; None: all.
            splits: which, the training split never.

        Raises:
            SpecError: if there are none.
        """
        chosen: list[BenchEpisode] = []
        counts: dict[tuple[str, Kind], int] = {}
        for episode in self.episodes:
            if episode.robot != robot or episode.truth.split is Split.TRAIN or episode.truth.split not in splits:
                continue
            key = (episode.task, episode.truth.kind)
            counts[key] = counts.get(key, 0) + 1
            if most is None or counts[key] <= most:
                chosen.append(episode)
        if not chosen:
            raise SpecError(f"{self.store.root} holds no test episodes of {robot!r}; it has robots {', '.join(self.robots)}")
        return chosen

    def measure(self, variant: Variant, robot: str, seeds: Sequence[int], tests: Sequence[BenchEpisode]) -> Measured:
        """Train, predict and score a variant with every seed."""
        training, of_seed = [], []
        for seed in seeds:
            training.append(self.train(variant, robot, seed))
            of_seed.append(_scores(tests, self.predictions(variant, robot, seed, tests)))
        return Measured(variant=variant.name, robot=robot, training=tuple(training), sums=_added(of_seed), of_seed=tuple(of_seed))

    def clock(self, robot: str, tests: Sequence[BenchEpisode]) -> Measured:
        """The control."""
        is_training = {(robot, Split.TRAIN, Kind.EXPERT)}
        lengths = [e.num_steps for e in self.episodes if (e.robot, e.truth.split, e.truth.kind) in is_training]
        elapsed = {e.episode_id: np.minimum(np.arange(e.num_steps + 1) / np.mean(lengths), 1) for e in tests}
        values = {episode_id: {"value": (share - 1).astype(np.float32)} for episode_id, share in elapsed.items()}
        scores = _scores(tests, values)
        return Measured(variant=CLOCK, robot=robot, training=(), sums=scores, of_seed=(scores,))

    def train(self, variant: Variant, robot: str, seed: int) -> dict[str, Any]:
        """Train a variant, or find it trained; see :func:`value_service.bench.training.train`."""
        ids = training_episodes(self.episodes, robot, variant.trained_on)
        with self._display.bar(f"{robot} {variant.name} {seed}: train", self._optimizer.num_steps, "steps") as advance:
            return train(
                self._configure(variant),
                self.store,
                ids,
                self._optimizer,
                seed=seed,
                folder=self._folder(variant, robot, seed),
                on_step=lambda step, metrics: advance(step, f"loss {metrics['loss']:.4f}"),
            )

    def predictions(self, variant: Variant, robot: str, seed: int, tests: Sequence[BenchEpisode]) -> Predictions:
        """What a variant says of episodes; it is trained if it has to be, and read where it is there."""
        folder, recipe = self._folder(variant, robot, seed), self.train(variant, robot, seed)["recipe"]
        name = "_".join(["predictions", recipe, *(f"{key}_{value}" for key, value in variant.inference.items())])
        with self._display.bar(f"{robot} {variant.name} {seed}: predict", len(tests), "episodes") as advance:
            return predict_all(
                lambda: trained(folder, variant.inference),
                self.store,
                [e.episode_id for e in tests],
                folder / f"{name}.npz",
                on_count=advance,
            )

    def model(self, variant: Variant, robot: str, seed: int) -> ValueModel:
        """A variant's trained model."""
        return trained(self._folder(variant, robot, seed), variant.inference)

    def _folder(self, variant: Variant, robot: str, seed: int) -> Path:
        return self._out / "models" / robot / f"{variant.folder}_{seed}"


def _scores(tests: Sequence[BenchEpisode], predictions: Predictions) -> Scores:
    of_split = {split: [e for e in tests if e.truth.split is split] for split in Split}
    return {
        split: score(chosen, [predictions[e.episode_id]["value"] for e in chosen]) for split, chosen in of_split.items() if chosen
    }


def _added(of_seed: Sequence[Scores]) -> Scores:
    return {
        split: {name: added([scores[split][name] for scores in of_seed]) for name in of_seed[0][split]} for split in of_seed[0]
    }
