"""Players that know nothing: the floor that any policy is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.players import Decision
from core.experience import Observation, Source


class HoldPlayer:
    """Does nothing: zeros, in every entry that may be zero."""

    def begin(self, env: Any, seed: int) -> None:
        """Read what doing nothing means here."""
        spec = env.env_spec.action
        self._action = np.clip(np.zeros(spec.dim), spec.low, spec.high).astype(np.float32)

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """Zeros."""
        return Decision(executed_action=self._action, source=Source.HOLD)

    def annotations(self) -> Mapping[str, Any]:
        """None."""
        return {}


class RandomPlayer:
    """Draws every action uniformly within its limits."""

    def begin(self, env: Any, seed: int) -> None:
        """The episode's actions depend on its seed alone."""
        self._spec = env.env_spec.action
        self._rng = np.random.default_rng(seed)

    def decide(self, observation: Observation, instruction: str) -> Decision:
        """A uniform draw."""
        action = self._rng.uniform(self._spec.low, self._spec.high).astype(np.float32)
        return Decision(executed_action=action, source=Source.SCRIPTED)

    def annotations(self) -> Mapping[str, Any]:
        """None."""
        return {}
