"""What lets a target through to the wire: its generation, its sequence, its expiry. Shared by all drivers.

The race it closes: a stop is sent, and then a target that was computed before it arrives and moves the arm again. Whoever sends
holds the gate while the bytes leave, so every target has left either before the stop or not at all. Nobody waits under the gate,
so a stop waits for one system call at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.clock import Clock, SystemClock
from robot_drivers.driver import Target


class TargetGate:
    """Admits targets in order, and none of a generation that was stopped.

    Example::

        with gate.passage(target) as is_open:
            if is_open:
                socket.send(...)
        with gate.closing():
            socket.send(stop)
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._newest_generation = -1
        self._stopped_generation = -1
        self._last_sequence = -1

    @contextmanager
    def passage(self, target: Target) -> Iterator[bool]:
        """Hold the gate while ``target`` is sent; gives whether it may be. Do nothing slow inside."""
        with self._lock:
            is_open = self._admits(target)
            if is_open:
                self._newest_generation = max(self._newest_generation, target.generation)
                self._last_sequence = target.sequence
            yield is_open

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End the present generation, and hold the gate while the stop is sent. Ended also if sending it fails."""
        with self._lock:
            self._stopped_generation = self._newest_generation
            yield

    @contextmanager
    def sending(self, target: Target) -> Iterator[bool]:
        """Hold the gate while an admitted target leaves later, on another thread; gives whether it still may."""
        with self._lock:
            yield self._is_current(target)

    def is_current(self, target: Target) -> bool:
        """Whether an admitted target is still to be carried out: not stopped and not expired since."""
        with self._lock:
            return self._is_current(target)

    def _is_current(self, target: Target) -> bool:
        return target.generation > self._stopped_generation and self._clock.monotonic_s() <= target.expires_monotonic_s

    def _admits(self, target: Target) -> bool:
        return self._is_current(target) and target.sequence > self._last_sequence
