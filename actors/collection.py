"""Which episodes a run wants, which of them it has, and the rest played.

Hops 3 and 4 of the tour. Seeds are derived from the run's own seed, so "which are missing" is answered by the store alone:
an interrupted collection is continued by asking again, and an episode that was committed twice (a worker that died between
commit and report) counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.outcomes import Outcome
from core.experience import Collection
from core.ids import EpisodeId


class CommittedEpisodes(Protocol):
    """The part of ``replay.episode_store.EpisodeStore`` that counting needs."""

    def refresh(self) -> None:
        """Take notice of what others have committed."""
        ...

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All committed episodes, in a stable order."""
        ...

    def info(self, episode_id: EpisodeId) -> Any:
        """With ``provenance``, ``policy_version_max``, ``num_steps`` and ``end``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a group of episodes is for; with a seed it names one episode."""

    run: str | None
    """None: whatever run made them."""
    collection: Collection
    policy_version: int | None = None
    """None: whatever version played."""


def episode_seeds(run_seed: int, iteration: int, count: int) -> list[int]:
    """Different seeds for every run, iteration and episode; the first ``n`` of a longer list are the same.

    Example:
        >>> episode_seeds(0, 1, 2) == episode_seeds(0, 1, 3)[:2]
        True
    """
    rng = np.random.default_rng([run_seed, iteration, 0x5EED])
    seeds: dict[int, None] = {}
    while len(seeds) < count:  # a set with an order: two equal draws would be one episode
        seeds[int(rng.integers(2**31))] = None
    return list(seeds)


def evaluation_seeds(first: int, count: int) -> list[int]:
    """The fixed seeds of an evaluation: the same for every policy, and none of a collection's (those are below 2^31)."""
    return [2**31 + first + i for i in range(count)]


def committed(store: CommittedEpisodes, purpose: Purpose, seeds: Iterable[int]) -> dict[int, EpisodeId]:
    """Which of the seeds have their episode, in the order of ``seeds``."""
    store.refresh()
    found: dict[int, EpisodeId] = {}
    for episode_id in store.episode_ids():
        info = store.info(episode_id)
        provenance = info.provenance
        is_wanted = purpose.run in (None, provenance.run) and provenance.collection is purpose.collection
        if is_wanted and purpose.policy_version in (None, info.policy_version_max):
            found.setdefault(provenance.seed, episode_id)
    return {seed: found[seed] for seed in seeds if seed in found}


def complete(
    store: CommittedEpisodes,
    purpose: Purpose,
    seeds: Sequence[int],
    play: Callable[[list[int]], Iterable[Any]],
    *,
    on_count: Callable[[int], None] = lambda count: None,
) -> list[EpisodeId]:
    """Have the missing episodes played; all of them, in the order of ``seeds``, whatever was there before.

    Args:
        store: where they are, and where ``play`` commits to.
        purpose: what they are for.
        seeds: one an episode.
        play: plays the seeds it is given and yields something for each committed episode.
        on_count: told how many there are, first at once.
    """
    have = committed(store, purpose, seeds)
    on_count(len(have))
    missing = [seed for seed in seeds if seed not in have]
    if missing:
        for count, _ in enumerate(play(missing), start=len(have) + 1):
            on_count(count)
        have = committed(store, purpose, seeds)
    return list(have.values())


def outcomes(store: CommittedEpisodes, episode_ids: Iterable[EpisodeId]) -> list[Outcome]:
    """How these episodes ended."""
    rows = []
    for episode_id in episode_ids:
        info = store.info(episode_id)
        is_success = info.end.value == "success"
        once = bool(info.provenance.annotations.get("succeeded_once", is_success))
        rows.append(Outcome(seed=info.provenance.seed, is_success=is_success, is_success_once=once, num_steps=info.num_steps))
    return rows
