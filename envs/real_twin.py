"""A simulated environment under a robot's specification, so that one policy practises in both.

Hop 1 of the tour. Translation is linear, entry by entry, and written down in the configuration (``env.robot.twin``): what the
simulator calls ``dx = 20 * arm.dx`` is what the robot's policy calls ``arm.dx``. Nothing of it reaches a robot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, SpecError
from core.experience import Observation
from core.specs import EnvSpec
from envs.real_config import TwinConfig
from envs.task_env import TaskEnv, checked_action

_MAGNITUDE_LIMIT = 100.0
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NAME = r"[A-Za-z_][\w.]*"
_LINE = re.compile(
    rf"\s*(?P<target>{_NAME})\s*=\s*(?:(?:(?P<scale>{_NUMBER})\s*\*\s*)?(?P<source>{_NAME})\s*(?P<offset>[+-]\s*\d[\d.eE+-]*)?"
    rf"|(?P<constant>{_NUMBER}))\s*"
)


@dataclass(frozen=True)
class _Translation:
    """target = matrix @ source + offset."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def parsed(cls, lines: Sequence[str], *, targets: Sequence[str], sources: Sequence[str], key: str) -> _Translation:
        """From lines of the configuration, one for each target.

        Raises:
            ConfigError: naming the line, or the entries without one.
        """
        matrix, offset, found = np.zeros((len(targets), len(sources))), np.zeros(len(targets)), set()
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise ConfigError(f'{key} has {line!r}; expected "ENTRY = NUMBER * ENTRY + NUMBER" or "ENTRY = NUMBER"')
            target, source = match["target"], match["source"]
            if target not in targets or target in found or (source is not None and source not in sources):
                raise ConfigError(f"{key} has {line!r}; expected one line for each of {list(targets)}, made of {list(sources)}")
            found.add(target)
            row = targets.index(target)
            if source is not None:
                matrix[row, sources.index(source)] = float(match["scale"] or 1.0)
                offset[row] = float((match["offset"] or "0").replace(" ", ""))
            else:
                offset[row] = float(match["constant"])
        missing = [target for target in targets if target not in found]
        if missing:
            raise ConfigError(f"{key} says nothing of {missing}; expected a line for each, such as {missing[0] + ' = 0'!r}")
        return cls(matrix, offset)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        return (self.matrix @ values.astype(np.float64) + self.offset).astype(np.float32)


class TwinEnv:
    """Implements :class:`envs.task_env.TaskEnv`: actions come in the robot's units, observations go out under its names.

    Example:
        A robot with the camera "front" and ``env`` with one camera: its image is "front", scaled to the robot's size.
    """

    def __init__(self, env: TaskEnv, spec: EnvSpec, config: TwinConfig, *, instruction: str = "") -> None:
        """Take ownership of a simulated environment.

        Args:
            env: simulated; its cameras stand for the robot's, in their order.
            spec: of the robot.
            config: how they translate.
            instruction: what the robot is asked to do; empty: what the simulation asks for.

        Raises:
            ConfigError: if an entry has no translation, or more than one.
            SpecError: if they act at different rates, or the simulation has fewer cameras.
        """
        if env.env_spec.action.control_hz != spec.action.control_hz:
            raise SpecError(
                f"the twin {env.task} acts at {env.env_spec.action.control_hz:g} Hz, the robot at {spec.action.control_hz:g} Hz; "
                "set control_hz of the robot's supervisor, or take another twin: an action would mean two things"
            )
        if len(env.env_spec.cameras) < len(spec.cameras):
            raise SpecError(f"the twin {env.task} has {len(env.env_spec.cameras)} cameras; the robot has {len(spec.cameras)}")
        self.env_spec = spec
        self.family, self.task, self.asset_set = env.family, env.task, env.asset_set
        self.time_limit_steps = env.time_limit_steps
        self.simulated = env
        self._instruction = instruction
        inner = env.env_spec
        self._to_action = _Translation.parsed(
            config.action, targets=inner.action.names, sources=spec.action.names, key="env.robot.twin.action"
        )
        self._to_state = _Translation.parsed(
            config.state, targets=spec.state.names, sources=inner.state.names, key="env.robot.twin.state"
        )

    @property
    def instruction(self) -> str:
        """What the policy is asked to do now."""
        return self._instruction or self.simulated.instruction

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """See :class:`envs.task_env.TaskEnv`."""
        observation, info = self.simulated.reset(seed=seed, options=options)
        return self._translated(observation), info

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action [A] in the robot's units."""
        wanted = checked_action(action, self.env_spec.action, magnitude_limit=_MAGNITUDE_LIMIT)
        observation, reward, terminated, truncated, info = self.simulated.step(self._to_action(wanted))
        return self._translated(observation), reward, terminated, truncated, info

    def close(self) -> None:
        """Free the simulator."""
        self.simulated.close()

    def _translated(self, observation: Observation) -> Observation:
        names = (camera.name for camera in self.simulated.env_spec.cameras)
        images = {
            spec.name: cv2.resize(observation.images[name], (spec.width_px, spec.height_px), interpolation=cv2.INTER_AREA).astype(
                np.uint8, copy=False
            )
            for spec, name in zip(self.env_spec.cameras, names, strict=False)
        }
        return Observation(images=images, state=self._to_state(observation.state), time_s=observation.time_s)
