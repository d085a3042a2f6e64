"""When is a success rate good enough: a declared number of episodes, or a test that may be looked at after every one.

Pure functions on outcomes. Looking at a fixed-n interval after every episode and stopping when it suits passes bad policies far
more often than the interval says. So there are two rules, and no third:

- :class:`DeclaredN`: n is declared before the first episode; before n the verdict is inconclusive whatever the counts are, at n
  it is final. One-sided Wilson bounds (Wilson 1927; statsmodels).
- :class:`SequentialTest`: two test martingales, one against "at most p0", one against "at least p0". For a bet q the capital
  after S successes and F failures is (q/p0)^S ((1-q)/(1-p0))^F, a nonnegative supermartingale under the hypothesis; the mixture
  over q uniform on the other side of p0 is one too. By Ville's inequality it ever reaches 1/alpha with probability at most alpha
  if the hypothesis holds, at whatever moment one looks or stops (Ville 1939; Robbins 1970; Waudby-Smith and Ramdas 2024,
  arXiv:2010.09686; for robots: arXiv:2503.10966).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc, betaincc, betaln
from statsmodels.stats.proportion import proportion_confint

from core.errors import ConfigError


class Verdict(enum.Enum):
    """How a gate stands. Nothing but PASS lets a checkpoint through."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict, and what it rests on."""

    verdict: Verdict
    is_closed: bool
    """No more data may be added."""
    text: str
    """For people: counts, bound, what is missing."""
    num_used: int = 0
    """Episodes that the verdict rests on."""


@dataclass(frozen=True, kw_only=True)
class DeclaredN:
    """Pass if, after exactly n episodes, the success rate is at least ``min_success`` with the given confidence.

    Example:
        18 of 20 with confidence 0.95: the lower bound is 0.74.
    """

    num_episodes: int = 50
    min_success: float = 0.5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _require_rule(self.num_episodes, self.min_success, self.confidence)

    def judge(self, outcomes: Sequence[bool], *, level: float | None = None) -> Judgement:
        """Verdict on the first n outcomes.

        Args:
            outcomes: in the order in which they came.
            level: probability of passing wrongly that is left; None: 1 - confidence.
        """
        played, n = len(outcomes), self.num_episodes
        if played < n:
            return Judgement(
                verdict=Verdict.INCONCLUSIVE,
                is_closed=False,
                text=f"{sum(outcomes)}/{played} so far; {n} episodes were declared, no verdict before",
                num_used=played,
            )
        num_successes = sum(outcomes[:n])
        alpha = 1 - self.confidence if level is None else level
        low, high = wilson_bounds(num_successes, n, alpha=alpha)
        verdict = Verdict.PASS if low >= self.min_success else Verdict.FAIL if high < self.min_success else Verdict.INCONCLUSIVE
        text = f"{num_successes}/{n}, at least {low:.2f} and at most {high:.2f} (one-sided, {100 * (1 - alpha):g} % each)"
        return Judgement(verdict=verdict, is_closed=True, text=f"{text}; {self.min_success:g} is asked for", num_used=n)


@dataclass(frozen=True, kw_only=True)
class SequentialTest:
    """Pass, or fail, as soon as the evidence suffices; inconclusive for good after ``max_episodes``."""

    max_episodes: int = 60
    min_success: float = 0.5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _require_rule(self.max_episodes, self.min_success, self.confidence)

    def judge(self, outcomes: Sequence[bool], *, level: float | None = None) -> Judgement:
        """Verdict at the first moment at which there was one; later outcomes do not change it.

        Args:
            outcomes: in the order in which they came.
            level: probability of passing wrongly that is left; None: 1 - confidence. Failing wrongly keeps 1 - confidence.
        """
        fail_at = 1 / (1 - self.confidence)
        pass_at = 1 / (1 - self.confidence if level is None else level)
        better = worse = 1.0
        num_successes = num_used = 0
        verdict = Verdict.INCONCLUSIVE
        for outcome in outcomes[: self.max_episodes]:
            num_used += 1
            num_successes += outcome
            better, worse = evidence_against(self.min_success, num_successes, num_used - num_successes)
            if better >= pass_at or worse >= fail_at:
                verdict = Verdict.PASS if better >= pass_at else Verdict.FAIL
                break
        is_closed = verdict is not Verdict.INCONCLUSIVE or num_used == self.max_episodes
        text = (
            f"{num_successes}/{num_used}; evidence for more than {self.min_success:g}: {better:.3g} of {pass_at:.3g}, for less: "
            f"{worse:.3g} of {fail_at:.3g}; at most {self.max_episodes} episodes"
        )
        return Judgement(verdict=verdict, is_closed=is_closed, text=text, num_used=num_used)


EpisodesRule = DeclaredN | SequentialTest


def episodes_rule(*, sequential: bool, num_episodes: int, min_success: float, confidence: float) -> EpisodesRule:
    """Either rule, from numbers as they stand in a policy or a gate's record."""
    if sequential:
        return SequentialTest(max_episodes=num_episodes, min_success=min_success, confidence=confidence)
    return DeclaredN(num_episodes=num_episodes, min_success=min_success, confidence=confidence)


def wilson_bounds(num_successes: int, num_episodes: int, *, alpha: float) -> tuple[float, float]:
    """One-sided Wilson bounds, each wrong with probability about alpha.

    Example:
        >>> round(wilson_bounds(18, 20, alpha=0.05)[0], 2)
        0.74
    """
    low, high = proportion_confint(num_successes, num_episodes, alpha=2 * alpha, method="wilson")
    return float(low), float(high)


def evidence_against(threshold: float, num_successes: int, num_failures: int) -> tuple[float, float]:
    """The two capitals: against "the rate is at most ``threshold``", and against "at least".

    With q uniform on (p0, 1]: B(S+1, F+1) I_{1-p0}(F+1, S+1) / ((1-p0) p0^S (1-p0)^F), and likewise below.

    Example:
        >>> [round(e, 2) for e in evidence_against(0.5, 5, 0)]
        [10.5, 0.17]
    """
    s, f, p0 = num_successes, num_failures, threshold
    log_scale = float(betaln(s + 1, f + 1)) - s * math.log(p0) - f * math.log1p(-p0)
    above, below = float(betaincc(s + 1, f + 1, p0)), float(betainc(s + 1, f + 1, p0))
    return _scaled(above, log_scale - math.log1p(-p0)), _scaled(below, log_scale - math.log(p0))


def _scaled(share: float, log_factor: float) -> float:
    return math.exp(min(700.0, math.log(share) + log_factor)) if share > 0 else 0.0


def _require_rule(num_episodes: int, min_success: float, confidence: float) -> None:
    if num_episodes < 1 or not 0 < min_success < 1 or not 0.5 < confidence < 1:
        raise ConfigError(
            f"rule with {num_episodes} episodes, min_success {min_success}, confidence {confidence}; expected at least 1, "
            "0 < min_success < 1 and 0.5 < confidence < 1"
        )
