"""Plays what is promoted to a robot: the checkpoint agent decides between episodes, the runner plays, a canary's outcome is kept.

Hop 10 of the tour on a real robot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from actors.robot_runner import RobotRunner
from checkpoints.agent import AgentConfig, RobotAgent
from checkpoints.agent_memory import Running
from checkpoints.contract import Conventions, LiveCapabilities
from checkpoints.gate_record import GateEpisode
from checkpoints.promotion import Promotion
from core.clock import SystemClock
from core.experience import Episode, EpisodeEnd
from models.policy import Policy

_MAX_CHUNK_ACTIONS = 256
"""As in ``robot_drivers.messages.Actions``."""


class PromotedEpisodes:
    """Episodes of whatever the robot's channel says.

    Consumes: the store of checkpoints, between episodes. Produces: Episodes, and a canary's record. Waits for: a person,
    before every episode. Invariant: what plays was pulled by digest, fits the robot, and inferred on its observation in time.
    """

    def __init__(
        self,
        runner: RobotRunner,
        promotion: Promotion,
        config: AgentConfig,
        *,
        conventions: Conventions,
        load: Callable[[Path], Policy],
    ) -> None:
        """Take up where the last process left off.

        Args:
            runner: of the robot.
            promotion: of the store of checkpoints.
            config: of the robot's agent.
            conventions: of the robot.
            load: a policy from its directory.
        """
        self._runner = runner
        self._promotion = promotion
        self._conventions = conventions
        self.agent: RobotAgent[Policy] = RobotAgent(
            config, promotion, capabilities=self._capabilities, load=load, infer=self._infer, swap=self._swap, clock=SystemClock()
        )

    def play(self, run_episode: Callable[[], Episode]) -> Episode:
        """One episode of what is promoted now.

        Raises:
            CheckpointError: if nothing may run; the message says why.
            RecapError: whatever the episode raises; it counts as a crash.
        """
        running = self.agent.between_episodes()
        with self.agent.episode():
            episode = run_episode()
        if running.canary:
            self._record(running, episode)
        return episode

    def _record(self, running: Running, episode: Episode) -> None:
        canary = self._promotion.gates.open_canary(self._capabilities().digest)
        if canary is None or canary.record.name != running.canary:
            return  # closed meanwhile
        outcome = GateEpisode(
            key=episode.episode_id,
            is_success=episode.is_success,
            is_intervened=bool((episode.intervention_id >= 0).any()),
            is_stopped=episode.end in (EpisodeEnd.OPERATOR_STOP, EpisodeEnd.FAULT),
            speed_fraction=running.speed_fraction,
        )
        self._promotion.gates.add(
            canary,
            lambda record: record.with_episodes([outcome]),
            by=f"worker of {self._runner.env.welcome.robot}",
            reason="a canary's episode",
        )

    def _capabilities(self) -> LiveCapabilities:
        env = self._runner.env
        return LiveCapabilities(
            robot=env.welcome.robot,
            env_spec=env.env_spec,
            conventions=self._conventions,
            max_chunk_length=_MAX_CHUNK_ACTIONS,
            safety_digest=env.welcome.limits_digest,
        )

    def _infer(self, policy: Policy) -> NDArray[np.float32]:
        env = self._runner.env
        return policy.sample_actions([env.observe()], [env.instruction], [torch.Generator().manual_seed(0)])[0].actions

    def _swap(self, policy: Policy, running: Running) -> None:
        self._runner.use_policy(policy, checkpoint=running.checkpoint_id, speed_fraction=running.speed_fraction)
