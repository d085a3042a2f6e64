"""What a robot's configuration says: arms, limits, watchdogs. Nothing here has a default, because all of it can move a robot.

A configuration is one YAML file (``configs/robots/*.yaml``, read by OmegaConf, so ``${...}`` works); a missing, unknown or
nonsensical key is refused by its name. The supervisor alone reads it, once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from yaml import YAMLError

from core.errors import ConfigError
from core.ids import digest

Triple: TypeAlias = tuple[float, float, float]
Quadruple: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A group of limits. Every number is finite; unknown keys are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Box(Limits):
    """An axis-aligned box in the base frame."""

    low_m: Triple
    high_m: Triple

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ConfigError(f"a box from {self.low_m} to {self.high_m}; expected low below high on every axis")


@dataclass(frozen=True, kw_only=True)
class ArmLimits(Limits):
    """Where one arm's tool point may be, and how fast. Frames: the arm's base."""

    box: Box
    keep_out: tuple[Box, ...]
    """Boxes inside the box that the tool point does not enter; ``[]`` for none."""
    tool_axis: Triple
    """Unit vector in the tool's frame, for example [0, 0, 1]: where it points."""
    cone_axis: Triple
    """Unit vector: where it should point, for example [0, 0, -1]: down."""
    cone_half_angle_rad: float
    """How far it may be tilted from there; pi for no cone."""
    max_step_m: float
    """Of one action's translation; longer ones are shortened."""
    max_step_rad: float
    max_lead_m: float
    """How far the commanded pose may be ahead of the measured one: what an arm without dead-man does if all else dies."""
    max_lead_rad: float
    max_linear_speed_m_s: float
    max_linear_acceleration_m_s2: float
    max_linear_jerk_m_s3: float
    max_angular_speed_rad_s: float
    max_angular_acceleration_rad_s2: float
    max_angular_jerk_rad_s3: float
    max_tracking_error_m: float
    """Between commanded and measured, for longer than the watchdog's time: a fault."""
    home_position_m: Triple
    home_quaternion_wxyz: Quadruple

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and value <= 0:
                raise ConfigError(f"{field.name} is {value}; expected more than 0")
        for name in ("tool_axis", "cone_axis", "home_quaternion_wxyz"):
            length = math.hypot(*getattr(self, name))
            if abs(length - 1) > 1e-3:
                raise ConfigError(f"{name} {getattr(self, name)} has length {length:.4f}; expected 1")
        if self.max_tracking_error_m >= self.max_lead_m:
            raise ConfigError(
                f"max_tracking_error_m {self.max_tracking_error_m} is not below max_lead_m {self.max_lead_m}: commands never "
                "lead by more, so an arm that does not follow would not be noticed"
            )


@dataclass(frozen=True, kw_only=True)
class ArmConfig(Limits):
    """One arm."""

    name: str
    driver: str
    """Of :func:`robot_drivers.make.make_driver`."""
    options: dict[str, Any]
    """The driver's own: address, model, gripper."""
    limits: ArmLimits


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig(Limits):
    """When a silence, a delay or a struggle ends motion."""

    stale_state_s: float
    """Without a state from an arm: FAULT."""
    stale_observation_s: float
    """Age of the observation behind a chunk when it arrives: refused."""
    stale_action_s: float
    """POLICY without an action to play: HOLD. Two policy periods or more."""
    first_action_s: float
    """The same, after a hand back and until the policy has looked and answered."""
    homing_s: float
    """HOMING that has not arrived: HOLD."""
    late_tick_s: float
    """A tick that starts so much after its time counts as late."""
    late_fraction: float
    """Of the ticks in the window: HOLD."""
    late_window_s: float
    clamp_fraction: float
    """Of the actions in the window that limits changed: FAULT. The policy does not know this robot."""
    clamp_window_s: float
    tracking_error_s: float
    restop_s: float
    """An arm that still moves so long after a stop is told again."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ConfigError(f"{field.name} is {value}; expected more than 0")
            if field.name.endswith("fraction") and value > 1:
                raise ConfigError(f"{field.name} is {value}; expected a fraction, at most 1")


@dataclass(frozen=True, kw_only=True)
class RobotConfig(Limits):
    """One robot: N arms that stop together."""

    name: str
    tick_hz: float
    """50 to 100: how often a target goes to the arms."""
    control_hz: float
    """Of the policy's actions."""
    lease_ttl_s: float
    """An operator's control ends so long after the last input frame."""
    arms: tuple[ArmConfig, ...]
    watchdog: WatchdogConfig

    def __post_init__(self) -> None:
        if not 20 <= self.tick_hz <= 1000:
            raise ConfigError(f"tick_hz is {self.tick_hz}; expected 20 to 1000, usually 50 to 100")
        if not 0 < self.control_hz <= self.tick_hz:
            raise ConfigError(f"control_hz is {self.control_hz}; expected more than 0 and at most tick_hz {self.tick_hz}")
        if not 0 < self.lease_ttl_s <= 1:
            raise ConfigError(f"lease_ttl_s is {self.lease_ttl_s}; expected at most 1: so long an arm moves without its operator")
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"arms are named {names}; expected one or more, each with a name of its own")

    @property
    def digest(self) -> str:
        """16 hex digits: which limits an episode was recorded under."""
        return digest(dataclasses.asdict(self))


def read_robot_config(path: Path) -> RobotConfig:
    """Read and check.

    Raises:
        ConfigError: with the key that is missing, unknown or wrong.
    """
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected keys and values, see configs/robots/")
    try:
        return TypeAdapter(RobotConfig).validate_python(tree)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors(include_url=False)]
        raise ConfigError(f"{path} is refused. A robot's limits have no defaults:\n  " + "\n  ".join(lines)) from None
