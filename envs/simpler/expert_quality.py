"""How well a scripted expert works: its flaws, and named quality levels.

Beside hop 1 of the tour. :class:`ExpertConfig` is a distribution of flaws, :class:`Behaviour` one episode's draw from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """How well the expert does its work; a pair is a range from which each episode draws uniformly."""

    max_step_m: float = 0.08
    max_turn_rad: float = 0.35
    standoff_m: float = 0.12
    """Distance of the pre-grasp from the grasp, back along the approach axis."""
    lift_m: float = 0.15
    close_steps: int = 4
    max_attempts: int = 3
    """After a miss it comes again, up to this many times in all; then it stands still."""
    position_noise_m: tuple[float, float] = (0.0, 0.0)
    """Standard deviation, per axis and step, of what is added to the executed action."""
    rotation_noise_rad: tuple[float, float] = (0.0, 0.0)
    aim_error_probability: float = 0.0
    aim_error_m: tuple[float, float] = (0.0, 0.0)
    """How far short of the object it reaches, horizontally, towards the robot: depth is what people misjudge in a camera's
    picture. It looks anew before every attempt."""
    hesitation_probability: float = 0.0
    hesitation_steps: tuple[int, int] = (3, 8)
    """Both ends included."""
    retry_probability: float = 0.0
    retry_steps: tuple[int, int] = (2, 5)
    early_grip_probability: float = 0.0
    """Of closing while still coming in."""
    early_grip_m: tuple[float, float] = (0.05, 0.09)
    """How far before the grasp."""
    late_grip_probability: float = 0.0
    """Of lifting before the fingers are closed."""


QUALITIES: Mapping[str, ExpertConfig] = MappingProxyType(
    {
        "clean": ExpertConfig(),
        "noisy": ExpertConfig(position_noise_m=(0.004, 0.016), rotation_noise_rad=(0.01, 0.06)),
        "mixed": ExpertConfig(
            max_attempts=1,
            position_noise_m=(0.0, 0.016),
            rotation_noise_rad=(0.0, 0.06),
            aim_error_probability=0.5,
            aim_error_m=(0.05, 0.10),
            hesitation_probability=0.35,
            retry_probability=0.3,
            early_grip_probability=0.08,
            late_grip_probability=0.08,
        ),
    }
)
"""Named levels: ``clean``; ``noisy`` succeeds nearly as often and visits more states; ``mixed`` aims short in
half of the episodes, and gives up where it missed."""


def expert_config(quality: str) -> ExpertConfig:
    """Look a quality level up.

    Raises:
        ConfigError: unknown name.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"unknown expert quality {quality!r}; known are {', '.join(QUALITIES)}")
    return QUALITIES[quality]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What one episode drew from its :class:`ExpertConfig`."""

    position_noise_m: float
    rotation_noise_rad: float
    aim_errors_m: tuple[float, ...]
    """How far short each attempt is aimed."""
    hesitation: tuple[int, int] | None
    """(step at which it begins, steps it lasts)."""
    retry: tuple[float, int] | None
    """(distance before the grasp in m at which it begins, steps it lasts)."""
    early_grip_m: float | None
    is_late_grip: bool


def draw_behaviour(config: ExpertConfig, rng: np.random.Generator) -> Behaviour:
    """Draw one episode's flaws."""

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    aims = tuple(
        float(rng.uniform(*config.aim_error_m)) if happens(config.aim_error_probability) else 0.0
        for _ in range(config.max_attempts)
    )
    low, high = config.hesitation_steps
    hesitation = (int(rng.integers(2, 14)), int(rng.integers(low, high + 1))) if happens(config.hesitation_probability) else None
    low, high = config.retry_steps
    retry = (float(rng.uniform(0.02, 0.09)), int(rng.integers(low, high + 1))) if happens(config.retry_probability) else None
    early = float(rng.uniform(*config.early_grip_m)) if happens(config.early_grip_probability) else None
    return Behaviour(
        position_noise_m=float(rng.uniform(*config.position_noise_m)),
        rotation_noise_rad=float(rng.uniform(*config.rotation_noise_rad)),
        aim_errors_m=aims,
        hesitation=hesitation,
        retry=retry,
        early_grip_m=early,
        is_late_grip=early is None and happens(config.late_grip_probability),
    )
