"""What a trained model says of every observation of the bench's test episodes, kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.experience import Episode
from core.ids import EpisodeId
from core.windows import episode_windows
from models.value import ValueModel
from replay.episode_store import EpisodeStore

_BATCH = 64

Predictions = Mapping[EpisodeId, Mapping[str, NDArray[np.float32]]]
"""Episode -> ``value`` [T+1] and what else the model tells of each observation."""


def predict_episode(model: ValueModel, episode: Episode) -> dict[str, NDArray[np.float32]]:
    """All that a model tells of an episode of T steps.

    Returns:
        ``value`` [T+1] in [-1, 0], and the model's extras, each [T+1, ...].
    """
    everything = np.arange(episode.num_steps + 1)
    parts = [
        model.predict(episode_windows(episode, t, model.window_spec))
        for t in np.split(everything, range(_BATCH, len(everything), _BATCH))
    ]
    extras = {name: np.concatenate([part.extras[name] for part in parts]) for name in parts[0].extras}
    return {"value": np.clip(np.concatenate([part.value for part in parts]), -1, 0), **extras}


def predict_all(
    model: Callable[[], ValueModel],
    store: EpisodeStore,
    ids: Sequence[EpisodeId],
    path: Path,
    *,
    on_count: Callable[[int], None] = lambda count: None,
) -> Predictions:
    """Predict the episodes, or read what was predicted.

    Args:
        model: loads it; not called where all is there.
        store: with the episodes.
        ids: which.
        path: of the ``.npz`` that holds the predictions.
        on_count: told how many are done.
    """
    found = read_predictions(path) if path.exists() else {}
    missing = [e for e in ids if e not in found]
    if missing:
        loaded = model()
        for count, episode_id in enumerate(missing, start=1):
            found[episode_id] = predict_episode(loaded, store.read(episode_id))
            on_count(len(ids) - len(missing) + count)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **{f"{e}/{name}": array for e, of in found.items() for name, array in of.items()})  # type: ignore[arg-type]
        partial.replace(path)
    return {e: found[e] for e in ids}


def read_predictions(path: Path) -> dict[EpisodeId, dict[str, NDArray[np.float32]]]:
    """Read what :func:`predict_all` wrote."""
    found: dict[EpisodeId, dict[str, NDArray[np.float32]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            episode_id, name = key.rsplit("/", 1)
            found.setdefault(EpisodeId(episode_id), {})[name] = arrays[key]
    return found
