"""When an iteration's rollouts are collected, judged and labelled: before its policy update, or during the one before it.

Hops 3 to 6 of the tour, as the loop sees them. Two classes with the same call; the schedule is chosen once, when the run is
built.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol


class LabelledPhases(Protocol):
    """The part of ``learners.phases.Phases`` that ends with labels."""

    def collect(self, k: int) -> Any:
        """Roll out."""
        ...

    def fit_value(self, k: int) -> Any:
        """Fit the value on all data."""
        ...

    def label(self, k: int) -> Any:
        """Label all data."""
        ...


class ValuesInTurn:
    """Does the work when it is asked for."""

    def __init__(self, phases: LabelledPhases, *, first: int, last: int) -> None:
        """``first`` and ``last``: iterations that will be asked for."""
        self._phases = phases

    def await_labels(self, k: int) -> None:
        """Collect, fit the value, label."""
        self._phases.collect(k)
        self._phases.fit_value(k)
        self._phases.label(k)

    def close(self) -> None:
        """Nothing runs in the background."""


class ValuesAhead:
    """Works in a thread, one iteration ahead: rollouts k + 1 are collected, judged and labelled while update k goes on.

    Consumes: what is committed. Produces: labels. Waits for: rollouts; for the policy update before the last, so that an
    iteration's data is at most one version older than in turn. On failure: the error is raised at the next :meth:`await_labels`.
    Invariant: the phases of an iteration are in order; labels of k + 1 never wait for update k.
    """

    def __init__(self, phases: LabelledPhases, *, first: int, last: int) -> None:
        """``first`` and ``last``: iterations that will be asked for; work begins with the first question."""
        self._phases = phases
        self._iterations = range(first, last + 1)
        self._may_begin = {k: threading.Event() for k in self._iterations}
        self._is_labelled = {k: threading.Event() for k in self._iterations}
        self._is_closing = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def await_labels(self, k: int) -> None:
        """Wait until iteration ``k`` is labelled, and let the next one begin."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="values-ahead", daemon=True)
            self._thread.start()
        self._may_begin[k].set()
        self._is_labelled[k].wait()
        if self._error is not None:
            raise self._error
        if k + 1 in self._may_begin:
            self._may_begin[k + 1].set()

    def close(self) -> None:
        """Begin nothing more; the phase in progress ends with what it waits for."""
        self._is_closing = True
        for event in self._may_begin.values():
            event.set()

    def _work(self) -> None:
        try:
            for k in self._iterations:
                self._may_begin[k].wait()
                for phase in (self._phases.collect, self._phases.fit_value, self._phases.label):
                    if self._is_closing:
                        return
                    phase(k)
                self._is_labelled[k].set()
        except BaseException as error:
            self._error = error
        finally:
            for event in self._is_labelled.values():
                event.set()
