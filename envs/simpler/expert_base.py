"""What all scripted experts share: they servo the tool in end-effector space on privileged poses, as well as they are told to.

Hop 1 of the tour, on the acting side. A task family's expert (:mod:`envs.simpler.expert_pick` for example) says which
phases there are, where each wants the tool, and when the next begins; on top of that come, drawn once per episode
(:mod:`envs.simpler.expert_quality`), noise on what is executed (the clean action stays known: DART, Laskey et al. 2017,
arXiv:1703.09327), an error of aim, hesitations (standing still), and retries (backing off along the path and coming again).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.expert_quality import ExpertConfig, draw_behaviour
from envs.task_env import ExpertAction

Array = NDArray[np.float64]
_ARRIVED_M, _ALIGNED_RAD = 0.012, 0.08
_HOLDING_CLOSEDNESS = 0.2


class Grip(Enum):
    """What the gripper shall do."""

    OPEN = "open"
    KEEP = "keep"
    CLOSE = "close"


GOOGLE_GRIPPER: Mapping[Grip, float] = MappingProxyType({Grip.OPEN: -1.0, Grip.KEEP: 0.0, Grip.CLOSE: 1.0})
"""Relative commands: 0 holds."""
WIDOWX_GRIPPER: Mapping[Grip, float] = MappingProxyType({Grip.OPEN: 1.0, Grip.CLOSE: -1.0})
"""Positions: keeping one is saying it again."""


@dataclass(frozen=True)
class Pose:
    """Position [3] in m and rotation, in the robot's base frame."""

    position: Array
    rotation: Rotation

    @classmethod
    def of(cls, vector: NDArray[np.floating[Any]]) -> Pose:
        """From [7]: position, then w, x, y, z."""
        return cls(np.asarray(vector[:3], dtype=np.float64), Rotation.from_quat(np.asarray(vector)[[4, 5, 6, 3]]))

    def axis(self, index: int) -> Array:
        """One column of the rotation matrix."""
        return np.asarray(self.rotation.as_matrix()[:, index])

    def raised(self, height_m: float) -> Pose:
        """The same, this much higher."""
        return Pose(self.position + np.array([0.0, 0.0, height_m]), self.rotation)


class ScriptedExpert(ABC):
    """Does the task of one environment, with privileged knowledge of where things are.

    The loop that uses it::

        expert.reset(env)
        while not ended:
            action = expert.act()
            ... = env.step(action.executed)

    A subclass fills in the phases: :meth:`_first_phase`, :meth:`_look`, :meth:`_advance_phase`, :meth:`_intend`, and
    :meth:`_distance`. In its :attr:`interruptible` phases the base may hesitate, in the :attr:`retriable` one back off.

    Args:
        config: how well.
        rng: of the flaws and the noise.
    """

    gripper: ClassVar[Mapping[Grip, float]] = GOOGLE_GRIPPER
    """The command for each grip. Where KEEP is missing, the last command is repeated."""
    interruptible: ClassVar[frozenset[str]] = frozenset({"approach", "advance"})
    retriable: ClassVar[str] = "advance"

    def __init__(self, config: ExpertConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._rng = rng

    def reset(self, env: Any) -> None:
        """Take over: after the environment's reset, or in the middle of an episode (from wherever the tool is).

        Args:
            env: :class:`envs.simpler.task_env.SimplerTaskEnv`, or whatever tells the same poses.
        """
        self._env = env
        self.behaviour = draw_behaviour(self.config, self._rng)
        self._start = self._tool()
        self._command = self.gripper[Grip.OPEN if env.gripper_closedness() < _HOLDING_CLOSEDNESS else Grip.CLOSE]
        self._step = 0
        self._attempt = 1
        self._phase_steps = 0
        self._path: list[Pose] = []
        self._intervals: list[dict[str, Any]] = []
        self._interruption: dict[str, Any] | None = None
        self._retreat_path: list[Pose] = []
        self.phase = self._first_phase()

    def act(self) -> ExpertAction:
        """Decide on the next action from the environment's present state."""
        tool = self._tool()
        self._look(tool)
        self._interrupt(tool)
        if self._interruption is None:
            self._advance_phase(tool)
        phase = self.phase if self._interruption is None else self._interruption["kind"]
        intended = self._intend(tool) if self._interruption is None else self._intend_interrupted(tool)
        if self._interruption is None and self.phase in self.interruptible:
            self._path.append(tool)
        self._count()
        return ExpertAction(executed=self._with_noise(intended), intended=intended, phase=phase)

    def annotations(self) -> Mapping[str, Any]:
        """Ground truth of the episode so far, JSON-like.

        ``intervals``: list of ``{"kind": "hesitation" | "retry" | "miss", "m": first step, "n": first step after it}``, in
        steps since :meth:`reset`; plus what the episode drew. A ``miss`` lasts until the expert is :attr:`retriable` again.
        """
        behaviour = self.behaviour
        return {
            "intervals": [dict(interval) for interval in self._intervals],
            "aim_errors_m": list(behaviour.aim_errors_m[: self._attempt]),
            "position_noise_m": behaviour.position_noise_m,
            "rotation_noise_rad": behaviour.rotation_noise_rad,
            "grip": "early" if behaviour.early_grip_m is not None else "late" if behaviour.is_late_grip else "timely",
            "attempts": self._attempt,
            "num_steps": self._step,
        }

    # -- for a family to fill in ---------------------------------------------------------------------------------

    @abstractmethod
    def _first_phase(self) -> str:
        """The phase to begin in; called at the end of :meth:`reset`."""

    @abstractmethod
    def _look(self, tool: Pose) -> None:
        """See where things are and decide where to go; called once per action, before anything else."""

    @abstractmethod
    def _distance(self, tool: Pose) -> float:
        """How far (m) the tool still is from where it will grip or push."""

    @abstractmethod
    def _advance_phase(self, tool: Pose) -> None:
        """Go on to the next phase (:meth:`_enter`, :meth:`_miss`) where the present one has reached its end."""

    @abstractmethod
    def _intend(self, tool: Pose) -> NDArray[np.float32]:
        """The clean action [7] of this moment, usually one :meth:`_servo`."""

    # -- phases --------------------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self.phase, self._phase_steps = phase, 0
        if phase == self.retriable and self._intervals and self._intervals[-1]["kind"] == "miss":
            self._intervals[-1]["n"] = self._step

    def _miss(self, phase: str) -> None:
        """Note that it did not work, and come again from ``phase``; rest after the last attempt."""
        if self._attempt < self.config.max_attempts:
            self._attempt += 1
            self._intervals.append({"kind": "miss", "m": self._step, "n": self._step})
            self._enter(phase)
        else:
            self._enter("rest")

    def _is_at(self, goal: Pose, tool: Pose, tolerance: float = 1.0) -> bool:
        is_near = float(np.linalg.norm(goal.position - tool.position)) < tolerance * _ARRIVED_M
        return is_near and float((goal.rotation * tool.rotation.inv()).magnitude()) < tolerance * _ALIGNED_RAD

    def _count(self) -> None:
        self._step += 1
        if self._interruption is None:
            self._phase_steps += 1

    # -- interruptions -------------------------------------------------------------------------------------------

    def _interrupt(self, tool: Pose) -> None:
        """Begin or end a hesitation or a retry."""
        if self._interruption is not None and self._step >= self._interruption["n"]:
            self._interruption = None
        if self._interruption is not None or self._attempt > 1 or self.phase not in self.interruptible:
            return
        seen = {interval["kind"] for interval in self._intervals}
        hesitation, retry = self.behaviour.hesitation, self.behaviour.retry
        if hesitation is not None and "hesitation" not in seen and self._step >= hesitation[0]:
            self._begin("hesitation", hesitation[1])
        elif retry is not None and "retry" not in seen and self.phase == self.retriable and self._distance(tool) < retry[0]:
            self._retreat_path = self._path[-1 : -1 - retry[1] : -1]
            self._begin("retry", len(self._retreat_path))

    def _begin(self, kind: str, num_steps: int) -> None:
        if num_steps > 0:
            self._interruption = {"kind": kind, "m": self._step, "n": self._step + num_steps}
            self._intervals.append(self._interruption)

    def _intend_interrupted(self, tool: Pose) -> NDArray[np.float32]:
        assert self._interruption is not None
        if self._interruption["kind"] == "hesitation":
            return self._stand_still()
        return self._servo(tool, self._retreat_path[self._step - self._interruption["m"]], Grip.KEEP)

    # -- how to get there ----------------------------------------------------------------------------------------

    def _tool(self) -> Pose:
        return Pose.of(self._env.tcp_pose().base)

    def _short(self, goal: Pose) -> Pose:
        """The goal as this expert believes it to be: short of the real one by this attempt's error of aim."""
        away = np.array([*goal.position[:2], 0.0])
        return Pose(goal.position - self.behaviour.aim_errors_m[self._attempt - 1] * away / np.linalg.norm(away), goal.rotation)

    def _detour(self, tool: Pose, goal: Pose) -> Pose:
        """Rise before going sideways, so that a tool that starts low does not sweep things away."""
        sideways = float(np.linalg.norm((goal.position - tool.position)[:2]))
        if tool.position[2] > goal.position[2] - 0.05 or sideways < 0.02:
            return goal
        return Pose(np.array([*tool.position[:2], goal.position[2]]), tool.rotation)

    def _servo(self, tool: Pose, goal: Pose, grip: Grip, *, max_step_m: float | None = None) -> NDArray[np.float32]:
        """One bounded step towards a pose: translation and rotation vector in base axes, as the controller takes them."""
        shift = goal.position - tool.position
        turn = (goal.rotation * tool.rotation.inv()).as_rotvec()
        shift = shift * min(1.0, (max_step_m or self.config.max_step_m) / max(float(np.linalg.norm(shift)), 1e-9))
        turn = turn * min(1.0, self.config.max_turn_rad / max(float(np.linalg.norm(turn)), 1e-9))
        self._command = self.gripper.get(grip, self._command)
        return np.array([*shift, *turn, self._command], dtype=np.float32)

    def _stand_still(self) -> NDArray[np.float32]:
        self._command = self.gripper.get(Grip.KEEP, self._command)
        return np.array([0.0] * 6 + [self._command], dtype=np.float32)

    def _with_noise(self, intended: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add execution noise to the arm's entries; the gripper obeys."""
        noise = np.zeros(7)
        noise[:3] = self._rng.normal(0.0, 1.0, 3) * self.behaviour.position_noise_m
        noise[3:6] = self._rng.normal(0.0, 1.0, 3) * self.behaviour.rotation_noise_rad
        return (intended + noise).astype(np.float32)
