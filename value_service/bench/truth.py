"""What is known of a bench episode: why it was made, its true progress, and the moments at which a value should jump.

Stored in the annotations of the episode itself, under ``bench``, and so committed together with it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import SpecError
from core.experience import EpisodeEnd
from core.ids import EpisodeId
from replay.episode_store import EpisodeStore
from value_service.metrics import KeyFrame
from value_service.progress_label import Interval, progress_label

ANNOTATION = "bench"
_MILESTONES = ("lift", "carry", "lower", "move")
"""Phases that a scripted expert enters when it has achieved something: holds the object, holds it high, is above the place, or
touches the drawer."""


class Kind(enum.Enum):
    """Why an episode was made."""

    EXPERT = "expert"
    """Succeeds, and makes progress throughout."""
    HESITATION = "hesitation"
    """Succeeds, and stands still once."""
    RETRY = "retry"
    """Succeeds, and backs off once before it has reached its aim."""
    FAILURE = "failure"
    """Reaches beside its aim, and gives up."""


class Split(enum.Enum):
    """What an episode may be used for."""

    TRAIN = "train"
    TEST = "test"
    """Of a task that is trained on."""
    HELD_OUT = "held_out"
    """Of a task that nobody is trained on."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Ground truth of one episode of T steps.

    Example:
        A retry of 40 steps: interval (12, 17), label [41] from 0 to 1 with a dip, key frames: error at 13, milestone at 33.
    """

    kind: Kind
    split: Split
    label: NDArray[np.float64] | None
    """[T+1], progress in [0, 1] by the published construction; None for a failure, which has none."""
    interval: Interval | None
    """Of the hesitation or the retreat, observations, both ends included."""
    key_frames: tuple[KeyFrame, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-like; :meth:`from_json` is the inverse, to six decimals of the label."""
        return {
            "kind": self.kind.value,
            "split": self.split.value,
            "label": None if self.label is None else [round(float(p), 6) for p in self.label],
            "interval": None if self.interval is None else list(self.interval),
            "key_frames": [[key.t, key.is_error] for key in self.key_frames],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Truth:
        """Rebuild.

        Raises:
            SpecError: if the record is not one of :meth:`to_json`.
        """
        try:
            label, interval = record["label"], record["interval"]
            return cls(
                kind=Kind(record["kind"]),
                split=Split(record["split"]),
                label=None if label is None else np.array(label, np.float64),
                interval=None if interval is None else Interval(*interval),
                key_frames=tuple(KeyFrame(t=int(t), is_error=bool(is_error)) for t, is_error in record["key_frames"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"an episode's bench annotation cannot be read ({error!r}); generate the store again") from None


def judge(kind: Kind, split: Split, annotations: Mapping[str, Any], *, end: EpisodeEnd, num_steps: int) -> Truth | None:
    """The truth of an episode that was meant to be of a kind; None if it came out otherwise.

    Args:
        kind: what it was meant to be.
        split: what it is for.
        annotations: of the scripted expert, with ``intervals`` and ``phases`` [T].
        end: how it ended.
        num_steps: T.
    """
    kinds = [interval["kind"] for interval in annotations["intervals"]]
    wanted = [kind.value] if kind in (Kind.HESITATION, Kind.RETRY) else []
    is_success = end is EpisodeEnd.SUCCESS
    if is_success == (kind is Kind.FAILURE) or kinds != wanted:
        return None
    (found,) = annotations["intervals"] or [None]
    interval = None if found is None else Interval(found["m"], found["n"])
    flaws = {one: [interval] if interval and kind is one else [] for one in (Kind.HESITATION, Kind.RETRY)}
    label = None
    if is_success:
        try:
            label = progress_label(num_steps + 1, hesitations=flaws[Kind.HESITATION], retries=flaws[Kind.RETRY])
        except SpecError:  # too short for its retreat: the published construction does not apply
            return None
    return Truth(
        kind=kind,
        split=split,
        label=label,
        interval=interval,
        key_frames=tuple(_key_frames(kind, annotations["phases"], found)),
    )


def _key_frames(kind: Kind, phases: Sequence[str], interval: Mapping[str, Any] | None) -> Iterator[KeyFrame]:
    """The retreat and the empty lift are errors; what a success achieves on its way are milestones."""
    if kind is Kind.RETRY and interval is not None:
        yield KeyFrame(t=interval["m"] + 1, is_error=True)
    for phase in _MILESTONES:
        if phase in phases:
            t = phases.index(phase) + 1
            if kind is not Kind.FAILURE:
                yield KeyFrame(t=t)
            elif phase == "lift":
                yield KeyFrame(t=t, is_error=True)


@dataclass(frozen=True, kw_only=True)
class BenchEpisode:
    """A stored episode with its truth."""

    episode_id: EpisodeId
    robot: str
    """Family of environments."""
    task: str
    num_steps: int
    seed: int
    truth: Truth


def bench_episodes(store: EpisodeStore) -> list[BenchEpisode]:
    """All bench episodes of a store, by task, kind and seed; other episodes are left out."""
    store.refresh()
    infos = [store.info(episode_id) for episode_id in store.episode_ids()]
    found = [
        BenchEpisode(
            episode_id=info.episode_id,
            robot=info.provenance.env,
            task=info.provenance.task,
            num_steps=info.num_steps,
            seed=info.provenance.seed,
            truth=Truth.from_json(info.provenance.annotations[ANNOTATION]),
        )
        for info in infos
        if ANNOTATION in info.provenance.annotations
    ]
    return sorted(found, key=lambda e: (e.robot, e.task, e.truth.kind.value, e.seed))
