"""Whether a value model is any good, measured on rollouts it had no part in making.

Hop 5 of the tour, looked at from outside. A value that rises with time on successes can still have a useless *difference*
(reference papers.md 1.10: 0.896 for the value, 0.3 to 0.4 for its advantage), so the advantage is judged on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from core.labels import Labels


def value_quality(labels: Sequence[Labels], infos: Sequence[Any], *, lookahead_s: float) -> dict[str, float]:
    """Correlations of values and advantages with what really happened.

    Args:
        labels: of n episodes.
        infos: their facts (``replay.schema.EpisodeInfo``); ground-truth progress is in the annotations, where there is any.
        lookahead_s: N of the advantages, in seconds.

    Returns:
        ``value_time_correlation``: mean over the successes of Spearman's correlation of V(o_t) with t (VOC; reference
        papers.md 5). ``value_return_correlation``: Pearson's, of V(o_t) with the Monte-Carlo return, over all steps of
        episodes that ended by themselves; tells successes from failures too. ``advantage_progress_correlation``: Pearson's,
        of A_t with the progress made in the N steps from t, over all steps. What is undefined (too few numbers, or a
        constant) is left out.
    """
    of_time = [
        _correlation(label.value, np.arange(len(label.value)), is_rank=True)
        for label, info in zip(labels, infos, strict=True)
        if info.end.value == "success"
    ]
    ended = [label for label in labels if np.isfinite(label.return_).all()]
    pairs = [
        (label.advantage, _progress_made(info, lookahead_s))
        for label, info in zip(labels, infos, strict=True)
        if "progress" in info.provenance.annotations
    ]
    found = {
        "value_time_correlation": float(np.nanmean(of_time)) if np.isfinite(of_time).any() else np.nan,
        "value_return_correlation": _correlation(_joined([e.value[:-1] for e in ended]), _joined([e.return_ for e in ended])),
        "advantage_progress_correlation": _correlation(_joined([a for a, _ in pairs]), _joined([p for _, p in pairs])),
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _progress_made(info: Any, lookahead_s: float) -> NDArray[np.float64]:
    """[T], progress from t to t + N, or to the end."""
    ahead = max(1, round(min(lookahead_s * info.env_spec.action.control_hz, info.num_steps)))
    progress = np.asarray(info.provenance.annotations["progress"], np.float64)
    t = np.arange(len(progress) - 1)
    return progress[np.minimum(t + ahead, len(progress) - 1)] - progress[t]


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(a, np.float64) for a in arrays]) if arrays else np.zeros(0)


def _correlation(a: NDArray[Any], b: NDArray[Any], *, is_rank: bool = False) -> float:
    """Pearson's or Spearman's correlation; NaN where it is undefined."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    if is_rank:
        a, b = stats.rankdata(a), stats.rankdata(b)
    return float(np.corrcoef(a, b)[0, 1])
