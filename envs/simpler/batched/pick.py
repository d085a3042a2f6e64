"""Picking one object in many environments at once: the four coke-can tasks of :mod:`envs.simpler.pick`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mani_skill.utils.structs import Pose
from torch import Tensor

from core.errors import ConfigError
from envs.simpler.assets import AssetSet
from envs.simpler.batched.scene import UNSEEN, BatchedScene, Starts, waiting_pose
from envs.simpler.bodies import build_object, drop_pose
from envs.simpler.grasp import MIN_IMPULSE_NS
from envs.simpler.pick import OBJECT_XY_HIGH_M, OBJECT_XY_LOW_M, ORIENTATIONS, PickScene, draw_orientation, orientation_key
from envs.simpler.rules import PickProgress, judge_pick
from envs.simpler.tasks import display_name

_DAMPING = (0.1, 0.1)  # as PickScene builds it


class SettledPose(NamedTuple):
    """How an object lies after its fall."""

    shift: tuple[float, float]
    """m, from where it was dropped."""
    height_m: float
    quaternion: tuple[float, ...]
    """w, x, y, z."""


@dataclass(frozen=True, kw_only=True)
class PickStarts(Starts):
    """How the object lies, by key of :data:`envs.simpler.pick.ORIENTATIONS`, and the task's other arguments."""

    settled: Mapping[str, SettledPose]
    model_id: str
    orientation: str | None
    require_lifting: bool
    success_from_stats: bool


class BatchedPickScene(BatchedScene):
    """One object on each table; arguments as :class:`envs.simpler.batched.scene.BatchedScene`.

    Options of ``reset``, in ``obj_init_options``: ``init_xy`` ([2], or [n, 2]), ``orientation``.
    """

    starts: PickStarts

    @classmethod
    def prepare(
        cls,
        assets: AssetSet,
        *,
        model_ids: tuple[str, ...],
        orientation: str | None = None,
        require_lifting_obj_for_success: bool = True,
        success_from_episode_stats: bool = True,
    ) -> PickStarts:
        """Let the object fall in each orientation, in the middle of the table.

        Args:
            assets: as the base.
            model_ids: exactly one: all environments have the same object.
            orientation: as :class:`envs.simpler.pick.PickScene`.
            require_lifting_obj_for_success: likewise.
            success_from_episode_stats: likewise.

        Raises:
            ConfigError: several objects.
        """
        if len(model_ids) != 1:
            raise ConfigError(f"model_ids={model_ids!r}; in batches all environments pick the same object, so name one")
        scene = PickScene(model_ids=model_ids, assets=assets, **UNSEEN)
        middle = (np.array(OBJECT_XY_LOW_M) + np.array(OBJECT_XY_HIGH_M)) / 2
        found = {}
        for key in ORIENTATIONS:
            scene.reset(seed=0, options={"obj_init_options": {"init_xy": middle.tolist(), "orientation": key}})
            pose = scene.task_pose()
            shift = pose.p[:2] - middle
            found[key] = SettledPose((float(shift[0]), float(shift[1])), float(pose.p[2]), tuple(pose.q.tolist()))
        scene.close()
        return PickStarts(
            one=scene,
            settled=found,
            model_id=model_ids[0],
            orientation=orientation,
            require_lifting=require_lifting_obj_for_success,
            success_from_stats=success_from_episode_stats,
        )

    def _load_objects(self) -> None:
        model = self.assets.object_model(self.starts.model_id)
        self.obj = build_object(self.scene, model, damping=_DAMPING, waits_at=waiting_pose(1))
        self._progress = PickProgress.start(self.num_envs, self.device)
        self.settled_height_m = torch.zeros(self.num_envs, device=self.device)

    def language_instructions(self) -> list[str]:
        """For example "pick coke can"."""
        return [f"pick {display_name(self.starts.model_id)}"] * self.num_envs

    def _begin_episodes(
        self, env_idx: Tensor, seeds: list[int], object_options: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._place_robot_as_in_one()
        wanted_xy = np.broadcast_to(object_options.get("init_xy", np.nan), (len(seeds), 2))
        positions, quaternions = [], []
        for seed, xy in zip(seeds, wanted_xy, strict=True):
            # Two streams from one seed, as upstream (envs.simpler.scene.SimplerScene.rng): equal seeds give equal episodes.
            name = object_options.get("orientation") or self.starts.orientation or draw_orientation(np.random.RandomState(seed))
            settled = self.starts.settled[orientation_key(name)]
            drawn = drop_pose(np.random.RandomState(seed), {}, OBJECT_XY_LOW_M, OBJECT_XY_HIGH_M).p[:2]
            x, y = np.where(np.isnan(xy), drawn, xy) + settled.shift
            positions.append((x, y, settled.height_m))
            quaternions.append(settled.quaternion)
        p, q = (torch.tensor(np.array(rows), dtype=torch.float32, device=self.device) for rows in (positions, quaternions))
        self.obj.set_pose(Pose.create_from_pq(p, q))
        self.settled_height_m[env_idx] = p[:, 2]
        is_kept = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        is_kept[env_idx] = False
        self._progress = PickProgress(*(counted * is_kept for counted in self._progress))

    def _judge(self) -> dict[str, Tensor]:
        touch = self.scene.get_pairwise_contact_impulses(self.obj, self.arena)
        self._progress, verdict = judge_pick(
            self._progress,
            is_grasped=self.agent.is_grasping(self.obj),
            is_free=touch.norm(dim=-1) <= MIN_IMPULSE_NS,
            rise_m=self.obj.pose.p[:, 2] - self.settled_height_m,
            require_lifting=self.starts.require_lifting,
            success_from_stats=self.starts.success_from_stats,
        )
        return {
            "is_grasped": verdict.is_grasped,
            "consecutive_grasp": verdict.is_grasped_long,
            "lifted_object": verdict.is_lifted,
            "lifted_object_significantly": verdict.is_lifted_significantly,
            "success": verdict.success,
        }
