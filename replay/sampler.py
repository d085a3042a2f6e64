"""Draws training windows. Hop 7 of the tour: reads Episodes, hands WindowBatches to the learner.

Two draws: first the category of each window by the configured weights, then a step, uniformly among all steps of that
category. Differs from prioritised replay in that nothing that is learned flows back into the draw.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, SpecError
from core.experience import Collection, Source
from core.ids import EpisodeId
from core.windows import WindowBatch, WindowSpec
from replay.episode_files import StepArrays
from replay.schema import EpisodeInfo


class Category(enum.IntEnum):
    """What a step is to the learner. Stored as int8."""

    DEMONSTRATION = 0
    """A step of an episode that was collected as a demonstration."""
    ROLLOUT = 1
    """A step of any other episode, decided by a policy or a script."""
    CORRECTION = 2
    """A step of any other episode, decided by a human."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How often each category is drawn, relative to the others; a category without steps leaves its share to them.

    Example:
        demonstration 1, rollout 2, correction 1: half of the windows are rollouts.
    """

    demonstration: float = 1.0
    rollout: float = 1.0
    correction: float = 1.0
    by_size: bool = False
    """Multiply each weight by the number of steps of its category: equal weights then draw uniformly from all steps."""

    def __post_init__(self) -> None:
        weights = self.weights()
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ConfigError(f"weights of the mix are {self}; expected finite numbers, none negative, not all zero")

    def weights(self) -> NDArray[np.float64]:
        """[3], by Category."""
        return np.array([self.demonstration, self.rollout, self.correction], np.float64)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A draw of n windows."""

    windows: WindowBatch
    """Those that were read."""
    category: NDArray[np.int8]
    """[n], values of Category."""
    episode_id: tuple[EpisodeId, ...]
    """[n], of all that were drawn."""
    t: NDArray[np.int64]
    """[n], like ``episode_id``."""


class EpisodeSource(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that is drawn from."""

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        ...

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All episodes known at the last refresh."""
        ...

    def info(self, episode_id: EpisodeId) -> EpisodeInfo:
        """Facts of one episode."""
        ...

    def steps(self, episode_id: EpisodeId) -> StepArrays:
        """All arrays of an episode but its images."""
        ...

    def windows(self, ids: Sequence[EpisodeId], t: NDArray[np.int64], spec: WindowSpec) -> WindowBatch:
        """Windows at (episode, t)."""
        ...


class WindowSampler:
    """Draws windows from a store.

    Consumes: committed episodes. Produces: Samples. Waits for: nothing; :meth:`refresh` takes in what was added.
    Invariant: what is drawn depends only on the seed, the mix, the set of episodes (not their order) and the draws before; saving
    a position and loading it elsewhere continues with exactly the same draws.

    Windows never start on a step in which nobody decided (Source.HOLD), and never lie in an evaluation.

    Example::

        sampler = WindowSampler(store, MixConfig(rollout=2.0), seed=0)
        sample = sampler.sample(64, policy.window_spec)
    """

    def __init__(
        self,
        store: EpisodeSource,
        mix: MixConfig,
        seed: int,
        *,
        ids: Sequence[EpisodeId] | None = None,
        include_evaluation: bool = False,
    ) -> None:
        """Index the steps of the episodes.

        Args:
            store: where the episodes are.
            mix: how often each category is drawn.
            seed: of all draws.
            ids: draw from these only, and let :meth:`refresh` add none. None: all that the store knows.
            include_evaluation: draw from evaluations too, which are otherwise left out even where ``ids`` names them.
        """
        self._store = store
        self._mix = mix
        self._include_evaluation = include_evaluation
        self._is_restricted = ids is not None
        self._rng = np.random.default_rng(seed)
        self._category: dict[EpisodeId, NDArray[np.int8]] = {}
        self._ids: tuple[EpisodeId, ...] = ()
        self._steps: list[NDArray[np.int64]] = []
        self._index(store.episode_ids() if ids is None else ids)

    def sample(self, n: int, spec: WindowSpec, *, rows: range | None = None) -> Sample:
        """Draw n windows, with replacement.

        Args:
            n: how many.
            spec: how they are cut.
            rows: which of them to read, where others read the others; None: all. What is drawn does not depend on it.

        Raises:
            SpecError: if there is no step to draw from.
            CorruptDataError: if a window cannot be read.
        """
        category = self._rng.choice(len(Category), size=n, p=self.probabilities()).astype(np.int8)
        picked = np.empty((n, 2), np.int64)
        for each in Category:
            places = np.flatnonzero(category == each)
            if places.size:
                steps = self._steps[each]
                picked[places] = steps[self._rng.integers(len(steps), size=places.size)]
        episode_id, t = tuple(self._ids[e] for e in picked[:, 0]), picked[:, 1].copy()
        read = rows or range(n)
        windows = self._store.windows(episode_id[read.start : read.stop], t[read.start : read.stop], spec)
        return Sample(windows=windows, category=category, episode_id=episode_id, t=t)

    def probabilities(self) -> NDArray[np.float64]:
        """[3], by Category: how often each is drawn, given what there is.

        Raises:
            SpecError: if there is no step to draw from.
        """
        sizes = self.num_steps()
        weights = self._mix.weights() * (sizes if self._mix.by_size else sizes > 0)
        if not weights.any():
            there = {category.name.lower(): int(size) for category, size in zip(Category, sizes, strict=True)}
            raise SpecError(
                f"nothing to sample: {len(self._ids)} episodes with steps {there} under {self._mix}. "
                "Collect episodes first, or give a category that has steps a weight"
            )
        return weights / weights.sum()

    def num_steps(self) -> NDArray[np.int64]:
        """[3], by Category: steps that can be drawn."""
        return np.array([len(steps) for steps in self._steps], np.int64)

    @property
    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """The episodes that are drawn from, sorted."""
        return self._ids

    def refresh(self) -> None:
        """Take in what was committed since, unless this sampler is restricted to given ids; reads only what is new."""
        self._store.refresh()
        if not self._is_restricted:
            self._index(self._store.episode_ids())

    def restrict(self, ids: Sequence[EpisodeId]) -> None:
        """Draw from these episodes only, from now on."""
        self._is_restricted = True
        self._index(ids)

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-like; see :meth:`load_state_dict`."""
        return {
            "bit_generator": self._rng.bit_generator.state,
            "episode_ids": list(self._ids),
            "is_restricted": self._is_restricted,
            "mix": list(astuple(self._mix)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position: same episodes, same draws.

        Raises:
            ConfigError: if the position was saved under another mix.
            UnknownEpisodeError: if the store lacks an episode that was drawn from.
        """
        if list(state["mix"]) != list(astuple(self._mix)):
            raise ConfigError(
                f"the saved sampler had the mix {state['mix']}, this one has {list(astuple(self._mix))} "
                "(demonstration, rollout, correction, by_size); resume with the same mix or start a new run"
            )
        self._store.refresh()
        self._index(state["episode_ids"])
        self._is_restricted = state["is_restricted"]
        self._rng.bit_generator.state = state["bit_generator"]

    def _index(self, ids: Sequence[EpisodeId]) -> None:
        # Sorted by what was played, so that what is drawn depends neither on the order in which a store came to know its episodes
        # nor on their random ids: two runs with equal seeds draw equal windows.
        kept = [e for e in sorted(set(ids), key=self._played) if self._include_evaluation or not self._is_evaluation(e)]
        for episode_id in kept:
            if episode_id not in self._category:
                self._category[episode_id] = self._categorise(episode_id)
        self._ids = tuple(kept)
        category = np.concatenate([self._category[e] for e in kept]) if kept else np.empty(0, np.int8)
        lengths = [len(self._category[e]) for e in kept]
        episode = np.repeat(np.arange(len(kept)), lengths)
        t = np.concatenate([np.arange(length) for length in lengths]) if kept else np.empty(0, np.int64)
        table = np.stack([episode, t], axis=1)
        self._steps = [table[category == each] for each in Category]

    def _played(self, episode_id: EpisodeId) -> tuple[str, str, int, int, EpisodeId]:
        """What an episode was; the id decides only between episodes that were asked for alike."""
        info = self._store.info(episode_id)
        made = info.provenance
        return made.task, made.collection.value, info.policy_version_max, made.seed, episode_id

    def _is_evaluation(self, episode_id: EpisodeId) -> bool:
        return self._store.info(episode_id).provenance.collection is Collection.EVALUATION

    def _categorise(self, episode_id: EpisodeId) -> NDArray[np.int8]:
        """[T], values of Category, -1 on hold steps."""
        source = self._store.steps(episode_id).source
        if self._store.info(episode_id).provenance.collection is Collection.DEMONSTRATION:
            category = np.full(len(source), Category.DEMONSTRATION, np.int8)
        else:
            category = np.where(source == Source.HUMAN, Category.CORRECTION, Category.ROLLOUT).astype(np.int8)
        category[source == Source.HOLD] = -1
        return category
