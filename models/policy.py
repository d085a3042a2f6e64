"""The policy interface: what actors call to act and learners call to train.

Hop 2 of the tour: Observations -> ActionChunks; hop 8: windows -> a loss per example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from core.experience import ActionChunk, Observation
from core.specs import EnvSpec
from core.windows import WindowBatch, WindowSpec


@dataclass(frozen=True, kw_only=True)
class ExampleLoss:
    """A loss before it is weighted and averaged."""

    per_example: torch.Tensor
    """[B], differentiable."""
    metrics: Mapping[str, float]
    """Unweighted means for the log, for example ``{"action_loss": 0.13, "video_loss": 0.4}``."""


class Policy(Protocol):
    """A policy that can act and be trained.

    The loop that calls it (actors/rollout_worker.py)::

        chunks = policy.sample_actions([observation], [instruction], [generator])
        for action in chunks[0].actions[:replan_steps]: env.step(action)

    and the loop that trains it (learners/policy_learner.py)::

        loss = policy.loss(windows, indicator, generator)
        (weight * loss.per_example).sum().div(weight.sum() + 1e-6).backward()
    """

    env_spec: EnvSpec
    window_spec: WindowSpec
    version: int

    def sample_actions(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[ActionChunk]:
        """Draw one action chunk an observation; conditioned on a positive advantage where the policy knows the indicator.

        One generator an observation, so that an episode's actions do not depend on what it was batched with.

        Raises:
            SpecError: if an observation does not match ``env_spec``.
            NonFiniteError: if an action is not finite.
        """
        ...

    def loss(self, windows: WindowBatch, indicator: NDArray[np.int8], generator: torch.Generator) -> ExampleLoss:
        """Training loss of each window.

        Args:
            windows: cut by ``window_spec``.
            indicator: [B], values of core.labels.Indicator.
            generator: draws noise and diffusion times.
        """
        ...

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and a JSON-like manifest from which ``models.presets.from_checkpoint`` rebuilds this policy exactly."""
        ...


@runtime_checkable
class ContinuingPolicy(Protocol):
    """Of policies whose chunks can go on from actions that are already on their way, so that nothing jumps in between."""

    def continue_actions(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        generators: Sequence[torch.Generator],
        committed: Sequence[NDArray[np.float32]],
    ) -> list[ActionChunk]:
        """As :meth:`Policy.sample_actions`, of chunks that begin with given actions.

        Args:
            observations: one a chunk.
            instructions: one a chunk.
            generators: one a chunk.
            committed: one a chunk, [d, A], 0 <= d < H, in the units of ``env_spec``: what the robot does from the observation on
                whatever is answered; the chunk's first d actions are these.

        Raises:
            SpecError, NonFiniteError: as there, and for committed actions of another shape, or not finite.
        """
        ...


class VideoPolicy(Policy, Protocol):
    """A policy that also predicts what it will see."""

    def imagine(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[Mapping[str, NDArray[np.uint8]]]:
        """The frames the policy expects, an observation: camera name -> uint8 [F, H, W, 3], F future frames."""
        ...
