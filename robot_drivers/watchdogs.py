"""What the supervisor watches besides ages: the punctuality of its ticks, how often limits bite, whether an arm follows."""

from __future__ import annotations

import math
from collections import deque

import numpy as np


class TickTiming:
    """How late ticks start, over a sliding window."""

    def __init__(self, *, late_s: float, window_s: float, period_s: float) -> None:
        self._late_s = late_s
        self._lateness: deque[float] = deque(maxlen=max(1, round(window_s / period_s)))
        self._num_late_in_window = 0
        self._min_ticks = max(1, round(min(1.0, window_s) / period_s))
        self.num_ticks = 0
        self.num_late = 0

    def add(self, lateness_s: float) -> None:
        """One tick started so much after its time."""
        if len(self._lateness) == self._lateness.maxlen:
            self._num_late_in_window -= self._lateness[0] > self._late_s
        is_late = lateness_s > self._late_s
        self._lateness.append(lateness_s)
        self._num_late_in_window += is_late
        self.num_ticks += 1
        self.num_late += is_late

    @property
    def late_fraction(self) -> float:
        """Of the window's ticks; 0 until a second of them was seen."""
        return self._num_late_in_window / len(self._lateness) if len(self._lateness) >= self._min_ticks else 0.0

    def p99_ms(self) -> float:
        """99th percentile of the window's lateness."""
        return 1000 * float(np.percentile(list(self._lateness), 99)) if self._lateness else 0.0


class ClampWatch:
    """Which fraction of a policy's actions limits had to change: a policy in wrong units or frames hits them all the time."""

    def __init__(self, *, window_s: float, control_hz: float) -> None:
        self._window_s = window_s
        self._min_actions = max(3, math.ceil(window_s * control_hz / 2))
        self._actions: deque[tuple[float, bool]] = deque()

    def add(self, now_s: float, *, was_clamped: bool) -> None:
        """One action was filtered."""
        self._actions.append((now_s, was_clamped))
        while self._actions[0][0] < now_s - self._window_s:
            self._actions.popleft()

    def clear(self) -> None:
        """Forget, for a fresh start."""
        self._actions.clear()

    @property
    def fraction(self) -> float:
        """Of the window's actions; 0 until half a window of them was seen."""
        if len(self._actions) < self._min_actions:
            return 0.0
        return sum(clamped for _, clamped in self._actions) / len(self._actions)


class Persistence:
    """How long a condition has held without a break."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def held_s(self, is_so: bool, now_s: float) -> float:
        """Seconds up to now; 0 if it does not hold."""
        if not is_so:
            self._since_s = None
            return 0.0
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s
