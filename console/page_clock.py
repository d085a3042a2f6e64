"""How old input is when it arrives, judged from a page's clock that shares nothing with ours."""

from __future__ import annotations

from collections import deque


class PageClock:
    """Offset between a page's clock and this host's, from the heartbeat's quickest journeys.

    A message sent at page time t that arrives at host time r has been under way for r - t - offset; the offset is the smallest
    r - t of the last heartbeats. The quickest journey itself cannot be seen from one side and is left out.
    Old heartbeats are forgotten, because the two clocks drift apart.
    """

    def __init__(self, num_heartbeats: int = 60) -> None:
        self._offsets: deque[float] = deque(maxlen=num_heartbeats)

    def hear(self, page_s: float, received_s: float) -> None:
        """A heartbeat arrived."""
        self._offsets.append(received_s - page_s)

    def age_s(self, page_s: float, received_s: float) -> float | None:
        """Seconds since ``page_s`` on the page's clock; None before the first heartbeat."""
        if not self._offsets:
            return None
        return max(0.0, received_s - page_s - min(self._offsets))
