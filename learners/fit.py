"""Takes a learner through its steps: draw, step, report, save; and continues where an interruption left it.

Hop 8 of the tour: the loop around ``PolicyLearner.step`` and ``ValueLearner.step``; the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from learners.batch import WindowSource
from learners.train_state import TrainState, latest_train_state, save_train_state

BatchType = TypeVar("BatchType")
BatchesType = TypeVar("BatchesType", bound="Batches", contravariant=True)


class Batches(Protocol):
    """Whatever draws batches; its window source has a position that is saved."""

    source: WindowSource


class Learner(Protocol[BatchesType, BatchType]):
    """A policy or value learner."""

    state: TrainState

    def draw(self, batches: BatchesType) -> BatchType:
        """The next batch."""
        ...

    def step(self, batch: BatchType) -> dict[str, float]:
        """One optimiser step."""
        ...


def fit(
    learner: Learner[BatchesType, BatchType],
    batches: BatchesType,
    *,
    folder: Path,
    save_every_steps: int,
    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    before_draw: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train for the learner's ``num_steps``, continuing from the last train state in ``folder`` if there is one.

    Args:
        learner: freshly built from its starting checkpoint.
        batches: freshly built over the same data as before an interruption.
        folder: of the train states; only the newest is kept.
        save_every_steps: learner steps between train states.
        on_step: told the step just taken (from 1) and its metrics.
        before_draw: may block, for example until a rate limiter allows a sample.

    Returns:
        Means over the last tenth of the steps; and since the start or the resumption: ``num_steps_here``, ``wait_s``, ``data_s``
        and ``step_s``, seconds spent in ``before_draw``, drawing and stepping.
    """
    state, num_steps = learner.state, learner.state.config.num_steps
    tail: list[Mapping[str, float]] = []
    found = latest_train_state(folder)
    if found is not None:
        position = state.restore(found)
        batches.source.load_state_dict(position["windows"])
        tail = position["tail"]
    first_step, wait_s, data_s, step_s = state.step, 0.0, 0.0, 0.0
    while state.step < num_steps:
        started_s = time.perf_counter()
        before_draw()
        waited_s = time.perf_counter()
        batch = learner.draw(batches)
        drawn_s = time.perf_counter()
        metrics = learner.step(batch)
        wait_s, data_s = wait_s + waited_s - started_s, data_s + drawn_s - waited_s
        step_s += time.perf_counter() - drawn_s
        tail = [*tail, metrics][-max(1, num_steps // 10) :]
        on_step(state.step, metrics)
        if state.step % save_every_steps == 0 or state.step == num_steps:
            save_train_state(state, folder, position={"windows": batches.source.state_dict(), "tail": tail})
    times = {"wait_s": wait_s, "data_s": data_s, "step_s": step_s}
    return {**_means(tail), "num_steps_here": state.step - first_step, **times}


def _means(rows: list[Mapping[str, float]]) -> dict[str, float]:
    names: dict[str, Any] = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
