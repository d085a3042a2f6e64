"""Picking one object in many environments at once: the four coke-can tasks of :mod:`envs.simpler.pick`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from mani_skill.utils.structs import Actor, Pose
from torch import Tensor

from core.errors import ConfigError
from envs.simpler.assets import AssetSet
from envs.simpler.batched.scene import BatchedScene
from envs.simpler.grasp import MIN_IMPULSE_NS
from envs.simpler.pick import OBJECT_XY_HIGH_M, OBJECT_XY_LOW_M, ORIENTATIONS, PickScene, draw_orientation, orientation_key
from envs.simpler.rules import PickProgress, judge_pick
from envs.simpler.scene import build_object, drop_pose

_DAMPING = (0.1, 0.1)  # as PickScene builds it


class SettledPose(NamedTuple):
    """How an object lies after its fall."""

    shift: tuple[float, float]
    """m, from where it was dropped."""
    height_m: float
    quaternion: tuple[float, ...]
    """w, x, y, z."""


def settle_once(assets: AssetSet, model_id: str) -> dict[str, SettledPose]:
    """Let an object fall in each orientation, in a scene with one environment in the middle of the table.

    Returns:
        Key of :data:`envs.simpler.pick.ORIENTATIONS` -> how it lies.
    """
    scene = PickScene(model_ids=(model_id,), assets=assets, obs_size=(8, 8), urdf_version="", render=False)
    middle = (np.array(OBJECT_XY_LOW_M) + np.array(OBJECT_XY_HIGH_M)) / 2
    found = {}
    for orientation in ORIENTATIONS:
        scene.reset(seed=0, options={"obj_init_options": {"init_xy": middle.tolist(), "orientation": orientation}})
        pose = scene.task_pose()
        shift = pose.p[:2] - middle
        found[orientation] = SettledPose((float(shift[0]), float(shift[1])), float(pose.p[2]), tuple(pose.q.tolist()))
    scene.close()
    return found


class BatchedPickScene(BatchedScene):
    """One object on each table.

    Args:
        model_ids: exactly one: all environments have the same object.
        orientation: as :class:`envs.simpler.pick.PickScene`.
        require_lifting_obj_for_success: likewise.
        success_from_episode_stats: likewise.
        assets: likewise.
        **scene: see :class:`envs.simpler.batched.scene.BatchedScene`.
    """

    one = PickScene

    def __init__(
        self,
        *,
        model_ids: tuple[str, ...],
        assets: AssetSet,
        orientation: str | None = None,
        require_lifting_obj_for_success: bool = True,
        success_from_episode_stats: bool = True,
        **scene: Any,
    ) -> None:
        if len(model_ids) != 1:
            raise ConfigError(f"model_ids={model_ids!r}; in batches all environments pick the same object, so name one")
        (self.model_id,) = model_ids
        self._task_orientation = orientation
        self._require_lifting = require_lifting_obj_for_success
        self._success_from_stats = success_from_episode_stats
        self._settled = settle_once(assets, self.model_id)
        super().__init__(assets=assets, **scene)

    def _load_objects(self) -> None:
        self.obj = build_object(self.scene, self.assets.object_model(self.model_id), damping=_DAMPING)
        self._progress = PickProgress.start(self.num_envs, self.device)
        self.settled_height_m = torch.zeros(self.num_envs, device=self.device)

    @property
    def task_objects(self) -> list[Actor]:
        """The object to pick."""
        return [self.obj]

    def _place_objects(self, env_idx: Tensor, seeds: list[int], options: dict[str, Any]) -> None:
        """As the base; ``options["obj_init_options"]``: ``init_xy`` ([2], or [n, 2]), ``orientation``."""
        object_options = options.get("obj_init_options") or {}
        wanted_xy = np.broadcast_to(object_options.get("init_xy", np.nan), (len(seeds), 2))
        positions, quaternions = [], []
        for seed, xy in zip(seeds, wanted_xy, strict=True):
            # Two streams from one seed, as upstream (envs.simpler.scene.SimplerScene.rng): equal seeds give equal episodes.
            name = object_options.get("orientation") or self._task_orientation or draw_orientation(np.random.RandomState(seed))
            settled = self._settled[orientation_key(name)]
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
            require_lifting=self._require_lifting,
            success_from_stats=self._success_from_stats,
        )
        return {
            "is_grasped": verdict.is_grasped,
            "consecutive_grasp": verdict.is_grasped_long,
            "lifted_object": verdict.is_lifted,
            "lifted_object_significantly": verdict.is_lifted_significantly,
            "success": verdict.success,
        }
