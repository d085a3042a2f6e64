"""The four WidowX tasks in many environments at once: :mod:`envs.simpler.put_on` with a leading dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mani_skill.utils.structs import Pose
from torch import Tensor

from envs.simpler.assets import AssetSet
from envs.simpler.batched.robot import BatchedRobot
from envs.simpler.batched.scene import UNSEEN, BatchedScene, Starts, per_environment, waiting_pose
from envs.simpler.batched.widowx import BatchedWidowX
from envs.simpler.bodies import build_object, pose_vector
from envs.simpler.grasp import MIN_IMPULSE_NS
from envs.simpler.native import unwrap
from envs.simpler.put_on import SINK_ID, SINK_POSE, PutOnScene, Setup, put_on_flags
from envs.simpler.rules import judge_put_on

_DAMPING = (0.1, 0.1)  # as PutOnScene builds them


@dataclass(frozen=True, kw_only=True)
class PutOnStarts(Starts):
    """All episodes of the task's grid, E of them; source first, then target."""

    setup: Setup
    poses: Tensor
    """[E, 2, 7], position and w, x, y, z when the episode begins."""
    half_m: Tensor
    """[E, 2, 3], half their boxes along world axes."""


class BatchedPutOnScene(BatchedScene):
    """Two objects on each table, or a sink; arguments as :class:`envs.simpler.batched.scene.BatchedScene`.

    Options of ``reset``, in ``obj_init_options``: ``episode_id`` (one, or one per environment; ids wrap around).
    """

    starts: PutOnStarts

    @classmethod
    def prepare(cls, assets: AssetSet, *, setup: str) -> PutOnStarts:
        """Let the objects fall in each episode of the grid.

        Args:
            assets: as the base.
            setup: as :class:`envs.simpler.put_on.PutOnScene`.
        """
        scene = PutOnScene(setup=setup, assets=assets, **UNSEEN)
        poses, half_m = [], []
        for episode in range(scene.setup.num_episodes):
            scene.reset(seed=0, options={"obj_init_options": {"episode_id": episode}})
            poses.append([pose_vector(unwrap(actor).pose) for actor in (scene.task_object, scene.target_object)])
            half_m.append(scene.half_m)
        scene.close()
        return PutOnStarts(
            one=scene,
            setup=scene.setup,
            poses=torch.from_numpy(np.array(poses)),
            half_m=torch.from_numpy(np.array(half_m)).to(torch.float32),
        )

    def _build_robot(self, *scene: Any, **how: Any) -> BatchedRobot:
        return BatchedWidowX(*scene, uid=self.starts.setup.station.uid, urdf_file=self.assets.widowx_urdf(), **how)

    def _load_objects(self) -> None:
        setup = self.starts.setup
        self.source, self.target = (
            build_object(self.scene, self.assets.object_model(model), damping=_DAMPING, waits_at=waiting_pose(1 + number))
            for number, model in enumerate((setup.source, setup.target))
        )
        self._has_sink = SINK_ID in self.one.overlaid_objects
        if self._has_sink:
            self.sink = build_object(self.scene, self.assets.object_model(SINK_ID), damping=(0.0, 0.0), waits_at=SINK_POSE)
            self.sink.set_locked_motion_axes([True] * 6)
        self._poses, self._half_m = self.starts.poses.to(self.device), self.starts.half_m.to(self.device)
        self.episode_ids = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._grasped_steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def language_instructions(self) -> list[str]:
        """For example "put carrot on plate"."""
        return [self.starts.setup.instruction] * self.num_envs

    def _begin_episodes(
        self, env_idx: Tensor, seeds: list[int], object_options: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._place_robot_as_in_one()
        if self._has_sink:
            self.sink.set_pose(SINK_POSE)
        drawn = [self.starts.setup.draw_episode(np.random.RandomState(seed)) for seed in seeds]
        episodes = per_environment(object_options.get("episode_id"), drawn, "episode_id")
        self.episode_ids[env_idx] = torch.tensor(episodes, device=self.device) % self.starts.setup.num_episodes
        self._grasped_steps[env_idx] = 0
        poses = self._poses[self.episode_ids[env_idx]]
        for index, actor in enumerate((self.source, self.target)):
            actor.set_pose(Pose.create(poses[:, index]))

    def _judge(self) -> dict[str, Tensor]:
        setup = self.starts.setup
        source_center_m, target_center_m = ((actor.pose * actor.cmass_local_pose).p for actor in (self.source, self.target))
        is_free = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if setup.is_touch_checked:  # robot and target may touch it, and nothing else is there but the table
            touch = self.scene.get_pairwise_contact_impulses(self.source, self.arena)
            is_free = touch.norm(dim=-1) <= MIN_IMPULSE_NS
        self._grasped_steps, verdict = judge_put_on(
            self._grasped_steps,
            is_grasped=self.agent.is_grasping(self.source),
            source_center_m=source_center_m,
            target_center_m=target_center_m,
            target_m=self.target.pose.p,
            settled_m=self._poses[self.episode_ids][..., :3],
            half_m=self._half_m[self.episode_ids],
            gap_m=setup.gap_m,
            is_free=is_free,
        )
        return put_on_flags(verdict) | {"success": verdict.success}
