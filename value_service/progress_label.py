"""True progress of a success that paused or went back: the label curves of WVM's Suboptimal-Value-Bench.

Beside hop 5 of the tour; what :mod:`value_service.metrics` compares values with, never learned from.

symbol -> variable: T ``num_observations``; m, n ``start``, ``stop``; x = n - m (WVM, arXiv:2606.24742, section on the benchmark).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import SpecError


class Interval(NamedTuple):
    """Indices start..stop, both inclusive, in which an episode makes no progress."""

    start: int
    stop: int

    def require_within(self, num_observations: int) -> None:
        """The published construction needs progress before and after an interval.

        Raises:
            SpecError: unless 0 < start < stop < T - 1.
        """
        if not 0 < self.start < self.stop < num_observations - 1:
            raise SpecError(f"{self} of {num_observations} observations; expected 0 < start < stop < {num_observations - 1}")


def progress_label(
    num_observations: int, *, hesitations: Sequence[Interval] = (), retries: Sequence[Interval] = ()
) -> NDArray[np.float64]:
    """True progress of a successful episode: linear through (0, 0), (m, v_m), (n, v_n), (T-1, 1).

    A hesitation has v_m = v_n = m / (T - 1 - x). In a retry what was gained in x steps is lost in x steps: v_m = m / (T - 2x) and
    v_n = max(0, (m - x) / (T - 2x)). Of several intervals each takes away its own share, which the paper does not treat; with one
    it is its formula exactly.

    Args:
        num_observations: T of the paper, observations: one more than actions.
        hesitations: where it paused.
        retries: where it went back to try again.

    Returns:
        [T] in [0, 1].

    Raises:
        SpecError: an interval at an end or over another; so much retrying that nothing remains (T - 2x <= 0), or that a peak
            would be above 1 (m > T - 2x). The construction does not apply: leave the episode out.

    Example:
        >>> progress_label(6, hesitations=[Interval(1, 3)]).round(2).tolist()
        [0.0, 0.33, 0.33, 0.33, 0.67, 1.0]
        >>> progress_label(10, retries=[Interval(4, 6)]).round(2).tolist()
        [0.0, 0.17, 0.33, 0.5, 0.67, 0.5, 0.33, 0.56, 0.78, 1.0]
    """
    paused, retried = (sum(stop - start for start, stop in intervals) for intervals in (hesitations, retries))
    # The paper divides by T - 1 - x for a pause, and by T - 2x for a retry.
    scale = num_observations - 1 - paused - 2 * retried + bool(retries)
    if scale <= 0:
        raise SpecError(
            f"{retried} steps of retry and {paused} of hesitation of {num_observations} observations leave no progress "
            "(T - 2x <= 0); leave this episode out"
        )
    places, values = [0], [0.0]
    for interval, is_retry in sorted([(one, False) for one in hesitations] + [(one, True) for one in retries]):
        interval.require_within(num_observations)
        if interval.start < places[-1]:
            raise SpecError(f"{interval} begins before the one until {places[-1]} has ended; expected intervals without overlap")
        at_start = values[-1] + (interval.start - places[-1]) / scale
        at_stop = max(0.0, at_start - (interval.stop - interval.start) / scale) if is_retry else at_start
        places, values = [*places, *interval], [*values, at_start, at_stop]
    if max(values) > 1:
        raise SpecError(
            f"retries {[tuple(one) for one in retries]} of {num_observations} observations leave a peak above 1; the published "
            "construction does not apply: leave this episode out"
        )
    return np.interp(np.arange(num_observations), [*places, num_observations - 1], [*values, 1.0])
