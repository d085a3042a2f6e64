"""The cabinet with three drawers: opening and closing one (8 public tasks).

Hop 1 of the tour. An episode succeeds while the drawer named in the instruction is out by 15 cm (open) or in to 5 cm
(close). The handles are only drawn, as upstream: a policy has to work on the panels. Under ``prepackaged_config`` the robot
stands at one of the nine places from which the real cabinet was photographed, and the photograph taken there is behind it.

Differs from upstream: ray tracing is replaced by the raster shader that all other tasks use, the cabinet is put at rest at
reset (upstream sets its joint positions only), and ``rgb_overlay_path`` names the photograph that is really shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.structs import Articulation
from transforms3d.euler import euler2quat
from transforms3d.quaternions import qmult

from core.errors import ConfigError
from envs.simpler.assets import AssetSet, Box, Stage
from envs.simpler.bodies import pose_vector
from envs.simpler.google_robot import URDF_VARIANTS
from envs.simpler.native import unwrap
from envs.simpler.rules import judge_drawer
from envs.simpler.scene import SimplerScene
from envs.simpler.standpoints import STANDPOINTS

DRAWERS = ("top", "middle", "bottom")
"""From above; also the order of the cabinet's joints, :attr:`CabinetScene.drawer_positions`."""
_AJAR_M = 0.2  # where the drawer to close begins
_CABINET_POSE = sapien.Pose([-0.295, 0.0, 0.017])
_JOINT_FRICTION, _JOINT_DAMPING = 0.05, 1.0
_LIGHT_ANGLE_RAD = np.deg2rad(75)
_FLOOR = Stage(
    name="dummy_drawer",
    boxes=(Box(half_size=(10.0, 10.0, 0.017), center=(0.0, 0.0, 0.0), color=(1.0, 1.0, 1.0), is_solid=False),),
    position=(1.6616, 3.0337, 0.0),
)
"""Upstream's white slab, under the photograph except with ``rgb_overlay_mode="none"``."""


def draw_drawer(stream: np.random.RandomState, drawers: Sequence[str]) -> str:
    """The drawer of an episode; the first draw of its stream."""
    return str(stream.choice(list(drawers)))


def draw_standpoint(stream: np.random.RandomState, standpoints: Sequence[str]) -> str:
    """Where the robot stands in an episode whose caller does not say."""
    return standpoints[int(stream.choice(len(standpoints)))]


def robot_start(overlay_id: str) -> dict[str, Any]:
    """Position (x, y) and orientation of the robot at one of :data:`envs.simpler.standpoints.STANDPOINTS`."""
    standpoint = STANDPOINTS[overlay_id]
    turned = qmult(euler2quat(0.0, 0.0, standpoint.yaw), [0.0, 0.0, 0.0, 1.0])
    return {"init_xy": [standpoint.x, standpoint.y], "init_rot_quat": turned}


def photograph(overlay_id: str) -> str:
    """Name of the picture that was taken there."""
    return f"open_drawer_{overlay_id}"


def first_position_m(verb: str) -> float:
    """How far the drawer of the instruction is out when an episode begins."""
    return _AJAR_M if verb == "close" else 0.0


def build_cabinet(scene: Any, assets: AssetSet, station_name: str) -> Articulation:
    """The cabinet, in each of a ManiSkill scene's environments."""
    loader = scene.create_urdf_loader()
    loader.fix_root_link = True
    loader.name = "cabinet"
    (builder,) = loader.parse(str(assets.cabinet_urdf(station_name)))["articulation_builders"]
    builder.initial_pose = _CABINET_POSE
    cabinet: Articulation = builder.build()
    for joint in cabinet.active_joints:
        joint.set_friction(_JOINT_FRICTION)
        joint.set_drive_properties(0.0, _JOINT_DAMPING)
    return cabinet


def drawer_joints(cabinet: Articulation) -> list[int]:
    """Where the joints of :data:`DRAWERS` are among the cabinet's active ones."""
    names = [joint.name for joint in cabinet.active_joints]
    return [names.index(f"{drawer}_drawer_joint") for drawer in DRAWERS]


class CabinetScene(SimplerScene):
    """A scene with the cabinet; what opening, closing and placing share.

    Args:
        drawers: which to draw from, names of :data:`DRAWERS`.
        scene_name: stage; only looked at, the robot and the cabinet stand on nothing.
        station_name: the cabinet's look.
        light_mode: ``simple``, ``vertical``, ``darker``, ``brighter`` or None; all but ``simple`` cast a shadow.
        disable_bad_material: leave the robot as matt as its files say.
        prepackaged_config: the visual-matching evaluation; replaces the four before it.
        **scene: see :class:`envs.simpler.scene.SimplerScene`.
    """

    overlay_name = "open_drawer_a0"
    is_stage_solid = False
    standpoints: tuple[str, ...] = tuple(STANDPOINTS)

    def __init__(
        self,
        *,
        drawers: tuple[str, ...] = DRAWERS,
        scene_name: str = "google_pick_coke_can_1_v4",
        station_name: str = "mk_station",
        light_mode: str | None = None,
        disable_bad_material: bool = False,
        prepackaged_config: bool = True,
        **scene: Any,
    ) -> None:
        if prepackaged_config:
            scene_name, station_name, light_mode, disable_bad_material = _FLOOR.name, "mk_station_recolor", "simple", True
        self.drawers = drawers
        self.drawer_id = drawers[0]
        self.stage_name = scene_name
        self.station_name = station_name
        self.light_mode = light_mode
        self.glossy_robot = not disable_bad_material
        if light_mode == "simple":
            self.ambient_light, self.lights = 1.0, (((-np.cos(_LIGHT_ANGLE_RAD), 0.0, -np.sin(_LIGHT_ANGLE_RAD)), 1.0),)
        self._clear_progress()
        super().__init__(prepackaged_config=prepackaged_config, **scene)

    # -- building ------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """Under ``prepackaged_config`` nothing but a slab."""
        return _FLOOR if self.stage_name == _FLOOR.name else super().stage

    def _load_objects(self) -> None:
        self.cabinet = build_cabinet(self.scene, self.assets, self.station_name)
        self._native_cabinet = unwrap(self.cabinet)
        self.cabinet_links = {link.name: link for link in self.cabinet.links}
        self._joint_index = drawer_joints(self.cabinet)

    def _load_lighting(self, options: dict[str, Any]) -> None:
        if self.light_mode == "simple":
            super()._load_lighting(options)
            return
        self.scene.set_ambient_light([0.3, 0.3, 0.3])
        direction = [-0.1 if self.light_mode == "vertical" else -0.2, 0.0, -1.0]
        strength = {"darker": 0.5, "brighter": 2.0}.get(self.light_mode or "", 1.0)
        self.scene.add_directional_light(direction, [strength] * 3, shadow=True, shadow_scale=5, shadow_map_size=2048)
        for side in (1.0, -1.0):
            self.scene.add_directional_light([-1.0, side, -0.05], [0.5, 0.5, 0.5])

    # -- resetting -----------------------------------------------------------------------------------------------

    def _choose_models(self, options: dict[str, Any]) -> bool:
        self._stream = self.rng()  # upstream draws drawer, object, standpoint and colour from one stream
        self.drawer_id = draw_drawer(self._stream, self.drawers)
        self._overlay_id = options.get("overlay_id")
        if self._overlay_id not in (None, *self.standpoints):
            raise ConfigError(f"overlay_id={self._overlay_id!r}; known are {', '.join(self.standpoints)}")
        self._clear_progress()
        return False

    def _apply_prepackaged_config(self) -> bool:
        """Put the robot at the place of a photograph, in a drawn colour; returns whether the colour changed."""
        drawn = draw_standpoint(self._stream, self.standpoints)
        overlay_id = self._overlay_id or drawn
        self.robot_init_options = robot_start(overlay_id)
        self.show_overlay(photograph(overlay_id))
        return self._choose_urdf_version(str(self._stream.choice(list(URDF_VARIANTS))))

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        self.drawer_positions = self._first_positions(options.get("obj_init_options", {}))

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        self.drawer_positions = np.zeros(len(DRAWERS))

    def _first_positions(self, options: Mapping[str, Any]) -> np.ndarray:
        """Drawer positions [3], m, from ``cabinet_init_qpos``: of all drawers, or a number for the one to act on."""
        wanted = options.get("cabinet_init_qpos", 0.0)
        positions = np.zeros(len(DRAWERS))
        if np.ndim(wanted) == 0:
            positions[DRAWERS.index(self.drawer_id)] = wanted
        else:
            positions[:] = wanted
        return positions

    @property
    def drawer_positions(self) -> np.ndarray:
        """How far the drawers are out, [3] m, in :data:`DRAWERS` order; setting puts them at rest there."""
        return self._native_cabinet.get_qpos()[self._joint_index]

    @drawer_positions.setter
    def drawer_positions(self, positions: np.ndarray) -> None:
        native = np.zeros(len(DRAWERS), dtype=np.float32)
        native[self._joint_index] = positions
        self._native_cabinet.set_qpos(native)
        self._native_cabinet.set_qvel(np.zeros_like(native))

    def note_settled(self) -> None:
        """Nothing: a drawer is judged by where it is."""

    def reset_info(self) -> dict[str, Any]:
        """As the base, and which cabinet stands where."""
        base = self.agent.base_pose().inv()
        return super().reset_info() | {
            "drawer_id": self.drawer_id,
            "drawer_pose_wrt_robot_base": pose_vector(base * self.drawer_pose()),
            "cabinet_pose_wrt_robot_base": pose_vector(base * self._native_cabinet.pose),
            "station_name": self.station_name,
            "light_mode": self.light_mode,
        }

    # -- judging -------------------------------------------------------------------------------------------------

    @property
    def drawer_position_m(self) -> float:
        """How far the drawer of the instruction is out."""
        return float(self.drawer_positions[DRAWERS.index(self.drawer_id)])

    def drawer_pose(self) -> sapien.Pose:
        """Of that drawer's link, in the world."""
        pose: sapien.Pose = unwrap(self.cabinet_links[f"{self.drawer_id}_drawer"]).entity_pose
        return pose


class DrawerScene(CabinetScene):
    """Open or close one drawer.

    Args:
        verb: ``open`` or ``close``.
        **cabinet: see :class:`CabinetScene`.
    """

    def __init__(self, *, verb: str, **cabinet: Any) -> None:
        self.verb = verb
        super().__init__(**cabinet)

    def _clear_progress(self) -> None:
        self.episode_stats: dict[str, Any] = {"qpos": "0.000"}

    def _first_positions(self, options: Mapping[str, Any]) -> np.ndarray:
        return super()._first_positions({"cabinet_init_qpos": first_position_m(self.verb)} | dict(options))

    def task_pose(self) -> sapien.Pose:
        """Of the drawer, in the world."""
        return self.drawer_pose()

    def language_instruction(self) -> str:
        """For example "open top drawer"."""
        return f"{self.verb} {self.drawer_id} drawer"

    def evaluate(self) -> dict[str, Any]:
        """Judge the state after a step."""
        position_m = self.drawer_position_m
        self.episode_stats["qpos"] = f"{position_m:.3f}"
        position = torch.tensor([position_m], dtype=torch.float64)
        return {
            "qpos": position,
            "success": judge_drawer(position, verb=self.verb),
            "episode_stats": dict(self.episode_stats),
        }
