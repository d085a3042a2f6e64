"""Opening and closing drawers in many environments at once: :mod:`envs.simpler.drawer` with a leading dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mani_skill.utils.structs import Pose
from torch import Tensor

from core.errors import ConfigError
from envs.simpler.assets import AssetSet
from envs.simpler.batched.scene import UNSEEN, BatchedScene, Starts, per_environment
from envs.simpler.drawer import (
    DRAWERS,
    DrawerScene,
    build_cabinet,
    draw_drawer,
    draw_standpoint,
    drawer_joints,
    first_position_m,
    photograph,
    robot_start,
)
from envs.simpler.rules import judge_drawer


@dataclass(frozen=True, kw_only=True)
class DrawerStarts(Starts):
    """Nothing falls here: the task's arguments."""

    verb: str
    drawers: tuple[str, ...]
    standpoints: tuple[str, ...]
    station_name: str

    @property
    def photographs(self) -> tuple[str, ...]:
        """One for each place where the robot may stand."""
        return tuple(photograph(standpoint) for standpoint in self.standpoints)


class BatchedDrawerScene(BatchedScene):
    """A cabinet in each environment; arguments as :class:`envs.simpler.batched.scene.BatchedScene`.

    Options of ``reset``: ``overlay_id`` (one, or one per environment).
    """

    starts: DrawerStarts

    @classmethod
    def prepare(cls, assets: AssetSet, *, verb: str, drawers: tuple[str, ...] = DRAWERS) -> DrawerStarts:
        """Read the numbers of the task.

        Args:
            assets: as the base.
            verb: ``open`` or ``close``.
            drawers: as :class:`envs.simpler.drawer.DrawerScene`.
        """
        scene = DrawerScene(verb=verb, drawers=drawers, assets=assets, **UNSEEN)
        scene.close()
        return DrawerStarts(one=scene, verb=verb, drawers=drawers, standpoints=scene.standpoints, station_name=scene.station_name)

    def _load_objects(self) -> None:
        self.cabinet = build_cabinet(self.scene, self.assets, self.starts.station_name)
        self._joint_index = torch.tensor(drawer_joints(self.cabinet), device=self.device)
        self.drawer_index = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        """[N], of the drawer that the instruction names, in :data:`envs.simpler.drawer.DRAWERS`."""
        starts = [robot_start(standpoint) for standpoint in self.starts.standpoints]
        poses = [[*start["init_xy"], self.one.root_height_m, *start["init_rot_quat"]] for start in starts]
        self._robot_poses = torch.tensor(poses, dtype=torch.float32, device=self.device)

    def language_instructions(self) -> list[str]:
        """For example "open top drawer"."""
        return [f"{self.starts.verb} {DRAWERS[index]} drawer" for index in self.drawer_index.tolist()]

    def _begin_episodes(
        self, env_idx: Tensor, seeds: list[int], object_options: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        known = self.starts.standpoints
        drawers, drawn = [], []
        for seed in seeds:
            stream = np.random.RandomState(seed)
            drawers.append(DRAWERS.index(draw_drawer(stream, self.starts.drawers)))
            drawn.append(draw_standpoint(stream, known))
        wanted = per_environment(options.get("overlay_id"), drawn, "overlay_id")
        for name in wanted:
            if name not in known:
                raise ConfigError(f"overlay_id={name!r}; known are {', '.join(known)}")
        places = torch.tensor([known.index(name) for name in wanted], device=self.device)
        self.drawer_index[env_idx] = torch.tensor(drawers, device=self.device)
        self._shown[env_idx] = places
        self.agent.robot.set_pose(Pose.create(self._robot_poses[places]))

        positions = torch.zeros(len(seeds), len(DRAWERS), device=self.device)
        rows = torch.arange(len(seeds), device=self.device)
        positions[rows, self._joint_index[self.drawer_index[env_idx]]] = first_position_m(self.starts.verb)
        self.cabinet.set_qpos(positions)
        self.cabinet.set_qvel(torch.zeros_like(positions))

    def drawer_positions(self) -> Tensor:
        """How far the drawers are out, [N, 3] m, in :data:`envs.simpler.drawer.DRAWERS` order."""
        return self.cabinet.get_qpos()[:, self._joint_index]

    def _judge(self) -> dict[str, Tensor]:
        rows = torch.arange(self.num_envs, device=self.device)
        position = self.drawer_positions()[rows, self.drawer_index]
        return {"qpos": position, "success": judge_drawer(position, verb=self.starts.verb)}
