"""Counts of what a store holds, by task and collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.experience import EpisodeEnd
from replay.schema import EpisodeInfo


class GroupKey(NamedTuple):
    """What is counted together."""

    env: str
    task: str
    asset_set: str
    collection: str


@dataclass
class GroupStats:
    """Sums over the episodes of one group."""

    key: GroupKey
    num_episodes: int = 0
    num_steps: int = 0
    num_human_steps: int = 0
    num_bytes: int = 0
    policy_version_min: int = -1
    policy_version_max: int = -1
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def num_successes(self) -> int:
        """Episodes that ended in success."""
        return self.ends[EpisodeEnd.SUCCESS.value]

    def add(self, info: EpisodeInfo) -> None:
        """Count one more episode."""
        self.num_episodes += 1
        self.num_steps += info.num_steps
        self.num_human_steps += info.num_human_steps
        self.num_bytes += info.num_bytes
        self.ends[info.end.value] += 1
        if info.policy_version_min >= 0:
            self.policy_version_max = max(self.policy_version_max, info.policy_version_max)
            known = self.policy_version_min
            self.policy_version_min = info.policy_version_min if known < 0 else min(known, info.policy_version_min)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record."""
        return {
            **self.key._asdict(),
            "num_episodes": self.num_episodes,
            "num_steps": self.num_steps,
            "num_human_steps": self.num_human_steps,
            "num_bytes": self.num_bytes,
            "policy_version_min": self.policy_version_min,
            "policy_version_max": self.policy_version_max,
            "num_successes": self.num_successes,
            "ends": dict(self.ends),
        }


def store_stats(infos: Iterable[EpisodeInfo]) -> list[GroupStats]:
    """Group and count episodes; groups in the order of their keys."""
    groups: dict[GroupKey, GroupStats] = {}
    for info in infos:
        origin = info.provenance
        key = GroupKey(origin.env, origin.task, origin.asset_set, origin.collection.value)
        groups.setdefault(key, GroupStats(key)).add(info)
    return [groups[key] for key in sorted(groups)]
