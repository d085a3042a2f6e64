"""Chunks for a robot that does not wait: the next one is computed while the present one is played.

Hop 2 of the tour on a real robot: real-time chunking (Black et al. 2025, arXiv:2506.07339). The actions that will be played
during the computation are committed: a ``ContinuingPolicy`` draws a chunk that begins with them, any other is not told. Either
way they are skipped, and the chunk's rest takes over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.experience import ActionChunk
from models.policy import ContinuingPolicy, Policy

_log = logging.getLogger(__name__)
_BEGUN = 0.25
"""Of a period: the policy is asked, and its chunk is sent, so long into an action at the earliest, when the supervisor has surely
begun it: a chunk that came before would replace it, and the robot would stand for the rest of the period."""
_FORGETTING = 0.3
"""Weight of the newest computation in the estimate of how long one takes."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Actions to be sent now."""

    look: Any
    """What they were computed from (an ``envs.real.Look``)."""
    actions: NDArray[np.float32]
    """[h, A], without those that would be late."""
    start_s: float
    """Of the first."""
    policy_version: int
    num_late: int
    """Actions that were dropped because their time had passed."""


@dataclass(frozen=True, kw_only=True)
class _Playing:
    """A chunk that was sent; its actions have their times on a grid."""

    anchor_s: float
    """Where its action 0 belongs."""
    first: int
    """The first that was sent."""
    actions: NDArray[np.float32]
    """[H, A], those before ``first`` included."""

    @property
    def horizon(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, kw_only=True)
class _Computation:
    """A chunk that is under way."""

    look: Any
    begun_s: float
    anchor_s: float | None
    """On the grid of the chunk that was played meanwhile; None: nothing was, the robot stands until this one comes."""
    result: Future[ActionChunk]


class ChunkStream:
    """Decides when the policy is asked, and which actions of its answer are still to come.

    Consumes: looks. Produces: Proposals. Waits for: nothing; the executor computes. A computation is begun so early that
    ``replan_steps`` actions of a chunk have been played when the next takes over, judged by how long the last ones took.
    """

    def __init__(self, policy: Policy, *, control_hz: float, replan_steps: int, executor: Executor, seed: int) -> None:
        """``executor``: of one thread; ``seed``: of the episode's noise."""
        self._policy = policy
        self._period_s = 1 / control_hz
        self._replan_steps = replan_steps
        self._executor = executor
        self._generator = torch.Generator().manual_seed(seed)
        self._playing: _Playing | None = None
        self._computation: _Computation | None = None
        self._takes_s = 0.0
        self.num_late = 0
        """Actions dropped so far."""

    def advance(self, now: Callable[[], float], look: Callable[[], Any | None], instruction: str) -> Proposal | None:
        """Take what is computed, ask for what will be needed; called often.

        Args:
            now: the robot's clock, in seconds.
            look: gives what the policy sees (``envs.real.Look``), or None where its actions would not be taken.
            instruction: what the robot is asked to do.

        Raises:
            NonFiniteError, SpecError: whatever the policy raises.
        """
        proposal = self._taken(now) if self._is_computed(now()) else None
        if self._computation is None and now() >= self._due_s():
            seen = look()
            if seen is not None:
                self._computation = self._begun(seen, now(), instruction)
        return proposal

    def forget(self) -> None:
        """The robot was stopped or taken over: what is played and what is computed belongs to the past."""
        self._playing = None
        if self._computation is not None:
            self._computation.result.cancel()
            self._computation = None

    def _is_computed(self, now_s: float) -> bool:
        """Whether a chunk is there, and no action is just about to begin that it would replace."""
        computation = self._computation
        if computation is None or not computation.result.done():
            return False
        if computation.anchor_s is None:
            return True
        return ((now_s - computation.anchor_s) / self._period_s) % 1.0 >= _BEGUN

    def _due_s(self) -> float:
        playing = self._playing
        if playing is None:
            return -math.inf
        lag = math.ceil(self._takes_s / self._period_s)
        index = min(playing.first + max(0, self._replan_steps - lag), playing.horizon - 1 - lag)
        return playing.anchor_s + max(index, 0) * self._period_s + _BEGUN * self._period_s

    def _begun(self, look: Any, now_s: float, instruction: str) -> _Computation:
        playing, anchor_s, committed = self._playing, None, None
        if playing is not None and now_s < playing.anchor_s + playing.horizon * self._period_s:
            steps = math.floor((now_s - playing.anchor_s) / self._period_s + 1e-6)
            anchor_s = playing.anchor_s + steps * self._period_s
            begun = math.ceil((now_s + self._takes_s - anchor_s) / self._period_s - 1e-6)  # when the answer is there
            committed = playing.actions[steps : steps + min(begun, playing.horizon - 1)]
        result = self._executor.submit(self._sample, look.observation, instruction, committed)
        return _Computation(look=look, begun_s=now_s, anchor_s=anchor_s, result=result)

    def _sample(self, observation: Any, instruction: str, committed: NDArray[np.float32] | None) -> ActionChunk:
        asked = [observation], [instruction], [self._generator]
        if committed is not None and isinstance(self._policy, ContinuingPolicy):
            return self._policy.continue_actions(*asked, [committed])[0]
        return self._policy.sample_actions(*asked)[0]

    def _taken(self, now: Callable[[], float]) -> Proposal | None:
        computation, self._computation = self._computation, None
        assert computation is not None
        chunk, now_s = computation.result.result(), now()
        took_s = now_s - computation.begun_s
        self._takes_s = took_s if self._takes_s == 0 else self._takes_s + _FORGETTING * (took_s - self._takes_s)
        horizon = len(chunk.actions)
        anchor_s = now_s if computation.anchor_s is None else computation.anchor_s
        first = max(0, math.ceil((now_s - anchor_s) / self._period_s - 1e-6))
        self.num_late += min(first, horizon)
        if first >= horizon:
            _log.warning("a chunk took %.2f s, longer than its %d actions last; all of it is dropped", took_s, horizon)
            self._playing = None
            return None
        self._playing = _Playing(anchor_s=anchor_s, first=first, actions=chunk.actions)
        return Proposal(
            look=computation.look,
            actions=chunk.actions[first:],
            start_s=anchor_s + first * self._period_s,
            policy_version=chunk.policy_version,
            num_late=first,
        )
