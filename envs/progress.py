"""Ground-truth progress of tasks that can measure it: what value models are judged by, and nobody learns from.

Beside hop 1 of the tour. A number that grows as the task gets done, in a unit of its own: only its changes are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_LIFT_WEIGHT = 2.0
"""A centimetre of lift counts as much as two of approach."""


def progress_measure(env: Any) -> Callable[[], float] | None:
    """A function that measures the present progress of ``env`` (a TaskEnv); None where its family has no measure.

    SIMPLER's pick tasks: metres that the gripper is nearer to the object, and twice the metres the object was lifted.
    The fake task: cells that the hand is nearer to the goal.
    """
    if env.family == "simpler_google" and "pick" in env.task:
        return _PickProgress(env)
    if env.family == "fake":
        return lambda: -float(np.abs(env.goal - env.hand).max())
    return None


class _PickProgress:
    """Starts anew where the object's height jumps back: the first measurement after a reset sets the floor."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._floor_m = np.inf

    def __call__(self) -> float:
        tcp, target = self._env.tcp_pose().world[:3], self._env.object_pose().world[:3]
        if self._env.gym_env.elapsed_steps == 0:
            self._floor_m = float(target[2])
        lift_m = max(0.0, float(target[2]) - self._floor_m)
        return -float(np.linalg.norm(tcp - target)) + _LIFT_WEIGHT * lift_m
