"""Runs episodes: the only loop in the project that steps an environment.

Hop 3 of the tour: steps -> Episode (T actions, T+1 observations). The same loop serves collection, demonstrations,
corrections and evaluation; who decides is the player's business, where the episode goes is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.players import Decision, Player
from core.errors import WorkerError
from core.experience import Collection, Episode, EpisodeEnd, Observation, Provenance
from core.specs import EnvSpec
from models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How policies are played."""

    replan_steps: int = 3
    """Actions executed of each predicted chunk (VideoVLA: 3 of 6)."""
    is_stopped_on_success: bool = True
    """Collection ends an episode at the first success. SIMPLER's published evaluation plays on until the time limit
    and counts the last step's success: set false for that."""


@dataclass(kw_only=True)
class Timing:
    """Where the wall time of an episode went, in seconds."""

    env_s: float = 0.0
    policy_s: float = 0.0


@dataclass
class _Recording:
    """The growing arrays of one episode."""

    observations: list[Observation]
    decisions: list[Decision] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class RolloutWorker:
    """Runs one episode after another in one environment.

    Consumes: seeds, and policies between episodes. Produces: Episodes. Waits for: the environment. Invariant: all
    policy steps of an episode carry one policy version.
    """

    def __init__(
        self,
        env: Any,
        player: Player,
        config: RolloutConfig,
        *,
        policy_loader: Callable[[Path], Policy] | None = None,
        run: str = "",
        worker: str = "",
        software_version: str = "unknown",
    ) -> None:
        """Take ownership of an environment (an ``envs.task_env.TaskEnv``) and a player.

        ``policy_loader`` turns a checkpoint directory into a policy, for :meth:`load_policy`.
        """
        self.env = env
        self.timing = Timing()
        self._player = player
        self._config = config
        self._policy_loader = policy_loader
        self._provenance = {"run": run, "worker": worker, "software_version": software_version}
        self._is_playing = False

    def load_policy(self, path: Path) -> None:
        """Load a checkpoint for the episodes from now on.

        Raises:
            WorkerError: in the middle of an episode, or if this worker's player takes no policy.
        """
        set_policy = getattr(self._player, "set_policy", None)
        if self._is_playing or self._policy_loader is None or set_policy is None:
            raise WorkerError(f"cannot load {path}: policies change only between episodes, on workers that play one")
        set_policy(self._policy_loader(path))

    def run_episode(
        self, seed: int, *, collection: Collection = Collection.ROLLOUT, options: dict[str, Any] | None = None
    ) -> Episode:
        """Play one episode from reset to its end.

        Args:
            seed: of the environment's initial state and of the policy's noise.
            collection: why, recorded in the provenance.
            options: handed to the environment's reset, recorded in the annotations.

        Raises:
            SpecError, NonFiniteError: an action that the environment refuses.
        """
        self._is_playing = True
        try:
            return self._play(seed, collection, options)
        finally:
            self._is_playing = False

    def close(self) -> None:
        """Free the environment."""
        self.env.close()

    def _play(self, seed: int, collection: Collection, options: dict[str, Any] | None) -> Episode:
        self.timing = Timing()
        started_s = time.perf_counter()
        observation, info = self.env.reset(seed=seed, options=options)
        instruction = self.env.instruction
        self._player.begin(self.env, seed)
        recording = _Recording([observation])
        terminated = truncated = False
        first_success_step = -1
        self.timing.env_s += time.perf_counter() - started_s
        while not (truncated or (terminated and self._config.is_stopped_on_success)):
            asked_s = time.perf_counter()
            decision = self._player.decide(observation, self.env.instruction)
            decided_s = time.perf_counter()
            observation, reward, terminated, truncated, info = self.env.step(decision.executed_action)
            self.timing.policy_s += decided_s - asked_s
            self.timing.env_s += time.perf_counter() - decided_s
            if info["success"] and first_success_step < 0:
                first_success_step = len(recording.decisions)
            recording.observations.append(observation)
            recording.decisions.append(decision)
            recording.rewards.append(reward)
        annotations = {
            "succeeded_once": first_success_step >= 0,
            "first_success_step": first_success_step,  # of the action after which it was solved; -1: never
            **self._player.annotations(),
        }
        if options:
            annotations["options"] = options
        provenance = Provenance(
            env=self.env.family,
            task=self.env.task,
            seed=seed,
            collection=collection,
            asset_set=self.env.asset_set,
            annotations=annotations,
            **self._provenance,
        )
        return _episode(recording, self.env.env_spec, instruction, _end(info), provenance)


def _end(info: dict[str, Any]) -> EpisodeEnd:
    if info["success"]:
        return EpisodeEnd.SUCCESS
    return EpisodeEnd.FAILURE if info.get("judged_failure", False) else EpisodeEnd.TIME_LIMIT


def _episode(recording: _Recording, spec: EnvSpec, instruction: str, end: EpisodeEnd, provenance: Provenance) -> Episode:
    observations, decisions = recording.observations, recording.decisions
    missing = np.full(spec.action.dim, np.nan, np.float32)

    def actions(rows: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
        return np.stack([missing if row is None else np.asarray(row, np.float32) for row in rows])

    return Episode(
        images={
            camera.name: np.stack([observation.images[camera.name] for observation in observations]) for camera in spec.cameras
        },
        state=np.stack([observation.state for observation in observations]).astype(np.float32),
        time_s=np.array([observation.time_s for observation in observations], np.float64),
        executed_action=actions([decision.executed_action for decision in decisions]),
        policy_action=actions([decision.policy_action for decision in decisions]),
        supervisor_action=actions([decision.supervisor_action for decision in decisions]),
        source=np.array([int(decision.source) for decision in decisions], np.int8),
        intervention_id=np.array([decision.intervention_id for decision in decisions], np.int32),
        reward=np.array(recording.rewards, np.float32),
        policy_version=np.array([decision.policy_version for decision in decisions], np.int32),
        action_age_s=np.array([decision.action_age_s for decision in decisions], np.float32),
        instruction=instruction,
        end=end,
        env_spec=spec,
        provenance=provenance,
    )
