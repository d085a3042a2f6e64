"""The environment interface that actors step: gymnasium's calls, this project's records.

Hop 1 of the tour: action -> Observation. Differs from ``gymnasium.Env`` in two ways: observations are
:class:`core.experience.Observation` records, and an environment says what its time limit means (``judged_failure``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import NonFiniteError, SpecError
from core.experience import Observation
from core.specs import ActionSpec, EnvSpec


class TaskEnv(Protocol):
    """One manipulation task.

    The loop that steps it (actors/rollout_worker.py)::

        observation, info = env.reset(seed=seed)
        while not (terminated or truncated):
            observation, reward, terminated, truncated, info = env.step(action)

    ``info["success"]`` is always present. ``info["judged_failure"]`` is true on a truncated step where the benchmark's
    own time limit is a verdict (SIMPLER: not solved within 80 steps is a failure, not an unknown outcome).
    """

    env_spec: EnvSpec
    family: str
    task: str
    asset_set: str
    time_limit_steps: int

    @property
    def instruction(self) -> str:
        """What the robot is asked to do now; may change between steps (tasks with stages)."""
        ...

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the same seed and options give the same episode."""
        ...

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action [A]: observation, reward, terminated, truncated, info.

        Raises:
            SpecError: if the action has another shape or is absurdly large.
            NonFiniteError: if it is not finite.
        """
        ...

    def close(self) -> None:
        """Free the simulator or the robot."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExpertAction:
    """What a scripted expert does in one step."""

    executed: NDArray[np.float32]
    """[A], with the injected noise."""
    intended: NDArray[np.float32]
    """[A], the clean action from the same state: the label to imitate (DART, Laskey et al. 2017, arXiv:1703.09327)."""
    phase: str
    """For example ``"approach"``."""


class Expert(Protocol):
    """A scripted expert with privileged knowledge of one environment."""

    def reset(self, env: Any) -> None:
        """Take over ``env`` in its present state: after its reset, or in the middle of an episode."""
        ...

    def act(self) -> ExpertAction:
        """Decide on the next action from the environment's present state."""
        ...

    def annotations(self) -> Mapping[str, Any]:
        """JSON-like ground truth of the episode so far: quality, hesitation and retry intervals."""
        ...


def checked_action(action: NDArray[np.float32], spec: ActionSpec, *, magnitude_limit: float) -> NDArray[np.float32]:
    """Refuse what no policy could mean.

    Args:
        action: [A] in the units of ``spec``.
        spec: expected names and bounds.
        magnitude_limit: how many times the bounds an entry may reach; the environment clips as it sees fit below that.

    Returns:
        The action as float32 [A].

    Raises:
        SpecError: wrong shape, or an entry far outside its bounds.
        NonFiniteError: NaN or infinity.
    """
    array = np.asarray(action, dtype=np.float32)
    if array.shape != (spec.dim,):
        raise SpecError(f"action has shape {array.shape}; expected ({spec.dim},): {', '.join(spec.names)}")
    for index, name in enumerate(spec.names):
        low, high = spec.low[index], spec.high[index]
        if not np.isfinite(array[index]):
            raise NonFiniteError(
                f"action[{index}] ({name}) is {array[index]}; expected a number in [{low}, {high}] {spec.units[index]}"
            )
        bound = magnitude_limit * max(abs(low), abs(high))
        if abs(array[index]) > bound:
            raise SpecError(
                f"action[{index}] ({name}) is {array[index]:.6g} {spec.units[index]}; limits are [{low}, {high}] and "
                f"anything beyond {bound:.6g} is refused. Check the action's units and un-normalisation."
            )
    return array
