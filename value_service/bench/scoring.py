"""Judges predicted values by the truth of the bench's episodes: one score an episode and metric, then means with intervals.

Every metric is a ratio of two sums over episodes, so that an interval comes from drawing whole episodes again (observations of
one episode are not independent). Undefined scores are left out and counted, as in :mod:`value_service.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import SpecError
from value_service import metrics
from value_service.bench.truth import BenchEpisode, Kind

NUM_BINS = 10
KEY_FRAME_WINDOW = 3
"""w, observations to either side of a key frame (ViVa names none). A retreat lasts three to seven: with the five that suit video
rates, what comes after it is averaged in, and the truth itself would not fall."""
_NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

METRICS: Mapping[str, str] = {
    "Expert-VOC": "Spearman of the value with time, experts (higher is better)",
    "Hesitation-RMSE": "root mean square error over the pause, in progress (lower)",
    "Retry-VOC": "Spearman of the value with reversed time over the retreat (higher)",
    "MS": "relative change of the value at milestones (higher)",
    "MDR": "share of milestones at which the value rises (higher)",
    "ES": "relative fall of the value where a retreat begins (higher)",
    "ErrDR": "share of retreats at whose beginning the value falls (higher)",
    "ES, misses": "relative fall of the value where a failure lifts nothing (higher)",
    "ErrDR, misses": "share of these at which the value falls (higher)",
    "Pearson": "with the true progress, all successes (higher)",
    "Spearman": "with the true progress, all successes (higher)",
    "Calibration": "expected error of the value against the true progress in ten bins, all successes (lower)",
    "Outcome": "share of (failure, success of the same task) pairs whose last values tell them apart (higher)",
}
"""What is measured -> how it reads."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over episodes and its 95 % bootstrap interval; NaN where nothing was defined."""

    mean: float
    low: float
    high: float
    num_episodes: int
    num_undefined: int


@dataclass(frozen=True, kw_only=True)
class Sums:
    """A metric's numerator and denominator, an episode a row."""

    total: NDArray[np.float64]
    """[E] or [E, bins]."""
    count: NDArray[np.float64]
    """[E] or [E, bins]; 0 where the score of an episode is undefined."""


def bootstrap(sums: Sums, rng: np.random.Generator) -> Estimate:
    """Mean and percentile interval of sum(total) / sum(count), by drawing episodes with replacement.

    With bins, the mean over all counts of |sum(total)| / sum(count) of their bin: the expected calibration error.

    Example:
        >>> ones = Sums(total=np.ones(4), count=np.ones(4))
        >>> bootstrap(ones, np.random.default_rng(0)).low
        1.0
    """
    return _estimate(mean(sums), _resampled(sums, rng), sums)


def bootstrap_difference(one: Sums, other: Sums, seed: int) -> Estimate:
    """Of two models on the same episodes, drawn together: what both find hard does not widen the interval.

    Raises:
        SpecError: if the episodes are not the same number.
    """
    if one.total.shape != other.total.shape:
        raise SpecError(f"scores of {one.total.shape} and of {other.total.shape} episodes; a difference needs the same ones")
    spread = _resampled(one, np.random.default_rng(seed)) - _resampled(other, np.random.default_rng(seed))
    return _estimate(mean(one) - mean(other), spread, one)


def _resampled(sums: Sums, rng: np.random.Generator) -> NDArray[np.float64]:
    """[R] means of episodes drawn again."""
    if sums.total.shape != sums.count.shape:
        raise SpecError(f"totals {sums.total.shape} and counts {sums.count.shape} differ in shape; expected one each")
    number = len(sums.total)
    if number == 0:
        return np.full(_NUM_RESAMPLES, np.nan)
    # How often each episode is drawn decides everything, so a resample is one row of counts and a sum is one product.
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=_NUM_RESAMPLES).astype(np.float64)
    return _ratio(drawn @ sums.total, drawn @ sums.count)


def _estimate(of_all: float, spread: NDArray[np.float64], sums: Sums) -> Estimate:
    number = len(sums.total)
    num_defined = int((sums.count.reshape(number, -1) > 0).any(axis=1).sum()) if number else 0
    if not np.isfinite(of_all):
        return Estimate(mean=np.nan, low=np.nan, high=np.nan, num_episodes=0, num_undefined=number)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(spread, [tail, 1 - tail])
    return Estimate(mean=of_all, low=float(low), high=float(high), num_episodes=num_defined, num_undefined=number - num_defined)


def mean(sums: Sums) -> float:
    """What :func:`bootstrap` gives an interval to; NaN where nothing was defined."""
    return float(_ratio(sums.total.sum(axis=0, keepdims=True), sums.count.sum(axis=0, keepdims=True))[0])


def _ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R] of sums [R] or [R, bins]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if total.ndim == 1:
            return total / count
        return np.abs(total).sum(axis=1) / count.sum(axis=1)


def score(episodes: Sequence[BenchEpisode], values: Sequence[NDArray[np.float32]]) -> dict[str, Sums]:
    """Sums of every metric over E episodes of one robot.

    Args:
        episodes: E of them.
        values: V [T+1] in [-1, 0] of each.

    Returns:
        By the names in :data:`METRICS`.
    """
    pairs = list(zip(episodes, (1.0 + np.asarray(value, np.float64) for value in values), strict=True))
    for episode, progress in pairs:
        if len(progress) != episode.num_steps + 1:
            raise SpecError(f"{episode.episode_id}: {len(progress)} values of {episode.num_steps + 1} observations")
    of_kind = {kind: [(e, p) for e, p in pairs if e.truth.kind is kind] for kind in Kind}
    labelled = [(e.truth.label, p) for e, p in pairs if e.truth.label is not None]
    retreats = [(p, e.truth.interval) for e, p in of_kind[Kind.RETRY] if e.truth.interval]
    return {
        "Expert-VOC": _of_scores([metrics.value_order_correlation(p) for _, p in of_kind[Kind.EXPERT]]),
        "Hesitation-RMSE": _of_scores(
            [
                metrics.hesitation_rmse(p, e.truth.label, e.truth.interval)
                for e, p in of_kind[Kind.HESITATION]
                if e.truth.label is not None and e.truth.interval is not None
            ]
        ),
        "Retry-VOC": _of_scores([metrics.retry_order_correlation(p, *interval) for p, interval in retreats]),
        **_key_frame_sums(pairs),
        "Pearson": _of_scores([metrics.pearson(p, label) for label, p in labelled]),
        "Spearman": _of_scores([metrics.spearman(p, label) for label, p in labelled]),
        "Calibration": _calibration_sums(labelled),
        "Outcome": _outcome_sums(pairs),
    }


def _of_scores(scores: Sequence[float]) -> Sums:
    """One score an episode; what is undefined counts nothing."""
    array = np.array(scores, np.float64)
    is_defined = ~np.isnan(array)
    return Sums(total=np.where(is_defined, array, 0.0), count=is_defined.astype(np.float64))


def _key_frame_sums(pairs: Sequence[tuple[BenchEpisode, NDArray[np.float64]]]) -> dict[str, Sums]:
    """MS, ES, MDR, ErrDR: every key frame counts once, whatever episode it is in."""
    rows = []
    for episode, progress in pairs:
        keys, is_miss = episode.truth.key_frames, episode.truth.kind is Kind.FAILURE
        responses = metrics.event_responses(progress, keys, window_steps=KEY_FRAME_WINDOW)
        is_error = np.array([key.is_error for key in keys], bool)
        groups = (responses[~is_error], responses[is_error & (not is_miss)], responses[is_error & is_miss])
        rows.append([number for group in groups for number in (group.sum(), (group > 0).sum(), len(group))])
    table = np.array(rows, np.float64).reshape(-1, 9)
    names = (("MS", "MDR"), ("ES", "ErrDR"), ("ES, misses", "ErrDR, misses"))
    return {
        name: Sums(total=table[:, 3 * group + place], count=table[:, 3 * group + 2])
        for group, pair in enumerate(names)
        for place, name in enumerate(pair)
    }


def _calibration_sums(labelled: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Sums:
    """Sums of predicted - true progress, in bins of the prediction."""
    gaps, counts = [], []
    for label, progress in labelled:
        bins = np.minimum((progress * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        gaps.append(np.bincount(bins, progress - label, NUM_BINS))
        counts.append(np.bincount(bins, minlength=NUM_BINS).astype(np.float64))
    empty = np.zeros((0, NUM_BINS))
    return Sums(total=np.array(gaps) if gaps else empty, count=np.array(counts) if counts else empty)


def _outcome_sums(pairs: Sequence[tuple[BenchEpisode, NDArray[np.float64]]]) -> Sums:
    """Of each failure, the share of its task's successes that end higher; ties count half."""
    shares = []
    for failure, progress in pairs:
        if failure.truth.kind is Kind.FAILURE:
            others = [p[-1] for e, p in pairs if e.task == failure.task and e.truth.kind is not Kind.FAILURE]
            last = np.array(others) - progress[-1]
            shares.append(float(((last > 0) + 0.5 * (last == 0)).mean()) if others else float("nan"))
    return _of_scores(shares)


def added(parts: Sequence[Sums]) -> Sums:
    """Several models of one name (seeds) on the same episodes: an episode stays one row, for it is what is drawn again."""
    return Sums(total=np.sum([part.total for part in parts], axis=0), count=np.sum([part.count for part in parts], axis=0))
