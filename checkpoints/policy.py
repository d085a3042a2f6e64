"""What a channel asks of a checkpoint: which gates, and how strict each is. A dataclass, overridden by ``STORE/policy.yaml``.

Example of a file; what it leaves out keeps its default::

    evaluation: {num_episodes: 100, min_success: 0.8}
    canary: {sequential: true, num_episodes: 40, min_success: 0.7, max_speed_fraction: 0.25}
    staging: [evaluation]
    robot: [evaluation, shadow, canary]
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from checkpoints.acceptance import EpisodesRule, episodes_rule
from core.errors import ConfigError

POLICY_FILE = "policy.yaml"


class GateKind(enum.Enum):
    """Where evidence comes from."""

    OFFLINE = "offline"
    """Metrics on recorded data."""
    EVALUATION = "evaluation"
    """Episodes in a simulator, of a suite."""
    SHADOW = "shadow"
    """On the robot; the policy computes, something else drives."""
    CANARY = "canary"
    """On the robot; the policy drives, supervised and at reduced speed."""

    @property
    def is_on_robot(self) -> bool:
        """Whether its evidence is bound to a robot instead of a suite or data."""
        return self in (GateKind.SHADOW, GateKind.CANARY)

    @property
    def has_episodes(self) -> bool:
        """Whether its evidence is episodes instead of measured numbers."""
        return self in (GateKind.EVALUATION, GateKind.CANARY)


@dataclass(frozen=True, kw_only=True)
class EpisodesGate:
    """A gate that counts successes."""

    sequential: bool = False
    """False: exactly ``num_episodes`` are declared. True: a sequential test with at most so many."""
    num_episodes: int = 50
    min_success: float = 0.5
    confidence: float = 0.95

    def rule(self) -> EpisodesRule:
        """The rule that judges."""
        return episodes_rule(
            sequential=self.sequential,
            num_episodes=self.num_episodes,
            min_success=self.min_success,
            confidence=self.confidence,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationGate(EpisodesGate):
    """Episodes in a simulator."""

    suite_digest: str = ""
    """The only suite whose evidence counts, as ``gate`` prints it; empty: any, but one at a time."""


@dataclass(frozen=True, kw_only=True)
class CanaryGate(EpisodesGate):
    """Episodes on the robot: each unaided and supervised; any stop or collision fails."""

    sequential: bool = True
    num_episodes: int = 40
    max_speed_fraction: float = 0.5
    """Of full speed; a faster episode is refused."""


def _no_limits() -> dict[str, list[float | None]]:
    return {}


def _shadow_limits() -> dict[str, list[float | None]]:
    return {
        "num_steps": [300.0, None],
        "num_not_finite": [None, 0.0],
        "outside_limits_fraction": [None, 0.01],
        "latency_p99_s": [None, 0.3],
    }


@dataclass(frozen=True, kw_only=True)
class LimitsGate:
    """A gate that measures: each named number must lie in [low, high]; None: no limit on that side."""

    limits: dict[str, list[float | None]] = field(default_factory=_no_limits)

    def __post_init__(self) -> None:
        for name, bounds in self.limits.items():
            if len(bounds) != 2:
                raise ConfigError(f"limits of {name!r} are {list(bounds)}; expected [low, high], null for none")


@dataclass(frozen=True, kw_only=True)
class PromotionPolicy:
    """Every gate's strictness, and which gates each channel needs; ``candidate`` needs none."""

    offline: LimitsGate = field(default_factory=LimitsGate)
    evaluation: EvaluationGate = field(default_factory=EvaluationGate)
    shadow: LimitsGate = field(default_factory=lambda: LimitsGate(limits=_shadow_limits()))
    canary: CanaryGate = field(default_factory=CanaryGate)
    candidate: list[GateKind] = field(default_factory=list)
    staging: list[GateKind] = field(default_factory=lambda: [GateKind.EVALUATION])
    robot: list[GateKind] = field(default_factory=lambda: [GateKind.EVALUATION, GateKind.SHADOW, GateKind.CANARY])

    def __post_init__(self) -> None:
        self.evaluation.rule()
        self.canary.rule()
        if not 0 < self.canary.max_speed_fraction <= 1:
            raise ConfigError(f"canary.max_speed_fraction is {self.canary.max_speed_fraction}; expected more than 0, at most 1")

    def rule_of(self, kind: GateKind) -> dict[str, Any]:
        """A gate's strictness as a JSON-like record: evidence is bound to it when the gate is opened."""
        record = dataclasses.asdict(getattr(self, kind.value))
        if "limits" in record:
            record["limits"] = {name: list(bounds) for name, bounds in record["limits"].items()}
        return record


def read_policy(root: Path) -> PromotionPolicy:
    """The store's policy: the defaults, and what its file says.

    Raises:
        ConfigError: naming the key that is unknown or has a wrong type or value.
    """
    file = Path(root) / POLICY_FILE
    if not file.exists():
        return PromotionPolicy()
    try:
        written = _lower_kinds(OmegaConf.load(file))
        defaults = PromotionPolicy()
        if OmegaConf.select(written, "shadow.limits") is not None:
            # Limits that are written replace the default ones, not only those of the same name.
            defaults = dataclasses.replace(defaults, shadow=LimitsGate())
        policy = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(defaults), written))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}; expected the keys of PromotionPolicy") from None
    if not isinstance(policy, PromotionPolicy):
        raise ConfigError(f"{file} is not a mapping; expected the keys of PromotionPolicy")
    return policy


def _lower_kinds(loaded: Any) -> Any:
    """OmegaConf reads an enum by its member's name; people write its value."""
    if not isinstance(loaded, DictConfig):
        return loaded
    for channel in ("candidate", "staging", "robot"):
        if channel in loaded:
            loaded[channel] = [str(kind).upper() for kind in loaded[channel]]
    return loaded
