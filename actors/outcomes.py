"""How often a task was solved, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one episode, as far as a success rate is concerned."""

    seed: int
    is_success: bool
    """At the last step."""
    is_success_once: bool
    """At any step."""
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class SuccessSummary:
    """Of n episodes.

    Example:
        23 of 50: success 0.46, interval 0.330 to 0.596.
    """

    num_episodes: int
    num_successes: int
    success: float
    success_low: float
    """Lower end of the Wilson 95 % interval."""
    success_high: float
    success_once: float
    mean_steps: float

    @property
    def text(self) -> str:
        """For people.

        Example:
            ``"46 % (33-60), 23/50"``.
        """
        low, high = 100 * self.success_low, 100 * self.success_high
        return f"{100 * self.success:.0f} % ({low:.0f}-{high:.0f}), {self.num_successes}/{self.num_episodes}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record."""
        return asdict(self)


def summarise(outcomes: Iterable[Outcome]) -> SuccessSummary:
    """Success rate with its Wilson 95 % interval (Wilson 1927; statsmodels), and mean length.

    Raises:
        ValueError: if there is no outcome.
    """
    rows = list(outcomes)
    if not rows:
        raise ValueError("no episode to summarise; expected at least one")
    num_successes = sum(row.is_success for row in rows)
    low, high = proportion_confint(num_successes, len(rows), alpha=0.05, method="wilson")
    return SuccessSummary(
        num_episodes=len(rows),
        num_successes=num_successes,
        success=num_successes / len(rows),
        success_low=float(low),
        success_high=float(high),
        success_once=sum(row.is_success_once for row in rows) / len(rows),
        mean_steps=sum(row.num_steps for row in rows) / len(rows),
    )
