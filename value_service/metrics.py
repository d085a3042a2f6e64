"""Whether a value can be trusted: what papers report of value functions, as pure functions of arrays.

Beside hop 5 of the tour; nothing here is learned from. Everything takes one value an index, in any unit, as long as a higher
value means more progress (ours, V in [-1, 0], does; a cost-to-go must be negated first).

What is undefined is NaN, never a number that looks like a result: the rank correlation of a constant, the mean over no key
frame. Average over episodes with :func:`mean_defined`, which also says how many were undefined.

symbol -> variable: d_k ``direction`` of a key frame; w ``window_steps``; epsilon ``floor`` (ViVa, arXiv:2604.08168);
m, n ``start``, ``stop`` of a retry (WVM, arXiv:2606.24742).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from core.errors import NonFiniteError, SpecError
from core.experience import Source
from value_service.progress_label import Interval

Array = NDArray[Any]

# -- correlations -----------------------------------------------------------------------------------------------------


def pearson(a: Array, b: Array) -> float:
    """Pearson's correlation of two arrays [n]; NaN for fewer than two pairs or if either is constant.

    Example:
        >>> pearson(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
        1.0

    Raises:
        SpecError, NonFiniteError: if the arrays are no pairs of finite numbers.
    """
    a, b = _pairs(a, b)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    # The rounding of a mean can make a perfect correlation come out as 1.0000000000000002.
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two arrays [n], ties given their average rank; NaN as :func:`pearson`.

    Example:
        >>> spearman(np.array([0.0, 1.0, 8.0]), np.array([1.0, 2.0, 3.0]))
        1.0
    """
    a, b = _pairs(a, b)
    return pearson(rankdata(a), rankdata(b))


def value_order_correlation(value: Array) -> float:
    """VOC (GVL, arXiv:2411.04549): Spearman's correlation of a value with time, on an episode that makes progress throughout.

    Different from implementations that correlate ``argsort(value)`` with time: those give a constant +1, and punish ties by
    the order in which a sort happens to leave them. Here a constant is NaN, which WVM's tables print as "/".

    Args:
        value: [n], one an observation.

    Returns:
        In [-1, 1].

    Example:
        >>> value_order_correlation(np.array([-0.9, -0.5, -0.1]))
        1.0
    """
    return spearman(value, np.arange(len(value)))


def retry_order_correlation(value: Array, start: int, stop: int) -> float:
    """Retry-VOC (WVM): VOC over a retry, where the true value falls; +1 for a value that falls all the way.

    Args:
        value: [T+1].
        start: m, index at which the retreat begins.
        stop: n, index at which it ends, inclusive; m < n.

    Example:
        >>> retry_order_correlation(np.array([0.1, 0.5, 0.3, 0.2, 0.6]), 1, 3)
        1.0
    """
    return -value_order_correlation(_interval(value, start, stop))


# -- hesitations ------------------------------------------------------------------------------------------------------


def hesitation_rmse(progress: Array, label: Array, pause: Interval) -> float:
    """Hesitation-RMSE (WVM): root mean square error over the pause; an absolute error, not only a matter of flatness.

    Args:
        progress: [T] predicted, in the unit of the label, 0 at the start and 1 when done (V in [-0.5, 0]: 1 + 2 V).
        label: [T], see :func:`value_service.progress_label.progress_label`.
        pause: both ends count.
    """
    progress, label = _pairs(progress, label)
    pause.require_within(len(label))
    start, stop = pause
    error = progress[start : stop + 1] - label[start : stop + 1]
    return float(np.sqrt(np.square(error).mean()))


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class KeyFrame:
    """A moment at which the value should jump."""

    t: int
    """The first index at which the event has happened."""
    is_error: bool = False
    """False: a milestone, the value should rise. True: an error, it should fall."""


@dataclass(frozen=True, kw_only=True)
class EventScores:
    """ViVa's four event metrics; NaN where there was no such key frame."""

    milestone_score: float
    """MS: mean relative change of the value at milestones."""
    error_score: float
    """ES: mean relative change against the expected direction's sign at errors; positive is right."""
    milestone_detection_rate: float
    """MDR: share of milestones with a change in the right direction."""
    error_detection_rate: float
    """ErrDR: share of errors with a change in the right direction."""
    num_milestones: int
    num_errors: int


def event_responses(
    progress: Array, key_frames: Sequence[KeyFrame], *, window_steps: int, floor: float = 1e-3
) -> NDArray[np.float64]:
    """ERS of each key frame (ViVa v2): d_k (after - before) / (before + epsilon), of means over w steps to either side.

    At the ends of an episode the windows are cut short. The paper gives neither w nor epsilon; choose w as one second, at least
    5 frames. It divides by a value that must not be negative, so give progress in [0, 1], not V.

    Args:
        progress: [n], at least 0.
        key_frames: each with 0 < t < n.
        window_steps: w, at least 1.
        floor: epsilon.

    Returns:
        [number of key frames].

    Raises:
        SpecError: if a key frame lies outside, the window is empty, or the progress is negative.

    Example:
        >>> event_responses(np.array([0.2, 0.2, 0.4, 0.4]), [KeyFrame(t=2)], window_steps=2, floor=0.0).tolist()
        [1.0]
    """
    progress = _finite(progress, "progress")
    if window_steps < 1 or (len(progress) and progress.min() < 0):
        raise SpecError(
            f"event_responses with window_steps={window_steps} and a smallest progress of {progress.min(initial=0.0)}; "
            "expected at least 1 and 0: give progress in [0, 1], for example 1 + V"
        )
    responses = []
    for key in key_frames:
        if not 0 < key.t < len(progress):
            raise SpecError(f"key frame {key} lies outside an episode of {len(progress)} observations")
        before = progress[max(0, key.t - window_steps) : key.t].mean()
        after = progress[key.t : key.t + window_steps].mean()
        responses.append((-1 if key.is_error else 1) * (after - before) / (before + floor))
    return np.array(responses, np.float64)


def event_scores(responses: Array, key_frames: Sequence[KeyFrame]) -> EventScores:
    """MS, ES, MDR, ErrDR (ViVa v2) of the responses of all episodes' key frames, joined.

    Args:
        responses: [number of key frames], see :func:`event_responses`.
        key_frames: the same ones.

    Example:
        >>> event_scores(np.array([0.5, -0.1]), [KeyFrame(t=3), KeyFrame(t=9)]).milestone_detection_rate
        0.5
    """
    responses = _finite(responses, "responses")
    if len(responses) != len(key_frames):
        raise SpecError(f"{len(responses)} responses for {len(key_frames)} key frames; expected one each")
    is_error = np.array([key.is_error for key in key_frames], bool)
    milestones, errors = responses[~is_error], responses[is_error]
    return EventScores(
        milestone_score=_mean(milestones),
        error_score=_mean(errors),
        milestone_detection_rate=_mean(milestones > 0),
        error_detection_rate=_mean(errors > 0),
        num_milestones=len(milestones),
        num_errors=len(errors),
    )


# -- advantages -------------------------------------------------------------------------------------------------------


def progress_gains(progress: Array, lookahead_steps: int) -> NDArray[np.float64]:
    """Progress made from t to t + N, or to the end where that comes first.

    Args:
        progress: [T+1], ground truth in any unit.
        lookahead_steps: N, at least 1.

    Returns:
        [T].

    Example:
        >>> progress_gains(np.array([0.0, 1.0, 1.0, 3.0]), 2).tolist()
        [1.0, 2.0, 2.0]
    """
    progress = _finite(progress, "progress")
    if lookahead_steps < 1 or len(progress) < 2:
        raise SpecError(f"progress of {len(progress)} observations over {lookahead_steps} steps; expected at least 2 and 1")
    last = len(progress) - 1
    t = np.arange(last)
    return progress[np.minimum(t + lookahead_steps, last)] - progress[t]


def advantage_progress_correlation(advantages: Sequence[Array], progress: Sequence[Array], *, lookahead_steps: int) -> float:
    """Pearson's correlation of A_t with the true progress of the N steps it looks ahead, over all steps of all episodes.

    A value can correlate with progress at 0.9 and its difference at 0.3 (papers.md 1.10), and the policy sees only the
    difference: judge this, not the value.

    Args:
        advantages: [T] an episode.
        progress: [T+1] an episode, ground truth; see :func:`progress_gains`.
        lookahead_steps: N of the advantages.
    """
    if len(advantages) != len(progress):
        raise SpecError(f"{len(advantages)} episodes of advantages, {len(progress)} of progress; expected the same number")
    if not advantages:
        return float("nan")
    gains = [progress_gains(p, lookahead_steps) for p in progress]
    return pearson(np.concatenate(advantages), np.concatenate(gains))


def positive_fraction_by_source(is_positive: Array, source: Array) -> dict[str, float]:
    """Share of positive steps among those that each source decided; sources that decided none are left out.

    Args:
        is_positive: [n] bool.
        source: [n], values of core.experience.Source.

    Example:
        >>> positive_fraction_by_source(np.array([True, False, True]), np.array([0, 0, 1]))
        {'policy': 0.5, 'human': 1.0}
    """
    if is_positive.shape != source.shape:
        raise SpecError(f"is_positive {is_positive.shape} and source {source.shape} differ in shape")
    shares = {kind.name.lower(): is_positive[source == kind] for kind in Source}
    return {name: float(of_source.mean()) for name, of_source in shares.items() if len(of_source)}


# -- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Predicted values against what followed, in bins of the prediction."""

    mean_predicted: NDArray[np.float64]
    """[bins], NaN where a bin is empty."""
    mean_realised: NDArray[np.float64]
    """[bins], NaN where a bin is empty."""
    count: NDArray[np.int64]
    """[bins]."""
    expected_error: float
    """Mean over all predictions of |mean predicted - mean realised| of their bin."""
    bias: float
    """Mean of predicted - realised: above 0, the value is too hopeful."""


def calibration(value: Array, return_: Array, *, num_bins: int = 10) -> Calibration:
    """Compare values with Monte-Carlo returns in equally wide bins over [-1, 0].

    Args:
        value: [n] predicted, in [-1, 0].
        return_: [n] realised; leave truncated episodes out.
        num_bins: at least 1.

    Raises:
        SpecError: if there is nothing to compare, or a value lies outside.

    Example:
        >>> calibration(np.array([-0.9, -0.1]), np.array([-0.8, -0.1]), num_bins=2).expected_error
        0.04999999999999999
    """
    value, return_ = _pairs(value, return_)
    if num_bins < 1 or len(value) == 0 or value.min() < -1 or value.max() > 0:
        raise SpecError(
            f"calibration of {len(value)} values in {num_bins} bins; expected some, all in [-1, 0], and 1 bin or more"
        )
    bins = np.minimum(((value + 1) * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bins, value, num_bins) / count
        realised = np.bincount(bins, return_, num_bins) / count
    gap = np.abs(predicted - realised)
    return Calibration(
        mean_predicted=predicted,
        mean_realised=realised,
        count=count,
        expected_error=float((gap[count > 0] * count[count > 0]).sum() / count.sum()),
        bias=float((value - return_).mean()),
    )


# -- over episodes ----------------------------------------------------------------------------------------------------


class MeanDefined(NamedTuple):
    """A mean over episodes, and how many it leaves out."""

    mean: float
    """NaN if nothing was defined."""
    num_defined: int
    num_undefined: int


def mean_defined(scores: Iterable[float]) -> MeanDefined:
    """Average the scores that are defined and count those that are not.

    Example:
        >>> mean_defined([1.0, float("nan"), 0.5])
        MeanDefined(mean=0.75, num_defined=2, num_undefined=1)
    """
    array = np.array(list(scores), np.float64)
    is_defined = ~np.isnan(array)
    return MeanDefined(_mean(array[is_defined]), int(is_defined.sum()), int((~is_defined).sum()))


# -- shared -----------------------------------------------------------------------------------------------------------


def _mean(array: Array) -> float:
    return float(array.mean()) if len(array) else float("nan")


def _finite(array: Array, what: str) -> NDArray[np.float64]:
    if array.ndim != 1:
        raise SpecError(f"{what} has shape {array.shape}; expected one dimension")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise NonFiniteError(f"{what}[{bad[0]}] is {array[bad[0]]}; expected finite numbers")
    return array.astype(np.float64)


def _pairs(a: Array, b: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape:
        raise SpecError(f"arrays of shapes {a.shape} and {b.shape}; expected pairs")
    return _finite(a, "the first array"), _finite(b, "the second array")


def _interval(value: Array, start: int, stop: int) -> Array:
    if not 0 <= start < stop < len(value):
        raise SpecError(f"interval {start}..{stop} of {len(value)} values; expected 0 <= start < stop < {len(value)}")
    return value[start : stop + 1]
