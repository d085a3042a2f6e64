"""Who decides each action of an episode: a policy's chunks, a scripted expert, or a policy with an operator beside it.

Hop 2 and 3 of the tour. A player is given to :class:`actors.rollout_worker.RolloutWorker`, which owns the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from core.experience import ActionChunk, Observation, Source
from models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One action and all that is recorded about it."""

    executed_action: NDArray[np.float32]
    """[A], what goes to the environment."""
    source: Source
    policy_action: NDArray[np.float32] | None = None
    """[A], what the policy asked for."""
    supervisor_action: NDArray[np.float32] | None = None
    """[A], what should be imitated in place of the executed action."""
    policy_version: int = -1
    intervention_id: int = -1
    action_age_s: float = 0.0
    """Age of the observation that the action was computed from."""


class Player(Protocol):
    """Decides the actions of one episode at a time.

    The loop that calls it::

        player.begin(env, seed)
        while not over: decision = player.decide(observation, instruction); ... env.step(decision.executed_action)
    """

    def begin(self, env: Any, seed: int) -> None:
        """A new episode of ``env`` (a TaskEnv that was just reset)."""
        ...

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """The next action."""
        ...

    def annotations(self) -> Mapping[str, Any]:
        """JSON-like ground truth of the episode so far."""
        ...


class ChunkPlayer:
    """Plays a policy's action chunks: H actions predicted, ``replan_steps`` executed, then the policy is asked again.

    The policy is swapped only between episodes, through :meth:`set_policy`. Another instruction (a task's next stage) ends a
    chunk, which was predicted for the one before.
    """

    def __init__(self, policy: Policy, *, replan_steps: int) -> None:
        self._policy = policy
        self._replan_steps = replan_steps
        self._generator = torch.Generator()
        self._chunk: ActionChunk | None = None
        self._position = 0
        self._instruction = ""

    def set_policy(self, policy: Policy) -> None:
        """Use other weights from the next episode on."""
        self._policy, self._chunk = policy, None

    def begin(self, env: Any, seed: int) -> None:
        """Forget the last episode's chunk; the episode's noise depends on its seed alone."""
        self._generator.manual_seed(seed)
        self._chunk = None

    def forget_chunk(self) -> None:
        """Ask the policy again at the next decision (somebody else moved the robot meanwhile)."""
        self._chunk = None

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """The next action of the chunk, or the first of a new one."""
        is_new = instruction != self._instruction
        self._instruction = instruction
        if self._chunk is None or is_new or self._position >= min(self._replan_steps, len(self._chunk.actions)):
            self._chunk = self._policy.sample_actions([observation], [instruction], [self._generator])[0]
            self._position = 0
        action = self._chunk.actions[self._position]
        self._position += 1
        return Decision(
            executed_action=action,
            source=Source.POLICY,
            policy_action=action,
            policy_version=self._chunk.policy_version,
            action_age_s=observation.time_s - self._chunk.observation_time_s,
        )

    def annotations(self) -> Mapping[str, Any]:
        """None."""
        return {}


class ScriptedPlayer:
    """Plays a scripted expert (an ``envs.task_env.Expert``); its clean intention is the supervisor's action."""

    def __init__(self, expert: Any) -> None:
        self._expert = expert

    def begin(self, env: Any, seed: int) -> None:
        """Hand the environment to the expert."""
        self._expert.reset(env)

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """Whatever the expert does."""
        action = self._expert.act()
        return Decision(executed_action=action.executed, supervisor_action=action.intended, source=Source.SCRIPTED)

    def annotations(self) -> Mapping[str, Any]:
        """The expert's ground truth."""
        return dict(self._expert.annotations())


class CorrectedPlayer:
    """A policy with a simulated operator beside it, who takes over when the task takes too long and finishes it.

    Stands in for the human of RECAP's corrections in simulation; the operator's steps carry ``Source.HUMAN``.
    """

    def __init__(self, player: ChunkPlayer, expert: Any, *, patience_steps: int) -> None:
        self._player = player
        self._expert = expert
        self._patience_steps = patience_steps
        self._env: Any = None
        self._step = 0

    def set_policy(self, policy: Policy) -> None:
        """Use other weights from the next episode on."""
        self._player.set_policy(policy)

    def begin(self, env: Any, seed: int) -> None:
        """The policy begins; the operator watches."""
        self._player.begin(env, seed)
        self._env, self._step = env, 0

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """The policy's action, until patience ends; then the operator's."""
        self._step += 1
        if self._step <= self._patience_steps:
            return self._player.decide(observation, instruction)
        if self._step == self._patience_steps + 1:
            self._expert.reset(self._env)
        action = self._expert.act()
        return Decision(
            executed_action=action.executed, supervisor_action=action.intended, source=Source.HUMAN, intervention_id=0
        )

    def annotations(self) -> Mapping[str, Any]:
        """When the operator took over, -1 if never."""
        return {"takeover_step": self._patience_steps if self._step > self._patience_steps else -1}
