"""Joins windows of experience with what is known of their steps: advantages, indicators, weights, value targets.

Hop 7 to 8 of the tour. Episodes are looked up once, when the table is built: one flat array a quantity, one offset an
episode. A batch then costs one index operation, whatever the number of steps in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, SpecError
from core.experience import Collection, Provenance, Source
from core.ids import EpisodeId
from core.labels import Indicator, Labels
from core.windows import WindowBatch, WindowSpec, clipped_indices


def rows_of_rank(batch_size: int, rank: int, size: int) -> range:
    """Which rows of a batch of ``batch_size`` the process ``rank`` of ``size`` computes.

    Raises:
        ConfigError: if the batch does not divide: processes wait for each other, so all must have the same number.

    Example:
        >>> rows_of_rank(8, rank=1, size=2)
        range(4, 8)
    """
    if batch_size % size:
        raise ConfigError(f"batch_size {batch_size} does not divide among {size} processes; make it a multiple of {size}")
    share = batch_size // size
    return range(rank * share, (rank + 1) * share)


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """B examples for a policy, of which this process computes ``rows``."""

    rows: range
    windows: WindowBatch
    """Of the rows."""
    indicator: NDArray[np.int8]
    """[rows], values of core.labels.Indicator; what the policy is told."""
    weight: NDArray[np.float32]
    """[B], at least 0; how much the example counts."""
    policy_age: NDArray[np.float32]
    """[B], versions between the policy that acted and the newest; NaN where no policy acted."""


@dataclass(frozen=True, kw_only=True)
class ValueBatch:
    """B examples for a value model, of which this process computes ``rows``."""

    rows: range
    windows: WindowBatch
    """Of the rows."""
    target: NDArray[np.float32]
    """[rows], or [rows, O] where the window's spec has O value offsets; in [-1, 0]."""
    batch_size: int
    """B."""


def window_rows(windows: WindowBatch, rows: slice) -> WindowBatch:
    """Some of the windows."""
    return WindowBatch(
        images={name: frames[rows] for name, frames in windows.images.items()},
        state=windows.state[rows],
        action=windows.action[rows],
        action_is_pad=windows.action_is_pad[rows],
        instruction=windows.instruction[rows],
        episode_id=windows.episode_id[rows],
        t=windows.t[rows],
    )


class DrawnWindows(Protocol):
    """A draw of n windows, of which some are read (``replay.sampler.Sample``)."""

    @property
    def windows(self) -> WindowBatch:
        """Those that are read."""
        ...

    @property
    def episode_id(self) -> Sequence[EpisodeId]:
        """[n], of all."""
        ...

    @property
    def t(self) -> NDArray[np.int64]:
        """[n], of all."""
        ...


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

    def sample(self, n: int, spec: WindowSpec, *, rows: range | None = None) -> DrawnWindows:
        """Draw ``n`` windows cut by ``spec``; read ``rows`` of them (None: all). The position does not depend on ``rows``."""
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
        policy_age: NDArray[np.float32] | None = None,
    ) -> None:
        """``indicator``, ``weight`` and ``policy_age`` (None: unknown) are [R], by the rows of ``index``."""
        self.source = windows
        self._spec = spec
        self._index = index
        self._indicator = indicator
        self._weight = weight
        self._policy_age = np.full(len(weight), np.nan, np.float32) if policy_age is None else policy_age
        self._dropout = indicator_dropout
        self._batch_size = batch_size

    def draw(self, rng: np.random.Generator, *, rank: int = 0, size: int = 1) -> PolicyBatch:
        """The next batch; the indicator is dropped with the configured probability (RECAP: 30 %, in place of alpha).

        Args:
            rng: draws what is dropped, for the whole batch.
            rank: of this process.
            size: processes that compute the batch together.
        """
        batch = self._drawn(rows_of_rank(self._batch_size, rank, size))
        is_dropped = (rng.random(self._batch_size) < self._dropout)[batch.rows.start : batch.rows.stop]
        told = np.where(is_dropped, np.int8(Indicator.ABSENT), batch.indicator)
        return replace(batch, indicator=told.astype(np.int8))

    def draw_undropped(self) -> PolicyBatch:
        """A batch whose every indicator is as judged; for looking at a policy, not for training it."""
        return self._drawn(range(self._batch_size))

    def _drawn(self, rows: range) -> PolicyBatch:
        drawn = self.source.sample(self._batch_size, self._spec, rows=rows)
        steps = self._index.rows(drawn.episode_id, drawn.t)
        indicator = self._indicator[steps[rows.start : rows.stop]]
        return PolicyBatch(
            rows=rows,
            windows=drawn.windows,
            indicator=indicator,
            weight=self._weight[steps],
            policy_age=self._policy_age[steps],
        )


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

    def draw(self, rng: np.random.Generator, *, rank: int = 0, size: int = 1) -> ValueBatch:
        """The next batch; arguments as those of :meth:`PolicyBatches.draw`, but all randomness is the sampler's."""
        rows = rows_of_rank(self._batch_size, rank, size)
        windows = self.source.sample(self._batch_size, self._spec, rows=rows).windows
        steps = self._index.rows(windows.episode_id, windows.t)
        if self._spec.value_offsets:
            last = np.array([self._index.length[e] - 1 for e in windows.episode_id], np.int64)
            steps = steps[:, None] + clipped_indices(windows.t, self._spec.value_offsets, last) - windows.t[:, None]
        return ValueBatch(rows=rows, windows=windows, target=self._target[steps], batch_size=self._batch_size)
