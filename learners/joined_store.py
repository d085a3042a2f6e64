"""Several replay stores read as one: a run's own, the demonstrations it was given, the rollouts it shares.

Hop 4 to 7 of the tour. Nothing is copied; writing goes to the stores themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import SpecError
from core.experience import Episode
from core.ids import EpisodeId
from core.windows import WindowBatch, WindowSpec

if TYPE_CHECKING:
    from replay.episode_files import StepArrays
    from replay.episode_store import EpisodeStore
    from replay.schema import EpisodeInfo


class JoinedStore:
    """Reads like a ``replay.episode_store.EpisodeStore``.

    An episode that is in several stores (identifiers are unique over all runs) is read from the first.
    """

    def __init__(self, stores: Sequence[EpisodeStore]) -> None:
        """At least one store; all hold episodes of one environment specification."""
        self._stores = tuple(stores)
        self._home: dict[EpisodeId, int] = {}
        self._find()

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        for store in self._stores:
            store.refresh()
        self._find()

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All committed episodes, store by store, in each one's own order."""
        return tuple(self._home)

    def info(self, episode_id: EpisodeId) -> EpisodeInfo:
        """Facts of one episode."""
        return self._store_of(episode_id).info(episode_id)

    def read(self, episode_id: EpisodeId) -> Episode:
        """One whole episode."""
        return self._store_of(episode_id).read(episode_id)

    def steps(self, episode_id: EpisodeId) -> StepArrays:
        """All arrays of an episode but its images."""
        return self._store_of(episode_id).steps(episode_id)

    def windows(self, ids: Sequence[EpisodeId], t: NDArray[np.int64], spec: WindowSpec) -> WindowBatch:
        """Windows at (episode, t), in the order asked for; each store is asked once."""
        home = np.array([self._home_of(episode_id) for episode_id in ids], np.int64)
        rows = [np.flatnonzero(home == number) for number in np.unique(home)]
        parts = [self._stores[home[r[0]]].windows([ids[i] for i in r.tolist()], t[r], spec) for r in rows]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate(rows))
        return _joined(parts, order)

    def close(self) -> None:
        """Release all files."""
        for store in self._stores:
            store.close()

    def _find(self) -> None:
        for number, store in enumerate(self._stores):
            for episode_id in store.episode_ids():
                self._home.setdefault(episode_id, number)

    def _home_of(self, episode_id: EpisodeId) -> int:
        if episode_id not in self._home:
            raise SpecError(f"episode {episode_id} is in none of the {len(self._stores)} stores; refresh, or give its store")
        return self._home[episode_id]

    def _store_of(self, episode_id: EpisodeId) -> EpisodeStore:
        return self._stores[self._home_of(episode_id)]


def _joined(parts: Sequence[WindowBatch], order: NDArray[np.int64]) -> WindowBatch:
    cameras = parts[0].images
    instruction = [text for part in parts for text in part.instruction]
    episode_id = [name for part in parts for name in part.episode_id]
    return WindowBatch(
        images={name: np.concatenate([part.images[name] for part in parts])[order] for name in cameras},
        state=np.concatenate([part.state for part in parts])[order],
        action=np.concatenate([part.action for part in parts])[order],
        action_is_pad=np.concatenate([part.action_is_pad for part in parts])[order],
        instruction=tuple(instruction[i] for i in order),
        episode_id=tuple(episode_id[i] for i in order),
        t=np.concatenate([part.t for part in parts])[order],
    )
