"""A ten-step reaching task on a grid whose optimal return is known in closed form; for tests and for trying things out.

A red square (the hand) must reach a green one (the goal). An action moves the hand by at most one cell an axis; the
task is solved within half a cell. From start s and goal g the optimal number of steps is
``n* = max(1, ceil(max_i |g_i - s_i| - 1/2))``, and with RECAP's reward of -1 a step and 0 at success the optimal return
is ``-(n* - 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.experience import Observation
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from envs.task_env import ExpertAction, checked_action

_HALF_WIDTH_CELLS = 4.0
_CONTROL_HZ = 5.0


class ReachEnv:
    """The task; implements :class:`envs.task_env.TaskEnv`."""

    family = "fake"
    asset_set = "none"
    time_limit_steps = 10
    instruction = "reach the green square"

    def __init__(self, task: str = "reach", *, image_height_px: int = 128, image_width_px: int = 160) -> None:
        if task != "reach":
            raise ConfigError(f"unknown task {task!r} of the fake environment; there is one: 'reach'")
        self.task = task
        self.env_spec = EnvSpec(
            cameras=(CameraSpec(name="camera", height_px=image_height_px, width_px=image_width_px),),
            state=StateSpec(names=("x", "y"), units=("cell", "cell")),
            action=ActionSpec(
                names=("dx", "dy"), units=("cell", "cell"), low=(-1.0, -1.0), high=(1.0, 1.0), control_hz=_CONTROL_HZ
            ),
        )
        self.hand = np.zeros(2)
        self.goal = np.zeros(2)
        self._steps = 0

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Draw start and goal; ``options`` may hold ``hand`` and ``goal``, in cells."""
        rng = np.random.default_rng(seed)
        self.hand, self.goal = rng.uniform(-_HALF_WIDTH_CELLS, _HALF_WIDTH_CELLS, 2), rng.uniform(-2.0, 2.0, 2)
        for name in ("hand", "goal"):
            if options and name in options:
                setattr(self, name, np.asarray(options[name], dtype=float))
        self._steps = 0
        return self._observation(), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the hand."""
        move = checked_action(action, self.env_spec.action, magnitude_limit=100.0)
        self.hand = np.clip(self.hand + np.clip(move, -1.0, 1.0), -_HALF_WIDTH_CELLS, _HALF_WIDTH_CELLS)
        self._steps += 1
        success = bool(np.abs(self.goal - self.hand).max() <= 0.5)
        truncated = self._steps >= self.time_limit_steps
        judged = {"success": success, "judged_failure": truncated and not success}
        return self._observation(), float(success), success, truncated, judged

    def close(self) -> None:
        """Nothing to free."""

    def optimal_steps(self) -> int:
        """Steps that an optimal policy needs from here."""
        return max(1, math.ceil(float(np.abs(self.goal - self.hand).max()) - 0.5))

    def _observation(self) -> Observation:
        camera = self.env_spec.cameras[0]
        image = np.full((camera.height_px, camera.width_px, 3), 40, np.uint8)
        self._paint(image, self.goal, (40, 200, 80))
        self._paint(image, self.hand, (220, 60, 50))
        return Observation(images={camera.name: image}, state=self.hand.astype(np.float32), time_s=self._steps / _CONTROL_HZ)

    def _paint(self, image: NDArray[np.uint8], cell: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
        height, width, _ = image.shape
        centre = (cell + _HALF_WIDTH_CELLS + 0.5) / (2 * _HALF_WIDTH_CELLS + 1)
        half = np.array([width, height]) / (2 * (2 * _HALF_WIDTH_CELLS + 1))
        low = np.round(centre * [width, height] - half).astype(int).clip(0)
        high = np.round(centre * [width, height] + half).astype(int)
        image[low[1] : high[1], low[0] : high[0]] = colour


class ScriptedReacher:
    """Moves straight to the goal; the ``mixed`` quality adds noise, pauses, and episodes that aim elsewhere."""

    def __init__(self, *, seed: int, quality: str = "clean") -> None:
        if quality not in ("clean", "mixed"):
            raise ConfigError(f"unknown expert quality {quality!r}; known are 'clean' and 'mixed'")
        self._rng = np.random.default_rng(seed)
        self._is_mixed = quality == "mixed"
        self._env: ReachEnv | None = None
        self._aim_error = np.zeros(2)
        self._noise = 0.0
        self._pause_probability = 0.0

    def reset(self, env: Any) -> None:
        """Draw this episode's quality."""
        self._env = env
        if self._is_mixed:
            self._aim_error = self._rng.normal(0.0, 1.0, 2) * self._rng.choice([0.0, 1.5], p=[0.6, 0.4])
            self._noise = float(self._rng.uniform(0.0, 0.5))
            self._pause_probability = float(self._rng.choice([0.0, 0.5]))

    def act(self) -> ExpertAction:
        """Head for the goal, or for where it is believed to be."""
        assert self._env is not None, "reset comes first"
        intended = np.clip(self._env.goal + self._aim_error - self._env.hand, -1.0, 1.0)
        is_pause = self._rng.uniform() < self._pause_probability
        if is_pause:
            intended = np.zeros(2)
        executed = np.clip(intended + self._rng.normal(0.0, 1.0, 2) * self._noise, -1.0, 1.0)
        return ExpertAction(
            executed=executed.astype(np.float32),
            intended=intended.astype(np.float32),
            phase="pause" if is_pause else "reach",
        )

    def annotations(self) -> Mapping[str, Any]:
        """The quality that was drawn."""
        return {
            "aim_error_cells": self._aim_error.tolist(),
            "noise": self._noise,
            "pause_probability": self._pause_probability,
        }
