"""Which episodes the bench consists of: tasks of both robots, how many of each kind, and the flaws that make a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from core.errors import ConfigError
from envs.simpler.expert_quality import ExpertConfig
from value_service.bench.truth import Kind, Split

_STEADY = ExpertConfig(max_step_m=0.05, max_turn_rad=0.25, position_noise_m=(0.0, 0.008), rotation_noise_rad=(0.0, 0.03))
"""Slower than the demonstrations' expert, so that a retreat of a few centimetres lasts several observations."""

FLAWS: Mapping[Kind, ExpertConfig] = MappingProxyType(
    {
        Kind.EXPERT: _STEADY,
        Kind.HESITATION: replace(_STEADY, hesitation_probability=1.0, hesitation_steps=(5, 14)),
        Kind.RETRY: replace(_STEADY, retry_probability=1.0, retry_steps=(3, 7)),
        Kind.FAILURE: replace(_STEADY, max_attempts=1, aim_error_probability=1.0, aim_error_m=(0.06, 0.10)),
    }
)
"""What an expert draws from to make an episode of a kind."""

TRAIN_SHARE: Mapping[Kind, float] = MappingProxyType(
    {Kind.EXPERT: 0.75, Kind.HESITATION: 0.25, Kind.RETRY: 0.25, Kind.FAILURE: 0.4}
)
"""Which part of a kind's episodes may be trained on; the rest is the same test for every model, whatever it is trained on."""


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """How many episodes of one task."""

    robot: str
    """Family of environments: ``simpler_google`` or ``simpler_widowx``."""
    task: str
    expert: int
    hesitation: int
    retry: int
    failure: int
    is_held_out: bool = False

    def __post_init__(self) -> None:
        for kind in Kind:
            if self.count(kind) < 0:
                raise ConfigError(f"{self.task}: {self.count(kind)} {kind.value} episodes; expected 0 or more")

    def count(self, kind: Kind) -> int:
        """Episodes of a kind."""
        number: int = getattr(self, kind.value)
        return number

    def split(self, kind: Kind, index: int) -> Split:
        """What the ``index``-th episode of a kind is for."""
        if self.is_held_out:
            return Split.HELD_OUT
        return Split.TRAIN if index < round(TRAIN_SHARE[kind] * self.count(kind)) else Split.TEST

    def scaled(self, factor: float) -> TaskPlan:
        """As many times as many episodes of each kind, at least one where there was one."""
        counts = {kind.value: max(1, round(factor * self.count(kind))) if self.count(kind) else 0 for kind in Kind}
        return replace(self, **counts)  # type: ignore[arg-type]


GOOGLE, WIDOWX = "simpler_google", "simpler_widowx"

PLAN: tuple[TaskPlan, ...] = (
    TaskPlan(robot=GOOGLE, task="google_robot_pick_standing_coke_can", expert=64, hesitation=32, retry=32, failure=15),
    TaskPlan(robot=GOOGLE, task="google_robot_move_near", expert=44, hesitation=28, retry=28, failure=10),
    TaskPlan(robot=GOOGLE, task="google_robot_close_drawer", expert=28, hesitation=20, retry=8, failure=0),
    TaskPlan(
        robot=GOOGLE,
        task="google_robot_pick_horizontal_coke_can",
        expert=12,
        hesitation=16,
        retry=16,
        failure=6,
        is_held_out=True,
    ),
    TaskPlan(robot=WIDOWX, task="widowx_carrot_on_plate", expert=48, hesitation=28, retry=28, failure=10),
    TaskPlan(robot=WIDOWX, task="widowx_spoon_on_towel", expert=48, hesitation=28, retry=28, failure=10),
    TaskPlan(robot=WIDOWX, task="widowx_stack_cube", expert=12, hesitation=16, retry=16, failure=6, is_held_out=True),
)
"""The bench. Closing a drawer has no failures: an expert that reaches short of it still pushes it shut."""
