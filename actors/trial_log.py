"""The outcomes of a suite's trials on disk: one line a trial, no pictures; what resuming and merging go by.

Hop 4 of the tour, in place of the replay store: a suite is thousands of episodes that nobody learns from. A worker's log is
its sink (:class:`cluster.rollout_host.EpisodeSink`), all logs of a folder together are what has been played.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actors.outcomes import Outcome
from core.durable import full_disk_named
from core.errors import CorruptDataError
from core.experience import Episode, EpisodeEnd
from core.ids import EpisodeId


@dataclass(frozen=True, kw_only=True)
class TrialOutcome(Outcome):
    """How one trial ended.

    Example:
        key "google_robot_pick_standing_coke_can|colour base|7|0", seed 2147483655, is_success True, num_steps 80,
        first_success_step 17.
    """

    key: str
    """Of the trial, with the number of its repetition."""
    episode_id: EpisodeId
    first_success_step: int
    """The action after which it was solved for the first time; -1: never."""
    instruction: str
    """The first one."""

    @property
    def task(self) -> str:
        """The first part of the key."""
        return self.key.split("|")[0]

    @property
    def variant(self) -> str:
        """The second part of the key."""
        return self.key.split("|")[1]

    @classmethod
    def of(cls, episode: Episode) -> TrialOutcome:
        """From an episode whose annotations name its trial."""
        notes = episode.provenance.annotations
        return cls(
            key=str(notes["trial"]),
            episode_id=episode.episode_id,
            seed=episode.provenance.seed,
            is_success=episode.is_success,
            is_success_once=bool(notes["succeeded_once"]),
            first_success_step=int(notes["first_success_step"]),
            num_steps=episode.num_steps,
            instruction=episode.instruction,
        )


class TrialLog:
    """A folder of logs, one a writer; writes its own, reads all.

    Invariant: a trial counts exactly when its line is whole; of two lines about one trial the first read counts.
    """

    def __init__(self, folder: Path, writer: str = "reader") -> None:
        """``writer`` is unique among those that append."""
        self._folder = folder
        self._file = folder / f"{writer}.jsonl"
        self._outcomes: dict[str, TrialOutcome] = {}
        self._by_episode: dict[EpisodeId, TrialOutcome] = {}
        self.refresh()

    @property
    def outcomes(self) -> Mapping[str, TrialOutcome]:
        """By the trial's key, as of the last :meth:`refresh`."""
        return self._outcomes

    def append(self, episode: Episode) -> EpisodeId:
        """Note how an episode ended; returns once the line is on disk."""
        self.extend([TrialOutcome.of(episode)])
        return episode.episode_id

    def extend(self, outcomes: Iterable[TrialOutcome]) -> None:
        """Note several outcomes at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with full_disk_named(f"the outcomes in {self._file}"), self._file.open("a") as file:
            file.write("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
            file.flush()
            os.fsync(file.fileno())

    def refresh(self) -> None:
        """Take notice of what any writer has noted since."""
        for file in sorted(self._folder.glob("*.jsonl")):
            text = file.read_text()
            for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
                outcome = _parsed(line, f"{file}, line {number}")
                self._outcomes.setdefault(outcome.key, outcome)
                self._by_episode[outcome.episode_id] = outcome

    def key_of(self, episode_id: EpisodeId) -> str:
        """The trial that an episode played."""
        return self._by_episode[episode_id].key

    # -- what a pool asks about a worker that died after it had committed ----------------------------------------------

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        """All episodes noted."""
        return tuple(self._by_episode)

    def info(self, episode_id: EpisodeId) -> Any:
        """With ``num_steps`` and ``end``."""
        outcome = self._by_episode[episode_id]
        return SimpleNamespace(num_steps=outcome.num_steps, end=EpisodeEnd.SUCCESS if outcome.is_success else EpisodeEnd.FAILURE)


def _parsed(line: str, where: str) -> TrialOutcome:
    try:
        record = json.loads(line)
        return TrialOutcome(**{field.name: record[field.name] for field in fields(TrialOutcome)})
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{where} is not an outcome ({error}); delete that line, and the trial is played again") from None
