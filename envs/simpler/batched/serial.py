"""Several batched scenes in turn, as if they were one: many environments on the CPU, whose physics knows one at a time.

Hop 1 of the tour, for trying out on any machine what will run on a GPU: the same calls, seeds and results. It is no faster than
the environments one by one; for speed on a CPU, use one process each (actors.evaluate).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.simpler.batched.scene import BatchedScene, checked_actions, expand_seeds, per_environment


class SerialScenes(gym.Env[dict[str, Any], Tensor]):
    """N scenes with one environment each; what :class:`envs.simpler.batched.scene.BatchedScene` offers to its wrapper.

    Args:
        scenes: of the same task and size.
    """

    reconfiguration_freq = 0

    def __init__(self, scenes: Sequence[BatchedScene]) -> None:
        self.scenes = list(scenes)
        self.num_envs = len(self.scenes)
        self.metadata = dict(self.scenes[0].metadata)
        self.device: torch.device = self.scenes[0].device
        self.single_observation_space = self.scenes[0].single_observation_space
        self.single_action_space = self.scenes[0].single_action_space
        self.observation_space = batch_space(self.single_observation_space, n=self.num_envs)
        self.action_space = batch_space(self.single_action_space, n=self.num_envs)
        self._latest: list[dict[str, Any]] = [{} for _ in self.scenes]

    @property
    def elapsed_steps(self) -> Tensor:
        """[N], since each episode began."""
        return torch.cat([scene.elapsed_steps for scene in self.scenes])

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As :meth:`envs.simpler.batched.scene.BatchedScene.reset`; options that differ are one per environment to reset."""
        options = dict(options or {})
        chosen = options.pop("env_idx", torch.arange(self.num_envs)).tolist()
        seeds = [None] * len(chosen) if seed is None else [[one] for one in expand_seeds(seed, len(chosen))]
        for place, env in enumerate(chosen):
            mine = option_of_one(options, place, len(chosen))
            self._latest[env], _ = self.scenes[env].reset(seed=seeds[place], options=mine)
        infos = [scene.get_info() for scene in self.scenes]
        return joined(self._latest), joined(infos) | {"reconfigure": False}

    def step(  # type: ignore[override]  # torch, one entry per environment, as ManiSkill's
        self, action: Any
    ) -> tuple[dict[str, Any], Tensor, Tensor, Tensor, dict[str, Any]]:
        """As :meth:`envs.simpler.batched.scene.BatchedScene.step`."""
        actions = checked_actions(action, self.scenes[0].one.embodiment.action, self.num_envs, self.device)
        results = [scene.step(actions[env : env + 1]) for env, scene in enumerate(self.scenes)]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        self._latest = list(observations)
        return joined(observations), torch.cat(rewards), torch.cat(terminated), torch.cat(truncated), joined(infos)

    def language_instructions(self) -> list[str]:
        """What the robot of each environment is asked to do."""
        return [text for scene in self.scenes for text in scene.language_instructions()]

    def close(self) -> None:
        """Release all scenes."""
        for scene in self.scenes:
            scene.close()


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Nested dictionaries of tensors with one entry each -> one with N entries each.

    Example:
        >>> joined([{"a": {"b": torch.tensor([1])}}, {"a": {"b": torch.tensor([2])}}])
        {'a': {'b': tensor([1, 2])}}
    """
    return {
        key: joined([part[key] for part in parts]) if isinstance(value, dict) else torch.cat([part[key] for part in parts])
        for key, value in parts[0].items()
    }


_DIMENSIONS = {"init_xy": 1}  # of one environment's value; others are single values


def option_of_one(options: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """One environment's share of options of ``reset``: what has one entry per environment is taken apart.

    Args:
        options: of all, nested.
        place: of the environment among those that are reset.
        count: how many these are.

    Raises:
        ConfigError: as many entries as neither one nor all need.

    Example:
        >>> option_of_one({"overlay_id": ["a0", "b1"], "obj_init_options": {"init_xy": [0.1, 0.2]}}, 1, 2)
        {'overlay_id': 'b1', 'obj_init_options': {'init_xy': [0.1, 0.2]}}
    """
    mine: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            mine[key] = option_of_one(value, place, count)
        elif np.ndim(value) > _DIMENSIONS.get(key, 0):
            mine[key] = per_environment(value, [None] * count, key)[place]
        else:
            mine[key] = value
    return mine
