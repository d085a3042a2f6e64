"""Who waits for whom when values are judged during the policy update before them."""

from __future__ import annotations

import threading

import pytest

from core.errors import WorkerError
from learners.value_side import ValuesAhead, ValuesInTurn

PATIENCE_S = 20.0


class Recorded:
    """Phases that say when they were done; ``fails``: at that phase."""

    def __init__(self, fails: str = "") -> None:
        self.done: list[str] = []
        self.labelled = {k: threading.Event() for k in range(1, 6)}
        self.fails = fails

    def _do(self, phase: str, k: int) -> None:
        if f"{phase} {k}" == self.fails:
            raise WorkerError("the worker died")
        self.done.append(f"{phase} {k}")

    def collect(self, k: int) -> None:
        self._do("collect", k)

    def fit_value(self, k: int) -> None:
        self._do("fit_value", k)

    def label(self, k: int) -> None:
        self._do("label", k)
        self.labelled[k].set()


def of(*iterations: int) -> list[str]:
    return [f"{phase} {k}" for k in iterations for phase in ("collect", "fit_value", "label")]


def test_in_turn_nothing_is_done_before_it_is_asked_for() -> None:
    phases = Recorded()
    values = ValuesInTurn(phases, first=1, last=3)
    assert phases.done == []
    values.await_labels(1)
    assert phases.done == of(1)


def test_ahead_the_next_iteration_is_labelled_during_the_update_and_the_one_after_it_waits() -> None:
    phases = Recorded()
    values = ValuesAhead(phases, first=1, last=4)
    values.await_labels(1)
    assert phases.labelled[2].wait(PATIENCE_S), "labels of 2 do not wait for the update of 1"
    assert phases.done == of(1, 2), "3 must not begin before the update of 2 does: it would be two versions behind"
    assert not phases.labelled[3].wait(0.05)
    values.await_labels(2)
    assert phases.labelled[3].wait(PATIENCE_S)
    values.await_labels(3)
    values.await_labels(4)
    assert phases.done == of(1, 2, 3, 4)


def test_ahead_an_error_is_raised_where_its_labels_are_asked_for() -> None:
    phases = Recorded(fails="fit_value 2")
    values = ValuesAhead(phases, first=1, last=3)
    values.await_labels(1)
    with pytest.raises(WorkerError, match="the worker died"):
        values.await_labels(2)
    assert phases.done == [*of(1), "collect 2"]


def test_ahead_begins_nothing_after_it_was_closed() -> None:
    phases = Recorded()
    values = ValuesAhead(phases, first=1, last=3)
    values.await_labels(1)
    assert phases.labelled[2].wait(PATIENCE_S)
    values.close()
    assert values._thread is not None
    values._thread.join(PATIENCE_S)
    assert not values._thread.is_alive()
    assert phases.done == of(1, 2)
