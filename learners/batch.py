"""Joins windows of experience with what is known of their steps: advantages, indicators, weights, value targets.

Hop 7 to 8 of the tour. Episodes are looked up once, when the table is built: one flat array a quantity, one offset an
episode. A batch then costs one index operation, whatever the number of steps in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import SpecError
from core.experience import Collection, Provenance, Source
from core.ids import EpisodeId
from core.labels import Indicator, Labels
from core.windows import WindowBatch, WindowSpec, clipped_indices


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """B examples for a policy."""

    windows: WindowBatch
    indicator: NDArray[np.int8]
    """[B], values of core.labels.Indicator; what the policy is told."""
    weight: NDArray[np.float32]
    """[B], at least 0; how much the example counts."""


@dataclass(frozen=True, kw_only=True)
class ValueBatch:
    """B examples for a value model."""

    windows: WindowBatch
    target: NDArray[np.float32]
    """[B], or [B, O] where the window's spec has O value offsets; in [-1, 0]."""


class EpisodeFacts(Protocol):
    """What is known of a stored episode without reading it (``replay.episode_store.EpisodeInfo``)."""

    @property
    def provenance(self) -> Provenance:
        """Where it comes from."""
        ...


class Experience(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that learning needs."""

    def info(self, episode_id: EpisodeId) -> EpisodeFacts:
        """Facts of one episode."""
        ...

    def steps(self, episode_id: EpisodeId) -> Any:
        """Its small arrays, ``source`` among them."""
        ...


class WindowSource(Protocol):
    """Draws windows; its position is saved and restored with the train state (``replay.sampler.WindowSampler``)."""

    def sample(self, n: int, spec: WindowSpec) -> Any:
        """``n`` windows cut by ``spec``, as ``.windows``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-like position."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position."""
        ...


@dataclass(frozen=True)
class StepIndex:
    """Maps (episode, t) to a row of flat arrays."""

    offset: Mapping[EpisodeId, int]
    length: Mapping[EpisodeId, int]
    num_rows: int

    @classmethod
    def build(cls, lengths: Mapping[EpisodeId, int]) -> StepIndex:
        """One row a step, the episodes one behind the other in the given order."""
        ends = np.cumsum([0, *lengths.values()]).tolist()
        return cls(dict(zip(lengths, ends, strict=False)), dict(lengths), ends[-1])

    def rows(self, episode_ids: Sequence[EpisodeId], t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows [B] of steps t [B] of the episodes.

        Raises:
            SpecError: for an episode or a step that the table does not hold.
        """
        try:
            start = np.array([self.offset[e] for e in episode_ids], np.int64)
            stop = np.array([self.length[e] for e in episode_ids], np.int64)
        except KeyError as error:
            raise SpecError(f"episode {error} is in the batch but has no labels in this table; label it first") from None
        if (outside := np.flatnonzero((t < 0) | (t >= stop))).size:
            b = outside[0]
            raise SpecError(f"step {t[b]} of episode {episode_ids[b]} was asked for; the table has 0..{stop[b] - 1}")
        return start + t


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """What is known of every step of N episodes, R steps in all: the ground on which examples are judged."""

    index: StepIndex
    advantage: NDArray[np.float32]
    """[R]."""
    source: NDArray[np.int8]
    """[R], values of core.experience.Source."""
    episode: NDArray[np.int64]
    """[R], number of the episode in ``episode_ids``."""
    episode_ids: tuple[EpisodeId, ...]
    task: tuple[str, ...]
    """[N]."""
    collection: tuple[Collection, ...]
    """[N]."""

    @classmethod
    def build(
        cls, store: Experience, episode_ids: Sequence[EpisodeId], labels: Callable[[EpisodeId], Labels] | None
    ) -> StepTable:
        """Read sources from the store and advantages from the labels; without labels advantages are 0 (plain cloning)."""
        source = [store.steps(e).source for e in episode_ids]
        advantage = [
            labels(e).advantage if labels else np.zeros(len(s), np.float32) for e, s in zip(episode_ids, source, strict=True)
        ]
        provenance = [store.info(e).provenance for e in episode_ids]
        return cls(
            index=StepIndex.build({e: len(s) for e, s in zip(episode_ids, source, strict=True)}),
            advantage=np.concatenate(advantage),
            source=np.concatenate(source),
            episode=np.repeat(np.arange(len(episode_ids)), [len(s) for s in source]),
            episode_ids=tuple(episode_ids),
            task=tuple(p.task for p in provenance),
            collection=tuple(p.collection for p in provenance),
        )

    def is_learnable(self) -> NDArray[np.bool_]:
        """[R], all but the steps in which nobody decided."""
        return self.source != Source.HOLD

    def is_correction(self) -> NDArray[np.bool_]:
        """[R], a human's steps in anything but a demonstration."""
        return (self.source == Source.HUMAN) & ~self.is_demonstration()

    def is_demonstration(self) -> NDArray[np.bool_]:
        """[R]."""
        return np.array([c is Collection.DEMONSTRATION for c in self.collection], bool)[self.episode]


class PolicyBatches:
    """Draws batches for the policy learner: windows, what the policy is told, and what they count."""

    def __init__(
        self,
        windows: WindowSource,
        spec: WindowSpec,
        index: StepIndex,
        *,
        indicator: NDArray[np.int8],
        weight: NDArray[np.float32],
        indicator_dropout: float,
        batch_size: int,
    ) -> None:
        """``indicator`` and ``weight`` are [R], by the rows of ``index``."""
        self.source = windows
        self._spec = spec
        self._index = index
        self._indicator = indicator
        self._weight = weight
        self._dropout = indicator_dropout
        self._batch_size = batch_size

    def draw(self, rng: np.random.Generator) -> PolicyBatch:
        """The next batch; the indicator is dropped with the configured probability (RECAP: 30 %, in place of alpha)."""
        windows = self._drawn()
        rows = self._index.rows(windows.episode_id, windows.t)
        is_dropped = rng.random(len(rows)) < self._dropout
        told = np.where(is_dropped, np.int8(Indicator.ABSENT), self._indicator[rows])
        return PolicyBatch(windows=windows, indicator=told.astype(np.int8), weight=self._weight[rows])

    def draw_undropped(self) -> PolicyBatch:
        """A batch whose every indicator is as judged; for looking at a policy, not for training it."""
        windows = self._drawn()
        rows = self._index.rows(windows.episode_id, windows.t)
        return PolicyBatch(windows=windows, indicator=self._indicator[rows], weight=self._weight[rows])

    def _drawn(self) -> WindowBatch:
        windows: WindowBatch = self.source.sample(self._batch_size, self._spec).windows
        return windows


class ValueBatches:
    """Draws batches for the value learner: windows and their Monte-Carlo returns."""

    def __init__(
        self,
        windows: WindowSource,
        spec: WindowSpec,
        targets: Mapping[EpisodeId, NDArray[np.float32]],
        *,
        batch_size: int,
    ) -> None:
        """``targets`` are [T+1] an episode, all finite: an episode that was truncated has no return to learn."""
        self.source = windows
        self._spec = spec
        self._batch_size = batch_size
        self._index = StepIndex.build({e: len(target) for e, target in targets.items()})
        self._target = np.concatenate(list(targets.values()))

    def draw(self, rng: np.random.Generator) -> ValueBatch:
        """The next batch; ``rng`` is not needed: all randomness is the sampler's."""
        windows: WindowBatch = self.source.sample(self._batch_size, self._spec).windows
        rows = self._index.rows(windows.episode_id, windows.t)
        if self._spec.value_offsets:
            last = np.array([self._index.length[e] - 1 for e in windows.episode_id], np.int64)
            rows = rows[:, None] + clipped_indices(windows.t, self._spec.value_offsets, last) - windows.t[:, None]
        return ValueBatch(windows=windows, target=self._target[rows])
