"""Labels many episodes in this process: the one-process twin of ``value_service.client.ValueClient``.

Hops 5 and 6 of the tour, without a service: the same calls in the same order, one episode after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from core.experience import Episode
from core.ids import EpisodeId
from value_service.client import LabellingReport, LabelSink, OnProgress
from value_service.labeler import ValueCheckpoint, VersionedLabeler


class EpisodeSource(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that labelling needs."""

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        ...

    def read(self, episode_id: EpisodeId) -> Episode:
        """One whole episode."""
        ...


class LocalValueClient:
    """Labels episodes in this process; see ``ValueClient`` for what the methods promise.

    Consumes: episode ids, a value checkpoint. Produces: Labels in the label store. Waits for: the model.
    """

    def __init__(self, labeler: VersionedLabeler, episodes: EpisodeSource, label_store: LabelSink) -> None:
        self._labeler = labeler
        self._episodes = episodes
        self._label_store = label_store

    def load(self, checkpoint: ValueCheckpoint) -> None:
        """Have a version in memory.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or holds another version.
        """
        self._labeler.load(checkpoint)

    def label_many(
        self, episode_ids: Sequence[EpisodeId], checkpoint: ValueCheckpoint, on_progress: OnProgress | None = None
    ) -> LabellingReport:
        """Label episodes under a value version and store the labels; those that have such labels are skipped.

        Raises:
            CheckpointError, NonFiniteError, SpecError, CorruptDataError: as the labelling itself says.
        """
        wanted = tuple(dict.fromkeys(episode_ids))
        missing = self._label_store.unlabelled(checkpoint.version, wanted)
        self._episodes.refresh()
        already_there = len(wanted) - len(missing)
        for done, episode_id in enumerate(missing, start=already_there + 1):
            self._label_store.put(self._labeler.label(self._episodes.read(episode_id), checkpoint))
            if on_progress is not None:
                on_progress(done, len(wanted))
        return LabellingReport(num_labelled=len(missing), num_already_there=already_there)

    def close(self) -> None:
        """Nothing to free."""
