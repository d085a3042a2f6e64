"""Does the simulator rank policies as reality does, and is one policy better than another: the statistics of evaluations.

Pure functions on numbers. The first two are SIMPLER's (Li et al. 2024, arXiv:2405.05941, section V), the others compare two
evaluations: McNemar's exact test where both met the same starts, Barnard's where they did not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import barnard_exact, binomtest
from statsmodels.stats.multitest import multipletests


def mean_maximum_rank_violation(simulated: Sequence[float], real: Sequence[float]) -> float:
    """MMRV: how far apart in reality the policies are that the simulator ranks wrongly; 0 is best.

    For each policy the largest real difference to a policy that it is wrongly ranked against, then the mean. Ranks are asked as
    "is above", so that a tie on one side only is wrong for one of the two. Not symmetric: magnitudes are those of ``real``.

    Args:
        simulated: success rate of each policy in the simulator.
        real: of the same policies in reality.

    Raises:
        ValueError: not one number a policy each.

    Example:
        >>> mean_maximum_rank_violation([0.2, 0.1, 0.9], [0.0, 0.5, 1.0])
        0.3333333333333333
    """
    scores, truth = _paired_scores(simulated, real)
    is_above = scores[:, None] > scores[None, :]
    is_truly_above = truth[:, None] > truth[None, :]
    violation = np.where(is_above != is_truly_above, np.abs(truth[:, None] - truth[None, :]), 0.0)
    return float(violation.max(axis=1).mean())


def pearson_correlation(simulated: Sequence[float], real: Sequence[float]) -> float:
    """Pearson's r as upstream computes it: 1e-8 is added to the denominator, and equal deviations correlate with 1.

    Args:
        simulated: success rate of each policy in the simulator.
        real: of the same policies in reality.

    Raises:
        ValueError: not one number a policy each.
    """
    scores, truth = _paired_scores(simulated, real)
    scores, truth = scores - scores.mean(), truth - truth.mean()
    if np.allclose(scores, truth):
        return 1.0
    return float((scores @ truth) / (np.sqrt((scores @ scores) * (truth @ truth)) + 1e-8))


def _paired_scores(simulated: Sequence[float], real: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, truth = np.asarray(simulated, np.float64), np.asarray(real, np.float64)
    if scores.shape != truth.shape or scores.ndim != 1 or len(scores) < 2:
        raise ValueError(
            f"simulated has shape {scores.shape}, real {truth.shape}; expected the same two policies or more in both"
        )
    return scores, truth


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations of one task.

    Example:
        McNemar: 50 common starts, only A solved 9 of them, only B 2: difference 0.14, p 0.065.
    """

    test: str
    """``McNemar exact`` or ``Barnard``."""
    num_a: int
    """Trials of A that were used."""
    num_b: int
    success_a: float
    success_b: float
    only_a: int | None
    """Starts that A alone solved; None where the starts differ."""
    only_b: int | None
    p_value: float
    """Two-sided; that a difference like this, or a larger one, arises between equals."""

    @property
    def difference(self) -> float:
        """A's success less B's."""
        return self.success_a - self.success_b


def compare_paired(outcomes: Iterable[tuple[bool, bool]]) -> Comparison:
    """McNemar's exact test (McNemar 1947) on common starts: a two-sided binomial test on the starts that one alone solved.

    Args:
        outcomes: of each common start, whether A and whether B solved it.

    Raises:
        ValueError: no common start.
    """
    pairs = np.array(list(outcomes), dtype=bool).reshape(-1, 2)
    if len(pairs) == 0:
        raise ValueError("no common start; expected at least one")
    only_a, only_b = int((pairs[:, 0] & ~pairs[:, 1]).sum()), int((~pairs[:, 0] & pairs[:, 1]).sum())
    discordant = only_a + only_b
    success_a, success_b = pairs.mean(axis=0)
    return Comparison(
        test="McNemar exact",
        num_a=len(pairs),
        num_b=len(pairs),
        success_a=float(success_a),
        success_b=float(success_b),
        only_a=only_a,
        only_b=only_b,
        p_value=float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0,
    )


def compare_unpaired(outcomes_a: Sequence[bool], outcomes_b: Sequence[bool]) -> Comparison:
    """Barnard's exact test (Barnard 1945): two binomials, of starts that have nothing to do with each other.

    Args:
        outcomes_a: whether A solved each of its starts.
        outcomes_b: likewise B.

    Raises:
        ValueError: one of them is empty.
    """
    if not outcomes_a or not outcomes_b:
        raise ValueError(f"A has {len(outcomes_a)} outcomes and B {len(outcomes_b)}; expected at least one each")
    solved_a, solved_b = sum(outcomes_a), sum(outcomes_b)
    num_a, num_b = len(outcomes_a), len(outcomes_b)
    is_same = solved_a * num_b == solved_b * num_a  # scipy divides by zero where both solved all or nothing
    table = [[solved_a, solved_b], [num_a - solved_a, num_b - solved_b]]
    return Comparison(
        test="Barnard",
        num_a=num_a,
        num_b=num_b,
        success_a=solved_a / num_a,
        success_b=solved_b / num_b,
        only_a=None,
        only_b=None,
        p_value=1.0 if is_same else float(barnard_exact(table).pvalue),
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values that may be read together (Holm 1979): the chance of even one false alarm among them stays at the level.

    Example:
        >>> [round(p, 3) for p in holm_adjusted([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
