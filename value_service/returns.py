"""Rewards and Monte-Carlo returns in the unit that values are in: V in [-1, 0], higher is better.

Hop 5 of the tour: how an episode ended -> the value target of each of its observations. Pure functions of numbers.

Different from the textbook: the environment's own reward is not used, only how the episode ended; and a truncated episode
has no Monte-Carlo target at all (NaN), because a time limit or an operator's stop says nothing of what would have followed.
Steps in which a robot is held cost nothing: how long a person took to come says nothing of the policy.

Indices: the papers count states 1..L and give each a reward; we have observations 0..T, so L = T + 1 and the paper's
reward of state l is earned by the step that leaves observation l - 1; the last state's reward is added to the last step's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.experience import EpisodeEnd


class ReturnForm(enum.Enum):
    """What a return is divided by."""

    TASK_LENGTH = "task_length"
    """RECAP (pi*0.6, section IV-A): a constant of the task, so that a slow success is worth less than a quick one."""
    OWN_LENGTH = "own_length"
    """ViVa (Eq. 1-2): the episode's own length, so that every success runs from -1/2 to 0 however long it took."""


@dataclass(frozen=True, kw_only=True)
class ReturnConfig:
    """How returns are made.

    Example:
        The default: a SIMPLER success after 20 steps has R_0 = -20 / 160, a failure after 80 has R_0 = -1.
    """

    form: ReturnForm = ReturnForm.TASK_LENGTH
    task_length_steps: int = 80
    """T_ref, the task's maximum episode length, in environment steps; used by TASK_LENGTH."""
    per_task_length_steps: dict[str, int] = field(default_factory=dict)
    """T_ref of the tasks that differ from ``task_length_steps``, by name."""
    failure_cost_ratio: float = 1.0
    """c: a failure costs C_fail = c T_ref steps. With 1, success is in [-0.5, 0] and failure in [-1, -0.5]."""
    is_failure_total: bool = False
    """True: a failed episode is worth -1 throughout, however much time was left. For tasks that fail by running out of time:
    the time left is nothing that can be seen, and with C_fail at the end the last steps of every failure look like progress,
    because the cost of the steps that did not happen any more is saved (docs/adr/0008)."""

    def __post_init__(self) -> None:
        for name, steps in {"": self.task_length_steps, **self.per_task_length_steps}.items():
            if steps < 1:
                raise ConfigError(f"the length of task {name or '(default)'} is {steps} steps; expected at least 1")
        if not (np.isfinite(self.failure_cost_ratio) and self.failure_cost_ratio >= 0):
            raise ConfigError(f"failure_cost_ratio is {self.failure_cost_ratio}; expected a finite number of at least 0")

    def length_steps(self, task: str) -> int:
        """T_ref of a task."""
        return self.per_task_length_steps.get(task, self.task_length_steps)

    def describe(self, task: str) -> str:
        """The target in one line, for ``Labels.target``.

        Example:
            >>> ReturnConfig().describe("lift")
            'recap c_fail=1 t_ref=80'
        """
        if self.form is ReturnForm.OWN_LENGTH:
            return "viva own_length"
        failure = " failure=total" if self.is_failure_total else ""
        return f"recap c_fail={self.failure_cost_ratio:g} t_ref={self.length_steps(task)}{failure}"


def step_rewards(
    num_steps: int, end: EpisodeEnd, config: ReturnConfig, *, task: str = "", held: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Reward of each step, in the unit of V.

    RECAP (pi*0.6, section IV-A): -1 a step, at the end 0 for success and -C_fail for failure, divided by T_ref + C_fail with
    C_fail = c T_ref (Evo-RL's choice; the paper names no number). ViVa (Eq. 1-2): half of -1/L a step with L = T + 1 states,
    at the end 0 or -1/2. Truncation adds nothing at the end: it is not a failure.

    Args:
        num_steps: T, at least 1.
        end: how the episode ended.
        config: which form, and its constants.
        task: selects T_ref.
        held: [T], True where the robot was held; None: nowhere. Such a step costs nothing.

    Returns:
        [T] float32, each at most 0.

    Example:
        >>> config = ReturnConfig(task_length_steps=4)
        >>> step_rewards(2, EpisodeEnd.FAILURE, config).tolist()
        [-0.125, -0.625]
    """
    costs = _costs(num_steps, held)
    per_step, at_failure = _unit(int(costs.sum()), config, task)
    reward = costs * -per_step
    if end is EpisodeEnd.FAILURE:
        reward[-1] -= at_failure
    return reward.astype(np.float32)


def value_targets(
    num_steps: int, end: EpisodeEnd, config: ReturnConfig, *, task: str = "", held: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Monte-Carlo return of each observation: what a value model is trained to predict.

    R_t = sum of the rewards from step t on (no discount), plus, at the terminal observation, what the last state itself is
    worth: 0 after success, -C_fail after failure. Clipped to [-1, 0]: only episodes longer than T_ref are affected.

    Args:
        num_steps: T, at least 1.
        end: how the episode ended.
        config: which form, and its constants.
        task: selects T_ref.
        held: as in :func:`step_rewards`.

    Returns:
        [T+1] float32 in [-1, 0]; NaN throughout where the episode was truncated.

    Example:
        >>> config = ReturnConfig(task_length_steps=4)
        >>> value_targets(2, EpisodeEnd.SUCCESS, config).tolist()
        [-0.25, -0.125, 0.0]
        >>> value_targets(2, EpisodeEnd.FAILURE, config).tolist()
        [-0.75, -0.625, -0.5]
    """
    costs = _costs(num_steps, held)
    per_step, at_failure = _unit(int(costs.sum()), config, task)
    if end.bootstraps():
        return np.full(num_steps + 1, np.nan, dtype=np.float32)
    steps_to_go = np.append(np.cumsum(costs[::-1])[::-1], 0.0)
    returns = 0.0 - steps_to_go * per_step - (at_failure if end is EpisodeEnd.FAILURE else 0.0)
    return np.clip(returns, -1.0, 0.0).astype(np.float32)


def _costs(num_steps: int, held: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """[T], 1 for a step that costs, 0 for one in which the robot was held."""
    if num_steps < 1:
        raise ValueError(f"an episode has at least one step, got num_steps={num_steps}")
    if held is None:
        return np.ones(num_steps)
    if held.shape != (num_steps,):
        raise ValueError(f"held has shape {held.shape}; expected ({num_steps},), one a step")
    return (~held).astype(np.float64)


def _unit(num_costly_steps: int, config: ReturnConfig, task: str) -> tuple[float, float]:
    """Cost of one step and of failing, in the unit of V."""
    if config.form is ReturnForm.OWN_LENGTH:
        return 0.5 / (num_costly_steps + 1), 0.5
    longest = config.length_steps(task) * (1.0 + config.failure_cost_ratio)
    at_failure = 1.0 if config.is_failure_total else config.failure_cost_ratio * config.length_steps(task) / longest
    return 1.0 / longest, at_failure
