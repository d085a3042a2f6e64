"""Time as a dependency, so that whatever waits or stamps can be tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a part needs to know about time."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""
        ...

    def sleep_s(self, duration_s: float) -> None:
        """Wait for ``duration_s`` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep_s(self, duration_s: float) -> None:
        """Wait for ``duration_s`` seconds."""
        time.sleep(duration_s)


class ManualClock:
    """A clock that only moves when told to; for tests and for simulated time."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def monotonic_s(self) -> float:
        """The time set so far."""
        return self._now_s

    def sleep_s(self, duration_s: float) -> None:
        """Advance at once."""
        self.advance_s(duration_s)

    def advance_s(self, duration_s: float) -> None:
        """Move time forward."""
        if duration_s < 0:
            raise ValueError(f"time cannot go back: duration_s={duration_s}")
        self._now_s += duration_s
