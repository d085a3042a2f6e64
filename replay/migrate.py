"""Copies stores into another one under the present schema version, because episodes are never rewritten in place.

Also the way to another image encoding, and to one store out of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.ids import EpisodeId
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore


@dataclass
class MigrationReport:
    """What was copied."""

    num_copied: int = 0
    num_known: int = 0
    """Episodes that the target had; a migration that was interrupted goes on where it stopped."""
    num_labels: int = 0


def migrate_episodes(
    source: EpisodeStore,
    target: EpisodeStore,
    ids: Sequence[EpisodeId],
    report: MigrationReport,
    on_episode: Callable[[int, int], None] | None = None,
) -> None:
    """Copy episodes, each checked while it is read; under the ids that they have.

    Args:
        source: where they are; of any schema version that is read.
        target: where they go, under its own configuration.
        ids: which.
        report: is added to.
        on_episode: told (episodes done, episodes in all).

    Raises:
        CorruptDataError: naming what is damaged; repair the source first.
        StorageFullError: if the disk is full; what was copied stays, and another call goes on.
    """
    for number, episode_id in enumerate(ids, start=1):
        if episode_id in target:
            report.num_known += 1
        else:
            target.append(source.read(episode_id))
            report.num_copied += 1
        if on_episode is not None:
            on_episode(number, len(ids))


def migrate_labels(source: LabelStore, target: LabelStore, ids: Sequence[EpisodeId], report: MigrationReport) -> None:
    """Copy the labels of episodes under all value versions; labels that the target has stay.

    Raises:
        CorruptDataError: if a log of labels is damaged.
    """
    for version in source.value_versions():
        missing = set(source.unlabelled(version, ids))
        new = target.unlabelled(version, [episode_id for episode_id in ids if episode_id not in missing])
        target.put_many(source.get_many(new, version))
        report.num_labels += len(new)
