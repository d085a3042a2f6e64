"""Statistics of a LeRobot data set: of every feature in every episode, and of all episodes together.

As ``lerobot/datasets/compute_stats.py`` makes them: images as fractions of 255, a channel each, of a sample of the frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

FeatureStats = dict[str, NDArray[np.float64]]
"""min, max, mean, std [N] (images [3, 1, 1]), count [1]; with quantiles q01, q10, q50, q90, q99 from version 3 on."""

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_MIN_IMAGES = 100
_MAX_SIDE_PX = 300
_SAMPLED_SIDE_PX = 150


def vector_stats(values: NDArray[np.generic], *, has_quantiles: bool) -> FeatureStats:
    """Of one feature in one episode.

    Args:
        values: [T] or [T, N] numbers or truth values.
        has_quantiles: whether quantiles are wanted too.
    """
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    return _stats(table, len(table), has_quantiles)


def image_stats(frames: NDArray[np.uint8], *, has_quantiles: bool) -> FeatureStats:
    """Of one camera in one episode.

    Args:
        frames: [T, H, W, 3].
        has_quantiles: whether quantiles are wanted too.
    """
    num = max(min(len(frames), _MIN_IMAGES), int(len(frames) ** 0.75))
    chosen = frames[np.round(np.linspace(0, len(frames) - 1, num)).astype(int)]
    longer = max(chosen.shape[1:3])
    stride = longer // _SAMPLED_SIDE_PX if longer >= _MAX_SIDE_PX else 1
    pixels = chosen[:, ::stride, ::stride].reshape(-1, 3) / 255.0
    stats = _stats(pixels, num, has_quantiles)
    return {key: value if key == "count" else value.reshape(3, 1, 1) for key, value in stats.items()}


def _stats(table: NDArray[np.float64], count: int, has_quantiles: bool) -> FeatureStats:
    stats = {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0), "count": np.array([count])}
    if has_quantiles:
        stats |= dict(zip(_QUANTILES, np.quantile(table, list(_QUANTILES.values()), axis=0), strict=True))
    return stats


def aggregate(episodes: Iterable[Mapping[str, FeatureStats]]) -> dict[str, FeatureStats]:
    """Of all episodes together, from those of each: exact, but quantiles are the mean of the episodes' as in LeRobot."""
    parts = list(episodes)
    return {feature: _aggregate([part[feature] for part in parts]) for feature in parts[0]}


def _aggregate(parts: list[FeatureStats]) -> FeatureStats:
    count = np.array([part["count"][0] for part in parts], np.float64)
    weight = count.reshape(-1, *[1] * parts[0]["mean"].ndim) / count.sum()
    means = np.stack([part["mean"] for part in parts])
    mean = (means * weight).sum(0)
    variance = ((np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2) * weight).sum(0)
    stats = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(count.sum())]),
    }
    return stats | {q: (np.stack([part[q] for part in parts]) * weight).sum(0) for q in _QUANTILES if q in parts[0]}
