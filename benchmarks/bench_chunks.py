"""What does it cost a policy to compute while the robot moves, and what does it help to tell it what is played meanwhile?

Plays the shipped policy in SIMPLER as a robot that does not wait would: an answer comes some steps after its observation, the
old chunk plays on until then. Time is counted in steps, so the result does not depend on this computer's speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from actors.outcomes import Outcome, summarise
from actors.players import Decision
from actors.rollout_worker import RolloutConfig, RolloutWorker
from benchmarks.report import write_report
from configs.build import load_policy
from configs.load import load_config
from core.experience import EpisodeEnd, Observation, Source
from envs.make import make_env
from models.videovla import VideoVla

WEIGHTS = Path(__file__).resolve().parents[1] / "weights/simpler_google/policy"
REPLAN_STEPS = 3
NUM_EPISODES = 40
MODES = (
    ("the robot waits for each chunk", 0, False),
    ("1 step late, not told", 1, False),
    ("1 step late, told", 1, True),
    ("3 steps late, not told", 3, False),
    ("3 steps late, told", 3, True),
)


class LatePlayer:
    """Plays chunks whose answers come late; the first of an episode the robot waits for."""

    def __init__(self, policy: VideoVla, *, late_steps: int, is_told: bool) -> None:
        self._policy = policy
        self._late_steps = late_steps
        self._is_told = is_told
        self.jumps: list[float] = []
        """Metres: between the first action of a chunk that takes over and the one that was played before it."""

    def begin(self, env: Any, seed: int) -> None:
        """Forget the last episode."""
        del env
        self._generator = torch.Generator().manual_seed(seed)
        self._playing: NDArray[np.float32] | None = None
        self._next: NDArray[np.float32] | None = None
        self._index = 0

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """The next action; the policy is asked so early that ``REPLAN_STEPS`` of each chunk are played."""
        asked = [observation], [instruction], [self._generator]
        if self._playing is None:
            self._playing = self._policy.sample_actions(*asked)[0].actions
        self._take_over()
        if self._next is None and self._index >= REPLAN_STEPS:
            committed = self._playing[self._index : self._index + self._late_steps]
            chunk = self._policy.continue_actions(*asked, [committed]) if self._is_told else self._policy.sample_actions(*asked)
            self._next, self._begun = chunk[0].actions, self._index
            self._take_over()
        action = self._playing[self._index]
        self._index += 1
        return Decision(executed_action=action, source=Source.POLICY, policy_action=action, policy_version=0)

    def _take_over(self) -> None:
        """If the answer is there."""
        if self._playing is None or self._next is None or self._index - self._begun < self._late_steps:
            return
        place = self._index - self._begun
        self.jumps.append(float(np.linalg.norm((self._next[place] - self._playing[self._index - 1])[:3])))
        self._playing, self._next, self._index = self._next, None, place

    def annotations(self) -> Mapping[str, Any]:
        """None."""
        return {}


def main() -> None:
    """Play every mode on the same scenes."""
    config = load_config(family="simpler_google")
    policy = load_policy(WEIGHTS)
    assert isinstance(policy, VideoVla)
    rows = []
    for name, late_steps, is_told in MODES:
        player = LatePlayer(policy, late_steps=late_steps, is_told=is_told)
        worker = RolloutWorker(make_env(config.env), player, RolloutConfig())
        episodes = [worker.run_episode(seed) for seed in track(range(NUM_EPISODES), name)]
        summary = summarise(
            Outcome(
                seed=episode.provenance.seed,
                is_success=bool(episode.end is EpisodeEnd.SUCCESS),
                is_success_once=bool(episode.end is EpisodeEnd.SUCCESS),
                num_steps=episode.num_steps,
            )
            for episode in episodes
        )
        jumps = (f"{1000 * np.quantile(player.jumps, q):.1f}" for q in (0.5, 0.95))
        rows.append((name, summary.text, *jumps))
    write_report(
        "chunks",
        question="Computing while the robot moves: success, and the jump where a chunk takes over",
        headings=("the policy's answers", "success, Wilson 95 %", "jump, median, mm", "95 %"),
        rows=rows,
        notes=(
            f"Shipped tiny policy, standing can, `builtin` assets, the same {NUM_EPISODES} seeds in every row; the policy "
            f"is asked {REPLAN_STEPS} actions into each chunk of {policy.config.action_horizon}; a step is "
            f"{1000 / policy.env_spec.action.control_hz:.0f} ms.",
            "Told: the actions that are played until the answer comes are given to the policy, whose chunk begins with them "
            "(`ContinuingPolicy`, real-time chunking's prefix freezing).",
            "Jump: how much the commanded translation a step changes where a new chunk takes over.",
        ),
    )
