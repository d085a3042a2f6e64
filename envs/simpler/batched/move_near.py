"""Moving one object next to another in many environments at once: :mod:`envs.simpler.move_near` with a leading dimension.

What exists in a GPU scene cannot change, and episodes differ in their objects. So every environment has all the models of the
grid; those that an episode does not need wait out of sight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mani_skill.utils.structs import Pose
from torch import Tensor

from envs.simpler.assets import AssetSet
from envs.simpler.batched.scene import UNSEEN, BatchedScene, Starts, per_environment, waiting_pose
from envs.simpler.bodies import build_object, pose_vector
from envs.simpler.move_near import (
    NUM_EPISODES,
    MoveNearScene,
    arrangement,
    check_episode,
    draw_episode,
    make_matt,
    move_near_flags,
)
from envs.simpler.native import unwrap
from envs.simpler.rules import judge_move_near

_DAMPING = (0.1, 0.1)  # as MoveNearScene builds them


@dataclass(frozen=True, kw_only=True)
class MoveNearStarts(Starts):
    """All episodes of the grid, E of them, with M models."""

    densities: Mapping[str, float | None]
    """Of each model, kg/m^3; None: the asset set's. Their order numbers the models."""
    is_matt: bool
    poses: Tensor
    """[E, M, 7], position and w, x, y, z of every model when the episode begins; waiting ones among them."""
    is_present: Tensor
    """[E, M] bool."""
    roles: Tensor
    """[E, 2] int: source and target."""
    reach_m: Tensor
    """[E]: sum of their half diagonals."""
    instructions: tuple[str, ...]


class BatchedMoveNearScene(BatchedScene):
    """Three objects on each table; arguments as :class:`envs.simpler.batched.scene.BatchedScene`.

    Options of ``reset``, in ``obj_init_options``: ``episode_id`` (one, or one per environment).
    """

    starts: MoveNearStarts

    @classmethod
    def prepare(cls, assets: AssetSet, *, textures: str) -> MoveNearStarts:
        """Let the objects of each triplet fall at each pattern of places.

        Args:
            assets: as the base.
            textures: as :class:`envs.simpler.move_near.MoveNearScene`.
        """
        scene = MoveNearScene(textures=textures, assets=assets, **UNSEEN)
        arrangements = [arrangement(episode_id, textures) for episode_id in range(NUM_EPISODES)]
        densities = {
            model: density for found in arrangements for model, density in zip(found.model_ids, found.densities, strict=True)
        }
        numbers = {model: number for number, model in enumerate(densities)}
        poses = np.stack([pose_vector(waiting_pose(1 + number)) for number in numbers.values()])
        poses = np.repeat(poses[None], NUM_EPISODES, axis=0)
        is_present = np.zeros(poses.shape[:2], dtype=bool)
        reach_m, instructions = np.zeros(NUM_EPISODES), []
        fallen: dict[Any, tuple[Any, Any]] = {}  # who is source does not matter to how things fall
        for episode, found in enumerate(arrangements):
            scene.arrangement = found
            instructions.append(scene.language_instruction())
            if (found.model_ids, found.xy_m) not in fallen:
                scene.reset(seed=0, options={"obj_init_options": {"episode_id": episode}})
                fallen[found.model_ids, found.xy_m] = (
                    [pose_vector(unwrap(actor).pose) for actor in scene.episode_objs],
                    [scene.half_diagonal_m(index) for index in range(len(scene.episode_objs))],
                )
            lying, half_m = fallen[found.model_ids, found.xy_m]
            models = [numbers[model] for model in found.model_ids]
            poses[episode, models], is_present[episode, models] = lying, True
            reach_m[episode] = half_m[found.source] + half_m[found.target]
        scene.close()
        roles = [[numbers[found.model_ids[index]] for index in (found.source, found.target)] for found in arrangements]
        return MoveNearStarts(
            one=scene,
            densities=densities,
            is_matt=textures == "v1",
            poses=torch.from_numpy(poses),
            is_present=torch.from_numpy(is_present),
            roles=torch.tensor(roles),
            reach_m=torch.tensor(reach_m, dtype=torch.float32),
            instructions=tuple(instructions),
        )

    def _load_objects(self) -> None:
        self.objects = [
            build_object(
                self.scene,
                self.assets.object_model(model),
                damping=_DAMPING,
                density=density,
                waits_at=waiting_pose(1 + number),
            )
            for number, (model, density) in enumerate(self.starts.densities.items())
        ]
        if self.starts.is_matt and self.scene.can_render():
            for actor in self.objects:
                make_matt(actor)
        tables = (self.starts.poses, self.starts.is_present, self.starts.roles, self.starts.reach_m)
        self._poses, self._is_present, self._roles, self._reach_m = (table.to(self.device) for table in tables)
        self.episode_ids = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def language_instructions(self) -> list[str]:
        """For example "move 7up can near sponge"."""
        return [self.starts.instructions[episode] for episode in self.episode_ids.tolist()]

    def _begin_episodes(
        self, env_idx: Tensor, seeds: list[int], object_options: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._place_robot_as_in_one()
        drawn = [draw_episode(np.random.RandomState(seed)) for seed in seeds]
        episodes = [check_episode(int(one)) for one in per_environment(object_options.get("episode_id"), drawn, "episode_id")]
        self.episode_ids[env_idx] = torch.tensor(episodes, device=self.device)
        poses = self._poses[self.episode_ids[env_idx]]
        for model, actor in enumerate(self.objects):
            actor.set_pose(Pose.create(poses[:, model]))

    def _judge(self) -> dict[str, Tensor]:
        source, target = self._roles[self.episode_ids].unbind(dim=1)
        return move_near_flags(
            judge_move_near(
                positions_m=torch.stack([actor.pose.p for actor in self.objects], dim=1),
                centers_m=torch.stack([(actor.pose * actor.cmass_local_pose).p for actor in self.objects], dim=1),
                settled_m=self._poses[self.episode_ids][..., :3],
                is_present=self._is_present[self.episode_ids],
                source=source,
                target=target,
                reach_m=self._reach_m[self.episode_ids],
            )
        )
