"""Plays whatever episode is asked for: chooses who plays, and hands over to the one loop that steps environments.

Hop 3 of the tour, its rim: (seed, collection) -> Episode. Every episode depends on its seed, the policy and the
configuration alone, never on the episodes before it: a run that was interrupted collects the same episodes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.players import ChunkPlayer, CorrectedPlayer, Player, ScriptedPlayer
from actors.reference_players import HoldPlayer, RandomPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from core.errors import ConfigError, WorkerError
from core.experience import Collection, Episode
from models.policy import Policy


class PlayerKind(enum.Enum):
    """Who plays."""

    POLICY = "policy"
    EXPERT = "expert"
    HOLD = "hold"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class PlayersConfig:
    """Who plays which episodes. Demonstrations are always the scripted expert's."""

    player: PlayerKind = PlayerKind.POLICY
    """Of rollouts and evaluations: ``policy``, or ``expert``, ``hold``, ``random`` to measure these."""
    expert_quality: str = "mixed"
    """Of demonstrations: ``clean``, or ``mixed`` (noise, aim error, hesitation and retry drawn anew each episode)."""
    corrected_fraction: float = 0.0
    """The share of rollouts with a simulated operator beside the policy, who takes over when it takes too long."""
    patience_steps: int = 45
    """After how many steps the operator takes over."""
    is_evaluation_stopped_on_success: bool = True
    """False: SIMPLER's published protocol, which plays on until the time limit and counts the last step's success."""

    def __post_init__(self) -> None:
        if not 0 <= self.corrected_fraction <= 1:
            raise ConfigError(f"corrected_fraction is {self.corrected_fraction}; expected a number in [0, 1]")


class RolloutRunner:
    """Plays one episode after another in one environment; implements ``cluster.rollout_host.EpisodeRunner``.

    Consumes: seeds. Produces: Episodes. Waits for: the environment. Invariant: the policy changes only between episodes.
    """

    def __init__(
        self,
        env: Any,
        rollout: RolloutConfig,
        players: PlayersConfig,
        *,
        load_policy: Callable[[Path], Policy],
        make_expert: Callable[[int, str], Any],
        measure_progress: Callable[[], float] | None = None,
        run: str,
        worker: str,
        software_version: str,
    ) -> None:
        """Take ownership of an environment.

        Args:
            env: an ``envs.task_env.TaskEnv``.
            rollout: how policies are played.
            players: who plays what.
            load_policy: builds a policy from a checkpoint directory.
            make_expert: builds a scripted expert from a seed and a quality.
            measure_progress: ground truth of ``env`` at present, recorded in the annotations for judging value models.
            run: recorded in every episode.
            worker: recorded in every episode.
            software_version: recorded in every episode.
        """
        self._env = _MeasuredEnv(env, measure_progress) if measure_progress else env
        self._rollout = rollout
        self._players = players
        self._load_policy = load_policy
        self._make_expert = make_expert
        self._run = run
        self._worker = worker
        self._software_version = software_version
        self._policy: Policy | None = None

    def load_policy(self, path: Path) -> None:
        """Use a checkpoint for the episodes from now on.

        Raises:
            CheckpointError, SpecError: if it cannot be read, or was made for another environment.
        """
        self._policy = None  # before loading: never two in memory
        self._policy = self._load_policy(path)

    def run_episode(self, seed: int, *, collection: Collection, options: dict[str, Any] | None = None) -> Episode:
        """Play one episode; where its wall time went is in the annotations, under ``timing``."""
        is_stopped = self._rollout.is_stopped_on_success
        if collection is Collection.EVALUATION:
            is_stopped = self._players.is_evaluation_stopped_on_success
        worker = RolloutWorker(
            self._env,
            self._player(seed, collection),
            replace(self._rollout, is_stopped_on_success=is_stopped),
            run=self._run,
            worker=self._worker,
            software_version=self._software_version,
        )
        episode = worker.run_episode(seed, collection=collection, options=options)
        extras: dict[str, Any] = {"timing": asdict(worker.timing)}
        if isinstance(self._env, _MeasuredEnv):
            extras["progress"] = list(self._env.progress)
        return episode.with_provenance(annotations={**episode.provenance.annotations, **extras})

    def close(self) -> None:
        """Free the environment."""
        self._env.close()

    def _player(self, seed: int, collection: Collection) -> Player:
        players = self._players
        if collection is Collection.DEMONSTRATION:
            return ScriptedPlayer(self._make_expert(seed, players.expert_quality))
        if players.player is PlayerKind.HOLD:
            return HoldPlayer()
        if players.player is PlayerKind.RANDOM:
            return RandomPlayer()
        if players.player is PlayerKind.EXPERT:
            return ScriptedPlayer(self._make_expert(seed, players.expert_quality))
        if self._policy is None:
            raise WorkerError("no policy was loaded, but a policy's episode is asked for; load a checkpoint first")
        player = ChunkPlayer(self._policy, replan_steps=self._rollout.replan_steps)
        if collection is Collection.ROLLOUT and _is_corrected(seed, players.corrected_fraction):
            return CorrectedPlayer(player, self._make_expert(seed, "clean"), patience_steps=players.patience_steps)
        return player


class _MeasuredEnv:
    """An environment that notes the progress after each reset and step: T+1 numbers an episode."""

    def __init__(self, env: Any, measure: Callable[[], float]) -> None:
        self._env = env
        self._measure = measure
        self.progress: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> Any:
        result = self._env.reset(seed=seed, options=options)
        self.progress = [round(self._measure(), 5)]
        return result

    def step(self, action: Any) -> Any:
        result = self._env.step(action)
        self.progress.append(round(self._measure(), 5))
        return result


def _is_corrected(seed: int, fraction: float) -> bool:
    """A draw that depends on the seed alone, so that a resumed run corrects the same episodes."""
    return bool(np.random.default_rng([seed, 0xC0]).random() < fraction)
