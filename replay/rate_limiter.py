"""Keeps sampling and inserting in proportion when both run at once.

The rule is that of Reverb's ``SampleToInsertRatio`` (Cassirer et al. 2021, arXiv:2102.04736): with

    error = (num_inserts - min_size_to_sample) * samples_per_insert - num_samples

sampling waits while there are fewer than ``min_size_to_sample`` inserts, or while it would bring the error below
``-error_buffer``; inserting waits while it would bring the error above ``+error_buffer``, but never before
``min_size_to_sample`` is reached. Different from Reverb: inserts are counted as they are reported by whoever commits, because
the writers are other processes; and a wait that cannot end is refused instead of waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.clock import Clock, SystemClock
from core.errors import ConfigError, RecapError


class RateLimitTimeoutError(RecapError, TimeoutError):
    """The other side did not come up with what was waited for in time."""


@dataclass(frozen=True, kw_only=True)
class RateLimiterConfig:
    """What one insert is (an episode, a step) is for the caller to say, always the same; so for samples.

    Example:
        Steps inserted, windows sampled: samples_per_insert 8, min_size_to_sample 1000, error_buffer 4000.
    """

    samples_per_insert: float = 8.0
    """How often each inserted item is drawn, on average."""
    min_size_to_sample: int = 1
    """Inserts before the first sample."""
    error_buffer: float = 64.0
    """By how many samples either side may run ahead."""

    def __post_init__(self) -> None:
        if not self.samples_per_insert > 0 or self.min_size_to_sample < 1:
            raise ConfigError(
                f"samples_per_insert is {self.samples_per_insert}, min_size_to_sample {self.min_size_to_sample}; "
                "expected more than 0 and at least 1"
            )
        smallest = max(1.0, self.samples_per_insert)
        if not self.error_buffer >= smallest:
            raise ConfigError(
                f"deadlock: error_buffer is {self.error_buffer}, less than one insert ({self.samples_per_insert} samples) or "
                f"one sample moves the error, so that both sides could wait for each other; expected at least {smallest}"
            )


class SamplesPerInsertLimiter:
    """Makes samplers and inserters wait for each other.

    Consumes: counts. Produces: permission. Waits for: the other side. Unblocked by: the other side's calls, in any thread.
    Invariant: no call that is let through moves the error beyond ``-error_buffer`` or ``error_buffer``.

    Deadlock is impossible. Sampling n waits while error < n - error_buffer; inserting m waits while error > error_buffer
    - m * samples_per_insert. Both at once need n + m * samples_per_insert > 2 * error_buffer, and calls that large are refused.
    What remains is that the other side is dead: hence the timeout.

    Example::

        limiter.await_sample(64, timeout_s=600)     # the learner, before each batch
        limiter.await_insert(1, timeout_s=600)      # the collector, before each episode
    """

    def __init__(self, config: RateLimiterConfig, clock: Clock | None = None, *, poll_s: float = 0.02) -> None:
        """``poll_s`` is how often a wait looks again."""
        self._config = config
        self._clock = clock or SystemClock()
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._num_inserts = 0
        self._num_samples = 0

    @property
    def num_inserts(self) -> int:
        """Inserts so far."""
        return self._num_inserts

    @property
    def num_samples(self) -> int:
        """Samples so far."""
        return self._num_samples

    @property
    def error(self) -> float:
        """Samples that the samplers are behind (positive) or ahead (negative)."""
        return self._error(self._num_inserts, self._num_samples)

    def can_sample(self, num_samples: int = 1) -> bool:
        """Whether ``num_samples`` samples may be drawn now."""
        if self._num_inserts < self._config.min_size_to_sample:
            return False
        return self._error(self._num_inserts, self._num_samples + num_samples) >= -self._config.error_buffer

    def can_insert(self, num_inserts: int = 1) -> bool:
        """Whether ``num_inserts`` items may be inserted now."""
        after = self._num_inserts + num_inserts
        if after <= self._config.min_size_to_sample:
            return True
        return self._error(after, self._num_samples) <= self._config.error_buffer

    def await_sample(self, num_samples: int = 1, *, timeout_s: float) -> None:
        """Wait until ``num_samples`` samples may be drawn, and count them as drawn.

        Raises:
            ConfigError: if so many can never be drawn at once.
            RateLimitTimeoutError: if ``timeout_s`` passed.
        """
        if num_samples > self._config.error_buffer:
            raise ConfigError(
                f"deadlock: {num_samples} samples at once can wait for ever under error_buffer {self._config.error_buffer}; "
                f"sample fewer at once or raise error_buffer to at least {num_samples}"
            )

        def take() -> bool:
            if is_allowed := self.can_sample(num_samples):
                self._num_samples += num_samples
            return is_allowed

        self._await(take, f"sample {num_samples}", "inserts", timeout_s)

    def await_insert(self, num_inserts: int = 1, *, timeout_s: float) -> None:
        """Wait until ``num_inserts`` items may be inserted, and count them as inserted.

        Raises:
            ConfigError: if so many can never be inserted at once.
            RateLimitTimeoutError: if ``timeout_s`` passed.
        """
        if num_inserts * self._config.samples_per_insert > self._config.error_buffer:
            raise ConfigError(
                f"deadlock: {num_inserts} inserts at once ({num_inserts * self._config.samples_per_insert} samples) can wait for "
                f"ever under error_buffer {self._config.error_buffer}; insert fewer at once or raise error_buffer"
            )

        def take() -> bool:
            if is_allowed := self.can_insert(num_inserts):
                self._num_inserts += num_inserts
            return is_allowed

        self._await(take, f"insert {num_inserts}", "samples", timeout_s)

    def count_inserts(self, num_inserts: int) -> None:
        """Count items that are inserted already, for example those found in a store that was opened again."""
        with self._lock:
            self._num_inserts += num_inserts

    def state_dict(self) -> dict[str, Any]:
        """The counts, JSON-like."""
        with self._lock:
            return {"num_inserts": self._num_inserts, "num_samples": self._num_samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved counts."""
        with self._lock:
            self._num_inserts, self._num_samples = int(state["num_inserts"]), int(state["num_samples"])

    def _error(self, num_inserts: int, num_samples: int) -> float:
        return (num_inserts - self._config.min_size_to_sample) * self._config.samples_per_insert - num_samples

    def _await(self, take: Callable[[], bool], what: str, other: str, timeout_s: float) -> None:
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            with self._lock:
                if take():
                    return
            if self._clock.monotonic_s() >= deadline_s:
                raise RateLimitTimeoutError(
                    f"waited {timeout_s} s to {what}: {self._num_inserts} inserts and {self._num_samples} samples so far, "
                    f"error {self.error:+.1f} of ±{self._config.error_buffer}, min_size_to_sample "
                    f"{self._config.min_size_to_sample}. Not enough {other} came: see whether that side still runs"
                )
            self._clock.sleep_s(self._poll_s)
