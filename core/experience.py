"""Experience: what was seen, what was done, how it ended. Written once, never edited.

Letters: T environment steps, H action horizon, A action dimension, S state dimension.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import NonFiniteError, SpecError
from core.ids import EpisodeId, new_episode_id, parse_episode_id
from core.robot_steps import RobotSteps
from core.specs import EnvSpec


class Source(enum.IntEnum):
    """Who decided the executed action of a step. Stored as int8."""

    POLICY = 0
    HUMAN = 1
    """An operator who took over, or a demonstration by teleoperation."""
    HOLD = 2
    """Nobody: the robot was held still or homed. Never learned from."""
    SCRIPTED = 3
    """A scripted expert."""


class EpisodeEnd(enum.Enum):
    """How an episode ended; the only place that knows what that means for a return."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIME_LIMIT = "time_limit"
    OPERATOR_STOP = "operator_stop"
    FAULT = "fault"

    @property
    def is_terminated(self) -> bool:
        """The task itself ended (gymnasium's ``terminated``)."""
        return self in (EpisodeEnd.SUCCESS, EpisodeEnd.FAILURE)

    def bootstraps(self) -> bool:
        """Whether the return past the end is unknown and must be estimated by V: true exactly for truncation."""
        return not self.is_terminated


class Collection(enum.Enum):
    """Why an episode was made."""

    DEMONSTRATION = "demonstration"
    ROLLOUT = "rollout"
    EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy sees at one moment.

    Example:
        images {"overhead_camera": uint8 [128, 160, 3]}, state float32 [8], time_s 0.333.
    """

    images: Mapping[str, NDArray[np.uint8]]
    """Camera name -> [H, W, 3], RGB."""
    state: NDArray[np.float32]
    """[S], proprioception in the units of the StateSpec."""
    time_s: float
    """When it was taken, on the environment's clock."""


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """A policy's answer to one observation: the next H actions, to be executed from the first on."""

    actions: NDArray[np.float32]
    """[H, A], in ActionSpec units."""
    policy_version: int
    observation_time_s: float
    expiry_s: float | None = None
    """On the environment's clock; after it a robot refuses the rest of the chunk. None: never (simulation)."""

    def __post_init__(self) -> None:
        bad = np.argwhere(~np.isfinite(self.actions))
        if bad.size:
            step, entry = bad[0]
            raise NonFiniteError(
                f"action chunk of policy version {self.policy_version}: actions[{step}, {entry}] is "
                f"{self.actions[step, entry]}; expected finite numbers. The checkpoint or its normalisation is damaged."
            )


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an episode comes from: enough to make it again."""

    env: str
    """Environment family, for example ``"simpler_google"``."""
    task: str
    """For example ``"google_robot_pick_standing_coke_can"``."""
    seed: int
    collection: Collection
    asset_set: str = "none"
    """``"upstream"``, ``"builtin"`` or ``"none"``."""
    software_version: str = "unknown"
    run: str = ""
    worker: str = ""
    annotations: Mapping[str, Any] = field(default_factory=dict)
    """JSON-like extras: ground-truth hesitation and retry intervals, the operator's name, reset options."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One run of a task: T actions and T+1 observations. Arrays are read-only.

    Example:
        T=30: images {"overhead_camera": uint8 [31, 128, 160, 3]}, state float32 [31, 8], time_s float64 [31],
        executed_action float32 [30, 7], source int8 [30], reward float32 [30], end SUCCESS.
    """

    images: Mapping[str, NDArray[np.uint8]]
    """Camera name -> [T+1, H, W, 3]."""
    state: NDArray[np.float32]
    """[T+1, S]."""
    time_s: NDArray[np.float64]
    """[T+1], strictly increasing."""
    executed_action: NDArray[np.float32]
    """[T, A]: what the environment received."""
    policy_action: NDArray[np.float32]
    """[T, A]: what the policy asked for; NaN rows where none was computed."""
    supervisor_action: NDArray[np.float32]
    """[T, A]: what a supervisor says should have been done while another action was executed (DART, DAgger);
    NaN rows where nobody said anything."""
    source: NDArray[np.int8]
    """[T], values of Source."""
    intervention_id: NDArray[np.int32]
    """[T], -1 where nobody intervened, else the number of the intervention within the episode."""
    reward: NDArray[np.float32]
    """[T], the environment's own reward."""
    policy_version: NDArray[np.int32]
    """[T], -1 where no policy acted."""
    action_age_s: NDArray[np.float32]
    """[T], age of the observation that the action was computed from, at execution."""
    instruction: str
    end: EpisodeEnd
    env_spec: EnvSpec
    provenance: Provenance
    episode_id: EpisodeId = field(default_factory=new_episode_id)
    robot: RobotSteps | None = None
    """What a robot's supervisor recorded beside it; None in simulation."""

    def __post_init__(self) -> None:
        parse_episode_id(self.episode_id)
        steps, spec, who = self.num_steps, self.env_spec, f"episode {self.episode_id}"
        if steps == 0:
            raise SpecError(f"{who} has no step; expected at least one")
        action_shape = (steps, spec.action.dim)
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "state": ((steps + 1, spec.state.dim), np.float32),
            "time_s": ((steps + 1,), np.float64),
            "executed_action": (action_shape, np.float32),
            "policy_action": (action_shape, np.float32),
            "supervisor_action": (action_shape, np.float32),
            "source": ((steps,), np.int8),
            "intervention_id": ((steps,), np.int32),
            "reward": ((steps,), np.float32),
            "policy_version": ((steps,), np.int32),
            "action_age_s": ((steps,), np.float32),
        }
        for name, (shape, dtype) in shapes.items():
            object.__setattr__(self, name, _checked(getattr(self, name), shape, dtype, f"{who}: {name}"))
        cameras = {camera.name: camera for camera in spec.cameras}
        if set(self.images) != set(cameras):
            raise SpecError(f"{who} has cameras {sorted(self.images)}; its specification has {sorted(cameras)}")
        images = {
            name: _checked(
                self.images[name], (steps + 1, camera.height_px, camera.width_px, 3), np.uint8, f"{who}: images[{name}]"
            )
            for name, camera in cameras.items()
        }
        object.__setattr__(self, "images", MappingProxyType(images))
        for name in ("state", "time_s", "executed_action", "reward", "action_age_s"):
            bad = np.argwhere(~np.isfinite(getattr(self, name)))
            if bad.size:
                raise NonFiniteError(f"{who}: {name}{bad[0].tolist()} is not finite")
        for name in ("policy_action", "supervisor_action"):
            finite = np.isfinite(getattr(self, name))
            if (finite.any(axis=1) != finite.all(axis=1)).any():
                raise NonFiniteError(f"{who}: {name} has a row that is partly NaN; expected all or none")
        if (np.diff(self.time_s) <= 0).any():
            step = int(np.argmax(np.diff(self.time_s) <= 0))
            raise SpecError(f"{who}: time_s must increase, but time_s[{step}:{step + 2}] is {self.time_s[step : step + 2]}")
        known = {int(source) for source in Source}
        if not set(np.unique(self.source).tolist()) <= known:
            raise SpecError(
                f"{who}: source holds {sorted(set(np.unique(self.source).tolist()) - known)}; known are {sorted(known)}"
            )
        if self.robot is not None:
            object.__setattr__(self, "robot", self.robot.checked(num_steps=steps, action_dim=spec.action.dim, who=who))

    @classmethod
    def of_one_source(
        cls,
        source: Source,
        *,
        executed_action: NDArray[np.float32],
        env_spec: EnvSpec,
        time_s: NDArray[np.float64] | None = None,
        reward: NDArray[np.float32] | None = None,
        policy_version: int = -1,
        **rest: Any,
    ) -> Episode:
        """An episode in which one source decided every step and nobody else said anything, as imported data has it.

        Args:
            source: of every step.
            executed_action: [T, A].
            env_spec: of the environment.
            time_s: [T+1]; by default a period of the control rate apart.
            reward: [T]; by default zeros.
            policy_version: of every step; -1 where no policy acted.
            rest: the other fields, see above.
        """
        steps = len(executed_action)
        nothing = np.full(executed_action.shape, np.nan, np.float32)
        return cls(
            executed_action=executed_action,
            env_spec=env_spec,
            time_s=np.arange(steps + 1) / env_spec.action.control_hz if time_s is None else time_s,
            reward=np.zeros(steps, np.float32) if reward is None else reward,
            policy_version=np.full(steps, policy_version, np.int32),
            policy_action=nothing,
            supervisor_action=nothing,
            source=np.full(steps, source, np.int8),
            intervention_id=np.full(steps, -1, np.int32),
            action_age_s=np.zeros(steps, np.float32),
            **rest,
        )

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.executed_action)

    @property
    def is_success(self) -> bool:
        """Whether the task was solved."""
        return self.end is EpisodeEnd.SUCCESS

    def observation(self, t: int) -> Observation:
        """The observation at index t in 0..T (views, not copies)."""
        return Observation(
            images={name: frames[t] for name, frames in self.images.items()}, state=self.state[t], time_s=float(self.time_s[t])
        )

    def with_provenance(self, **changes: Any) -> Episode:
        """The same experience under other provenance."""
        return replace(self, provenance=replace(self.provenance, **changes))


def imitation_target(executed_action: NDArray[np.float32], supervisor_action: NDArray[np.float32]) -> NDArray[np.float32]:
    """The action a learner imitates: the supervisor's where there is one, else the executed one.

    Args:
        executed_action: [..., A].
        supervisor_action: [..., A], NaN rows where there is none.

    Returns:
        [..., A], finite.

    Example:
        >>> imitation_target(np.float32([[1.0], [2.0]]), np.float32([[np.nan], [3.0]])).tolist()
        [[1.0], [3.0]]
    """
    return np.where(np.isfinite(supervisor_action), supervisor_action, executed_action).astype(np.float32)


def _checked(array: NDArray[Any], shape: tuple[int, ...], dtype: type, what: str) -> NDArray[Any]:
    if array.shape != shape or array.dtype != dtype:
        raise SpecError(f"{what} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
    view = array.view()
    view.flags.writeable = False
    return view
