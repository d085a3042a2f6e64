"""One gate of one checkpoint: what was declared, what was recorded, and the verdict that follows from both.

A record is evidence: JSON, kept under its digest, never changed; adding to a gate makes a new record. The verdict is not part of
it: whoever wants to know computes it, so no file can claim a pass that its episodes do not support.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from checkpoints.acceptance import Judgement, Verdict, episodes_rule
from checkpoints.policy import GateKind
from core.errors import CheckpointError

RECORD_FORMAT_VERSION = 1


class GateError(CheckpointError):
    """Evidence that does not belong to a gate, or a gate that takes none; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What evidence was gathered on; evidence of another binding never counts."""

    name: str
    """For people: the suite's or robot's name."""
    digest: str
    """Of the suite's, the data's or the robot's configuration (supervisor's included), 16 hex digits."""


@dataclass(frozen=True, kw_only=True)
class GateEpisode:
    """How one episode ended."""

    key: str
    """Unique: a seed, a trial, an episode id."""
    is_success: bool
    is_intervened: bool = False
    """A person helped: a failure for autonomy, whatever came of it."""
    is_stopped: bool = False
    """An emergency or protective stop."""
    is_collided: bool = False
    speed_fraction: float = 1.0
    """Of full speed."""

    def __post_init__(self) -> None:
        if not self.key:
            raise GateError("an episode has an empty key; expected its seed or id")

    @property
    def is_autonomous_success(self) -> bool:
        """What counts: solved, and nobody helped."""
        return self.is_success and not self.is_intervened


@dataclass(frozen=True, kw_only=True)
class GateRecord:
    """All that was recorded for a gate."""

    checkpoint_id: str
    kind: GateKind
    binding: Binding
    attempt: int
    """1, 2, ...: a gate that closed without a pass may be tried again with other episodes, at half the error each time."""
    rule: Mapping[str, Any]
    """The policy's for this kind when the gate was opened."""
    episodes: tuple[GateEpisode, ...] = ()
    """In the order in which they came."""
    measurements: Mapping[str, float] = field(default_factory=dict)
    given_up: str = ""
    """Why, where somebody ended it without a verdict."""

    @property
    def name(self) -> str:
        """Of the gate's pointer."""
        return f"{gate_folder(self.checkpoint_id)}/{self.kind.value}.{self.binding.digest}.{self.attempt}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {
            **{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)},
            "kind": self.kind.value,
            "binding": dataclasses.asdict(self.binding),
            "rule": dict(self.rule),
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
            "measurements": dict(self.measurements),
            "format_version": RECORD_FORMAT_VERSION,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GateRecord:
        """Rebuild from :meth:`to_json`.

        Raises:
            GateError: if the record is not one, or of a newer format.
        """
        fields = dict(record)
        version = fields.pop("format_version", None)
        if version != RECORD_FORMAT_VERSION:
            raise GateError(f"a gate's record has format {version}, this code reads {RECORD_FORMAT_VERSION}; update it")
        try:
            return cls(
                **{
                    **fields,
                    "kind": GateKind(fields["kind"]),
                    "binding": Binding(**fields["binding"]),
                    "episodes": tuple(GateEpisode(**episode) for episode in fields["episodes"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GateError(f"not a gate's record ({type(error).__name__}: {error}); record the gate again") from None

    def judge(self) -> Judgement:
        """The verdict on what was recorded."""
        judgement = self._judge_episodes() if self.kind.has_episodes else self._judge_measurements()
        if self.given_up and not judgement.is_closed:
            return replace(judgement, is_closed=True, text=f"given up ({self.given_up}); {judgement.text}")
        return judgement

    def with_episodes(self, episodes: Sequence[GateEpisode]) -> GateRecord:
        """This record and more episodes, up to the one that closes it; those it has already are passed over.

        Raises:
            GateError: if the gate is closed or counts none, an episode is not as it was, or was too fast.
        """
        if not self.kind.has_episodes:
            raise GateError(f"a gate of kind {self.kind.value} measures numbers, it takes no episodes")
        known = {episode.key: episode for episode in self.episodes}
        grown = self
        for episode in episodes:
            if episode.key in known:
                if known[episode.key] != episode:
                    raise GateError(
                        f"episode {episode.key!r} was recorded as {known[episode.key]}, and now as {episode}; which is it?"
                    )
                continue
            if grown.judge().is_closed:
                break
            self._require_slow(episode)
            grown = replace(grown, episodes=(*grown.episodes, episode))
            known[episode.key] = episode
        if grown is self and episodes:
            state = self.judge()
            why = f"the gate is closed ({state.verdict.value}: {state.text})" if state.is_closed else "all are recorded already"
            raise GateError(f"nothing was added: {why}. A closed gate takes no more; begin another attempt, or train on")
        return grown

    def with_measurements(self, measurements: Mapping[str, float]) -> GateRecord:
        """This record and more measured numbers.

        Raises:
            GateError: if the gate counts episodes, a number was measured before, or is not finite.
        """
        if self.kind.has_episodes:
            raise GateError(f"a gate of kind {self.kind.value} counts episodes, it takes no measurements")
        again = sorted(set(measurements) & set(self.measurements))
        if again:
            raise GateError(f"{again[0]!r} was measured already: {self.measurements[again[0]]:g}; begin another attempt")
        if not measurements:
            raise GateError("no measurement given; expected NAME=NUMBER")
        for name, value in measurements.items():
            if not math.isfinite(value):
                raise GateError(
                    f"{name!r} measured as {value}; expected a finite number. What was measured is broken: find out why"
                )
        return replace(self, measurements={**self.measurements, **{name: float(value) for name, value in measurements.items()}})

    def giving_up(self, reason: str) -> GateRecord:
        """This record, closed without a verdict.

        Raises:
            GateError: if it is closed already.
        """
        judgement = self.judge()
        if judgement.is_closed:
            raise GateError(f"the gate is closed already ({judgement.verdict.value}: {judgement.text})")
        return replace(self, given_up=reason)

    def _require_slow(self, episode: GateEpisode) -> None:
        fastest = self.rule.get("max_speed_fraction")
        if episode.is_stopped or episode.is_collided:
            return  # it fails the gate at whatever speed: not to be lost by being refused
        if fastest is not None and not 0 < episode.speed_fraction <= fastest:
            raise GateError(
                f"episode {episode.key!r} ran at {episode.speed_fraction:g} of full speed; a canary runs at {fastest:g} at most"
            )

    def _judge_episodes(self) -> Judgement:
        rule = episodes_rule(**{name: self.rule[name] for name in ("sequential", "num_episodes", "min_success", "confidence")})
        outcomes = [episode.is_autonomous_success for episode in self.episodes]
        level = (1 - float(self.rule["confidence"])) / 2 ** (self.attempt - 1)
        judgement = rule.judge(outcomes, level=level)
        helped = sum(episode.is_intervened for episode in self.episodes)
        if helped:
            solved = sum(episode.is_success for episode in self.episodes)
            text = f"{judgement.text}; {helped} with help, which count as failures ({solved} solved with or without)"
            judgement = replace(judgement, text=text)
        if self.kind is GateKind.CANARY:
            for episode in self.episodes:
                if episode.is_stopped or episode.is_collided:
                    what = "a stop" if episode.is_stopped else "a collision"
                    return replace(
                        judgement,
                        verdict=Verdict.FAIL,
                        is_closed=True,
                        text=f"{what} in episode {episode.key!r}: a hard limit. {judgement.text}",
                    )
        return judgement

    def _judge_measurements(self) -> Judgement:
        limits: Mapping[str, Sequence[float | None]] = self.rule["limits"]
        if not limits:
            text = "the policy names no limit for this kind of gate, so nothing can pass; set limits in policy.yaml"
            return Judgement(verdict=Verdict.INCONCLUSIVE, is_closed=False, text=text)
        broken = [_broken(name, self.measurements[name], limits[name]) for name in limits if name in self.measurements]
        reasons = [reason for reason in broken if reason]
        if reasons:
            return Judgement(verdict=Verdict.FAIL, is_closed=True, text="; ".join(reasons))
        missing = [name for name in limits if name not in self.measurements]
        if missing:
            return Judgement(verdict=Verdict.INCONCLUSIVE, is_closed=False, text=f"not measured yet: {', '.join(missing)}")
        text = ", ".join(f"{name} {self.measurements[name]:g}" for name in limits)
        return Judgement(verdict=Verdict.PASS, is_closed=True, text=f"within limits: {text}")


def gate_folder(checkpoint_id: str) -> str:
    """Where the pointers of a checkpoint's gates are."""
    return f"gate/{checkpoint_id}"


def _broken(name: str, value: float, bounds: Sequence[float | None]) -> str | None:
    low, high = bounds
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    return f"{name} is {value:g}; expected {'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
