"""The four WidowX tasks: put one object onto another, on a table (spoon, carrot, cube) or into a basket in a sink (eggplant).

Hop 1 of the tour. An episode succeeds while the source object is above the target (within the target's half diagonal
horizontally, and close above it by their boxes) and, for carrot and cube, pushes on nothing but the target and the robot. A
cube held in the air right above the other therefore succeeds too, as upstream.

Differs from upstream: ``success`` and the like are plain booleans.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.structs import Actor
from numpy.typing import NDArray
from transforms3d.euler import euler2quat
from transforms3d.quaternions import quat2mat

from core.errors import ConfigError
from envs.simpler.assets import Quaternion
from envs.simpler.bodies import TABLE_HEIGHT_M, pose_vector
from envs.simpler.embodiment import WIDOWX
from envs.simpler.grasp import ContactImpulses
from envs.simpler.native import center_of_mass, collision_bounds, unwrap
from envs.simpler.robot import SimplerRobot
from envs.simpler.rules import PutOnVerdict, judge_put_on
from envs.simpler.scene import SimplerScene
from envs.simpler.widowx import SINK, TABLE, Station, WidowX

Place = tuple[float, float]
_DROP_HEIGHT_M = 0.5
SINK_POSE = sapien.Pose([-0.16, 0.13, 0.88])
SINK_ID = "sink"


def _yaw(angle_rad: float) -> Quaternion:
    w, x, y, z = euler2quat(0.0, 0.0, angle_rad)
    return w, x, y, z


def _square_pairs(half_edge_m: float) -> tuple[tuple[Place, Place], ...]:
    """Source and target on two different corners of a square in the middle of the table: 12 pairs."""
    x, y = -0.16, 0.0
    corners = [(x + i * half_edge_m, y + j * half_edge_m) for i, j in itertools.product((-1, 1), repeat=2)]
    return tuple(itertools.permutations(corners, 2))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One of the four tasks."""

    source: str
    """Model to move."""
    target: str
    """Model to put it on."""
    instruction: str
    places: tuple[tuple[Place, Place], ...]
    """Where source and target start to fall, m."""
    source_turns: tuple[Quaternion, ...]
    """How the source starts; the target is never turned."""
    gap_m: float = 0.02
    """At most between the boxes, vertically."""
    is_touch_checked: bool = False
    """Whether the source may push on nothing else."""
    station: Station = TABLE
    stage_name: str = "bridge_table_1_v1"
    overlay_name: str = "bridge_real_eval_1"

    @property
    def num_episodes(self) -> int:
        """24 for each task."""
        return len(self.places) * len(self.source_turns)

    def draw_episode(self, random: np.random.RandomState) -> int:
        """The episode of a reset whose caller does not say; the first draw of its stream."""
        return int(random.randint(self.num_episodes))

    def episode(self, episode_id: int) -> tuple[Place, Place, Quaternion]:
        """Upstream's grid: places of source and target, and how the source is turned. Ids wrap around.

        Example:
            >>> SETUPS["carrot_on_plate"].episode(3)[:2]
            ((-0.235, -0.075), (-0.085, -0.075))
        """
        source, target = self.places[episode_id % self.num_episodes // len(self.source_turns)]
        return source, target, self.source_turns[episode_id % len(self.source_turns)]


SETUPS: Mapping[str, Setup] = MappingProxyType(
    {
        "spoon_on_towel": Setup(
            source="bridge_spoon_generated_modified",
            target="table_cloth_generated_shorter",
            instruction="put the spoon on the towel",
            places=_square_pairs(0.075),
            source_turns=(_yaw(0.0), _yaw(np.pi / 2)),
        ),
        "carrot_on_plate": Setup(
            source="bridge_carrot_generated_modified",
            target="bridge_plate_objaverse_larger",
            instruction="put carrot on plate",
            places=_square_pairs(0.075),
            source_turns=(_yaw(np.pi), _yaw(-np.pi / 2)),
            is_touch_checked=True,
        ),
        "stack_cube": Setup(
            source="baked_green_cube_3cm",
            target="baked_yellow_cube_3cm",
            instruction="stack the green block on the yellow block",
            places=_square_pairs(0.05) + _square_pairs(0.1),
            source_turns=(_yaw(0.0),),
            is_touch_checked=True,
        ),
        "eggplant_in_basket": Setup(
            source="eggplant",
            target="dummy_sink_target_plane",
            instruction="put eggplant into yellow basket",
            places=tuple(
                ((float(x), float(y)), (-0.125, 0.025))
                for x in np.linspace(-0.115, -0.095, 2)
                for y in np.linspace(0.191, 0.221, 4)
            ),
            source_turns=(_yaw(0.0), _yaw(np.pi / 4), _yaw(-np.pi / 4)),
            gap_m=0.06,
            station=SINK,
            stage_name="bridge_table_1_v2",
            overlay_name="bridge_sink",
        ),
    }
)


class PutOnScene(SimplerScene):
    """Two objects, and for the eggplant a sink.

    Args:
        setup: a key of :data:`SETUPS`.
        **scene: see :class:`envs.simpler.scene.SimplerScene`.
    """

    embodiment = WIDOWX
    urdf_variants = ("",)
    contact_offset_m = 0.005

    def __init__(self, *, setup: str, **scene: Any) -> None:
        if setup not in SETUPS:
            raise ConfigError(f"setup={setup!r}; known are {', '.join(map(repr, SETUPS))}")
        self.setup = SETUPS[setup]
        self.has_sink = self.setup.station is SINK
        self.stage_name, self.overlay_name = self.setup.stage_name, self.setup.overlay_name
        self.camera = self.setup.station.camera
        self.init_qpos = self.setup.station.init_qpos
        self.root_height_m = self.setup.station.root_height_m
        if self.has_sink:
            self.lights = (((0.0, 0.0, -1.0), 0.3),)
        self.episode_id = 0
        self._clear_progress()
        super().__init__(**scene)

    def _clear_progress(self) -> None:
        self._grasped_steps = torch.zeros(1, dtype=torch.int64)
        keys = ("moved_correct_obj", "moved_wrong_obj", "is_src_obj_grasped", "consecutive_grasp", "src_on_target")
        self.episode_stats: dict[str, bool] = dict.fromkeys(keys, False)

    # -- building ------------------------------------------------------------------------------------------------

    def _build_robot(self, *scene: Any, **how: Any) -> SimplerRobot:
        return WidowX(*scene, uid=self.setup.station.uid, urdf_file=self.assets.widowx_urdf(), **how)

    def _load_objects(self) -> None:
        self._source, self._target = (
            self.build_object(model_id, linear_damping=0.1, angular_damping=0.1)
            for model_id in (self.setup.source, self.setup.target)
        )
        if self.has_sink:
            self.sink = self.build_object(SINK_ID)
            self.sink.set_locked_motion_axes([True] * 6)

    @property
    def overlaid_objects(self) -> frozenset[str]:
        """Also the sink, which the photograph shows, and the plane that stands for the basket's floor."""
        return super().overlaid_objects | ({SINK_ID, self.setup.target} if self.has_sink else set())

    # -- resetting -----------------------------------------------------------------------------------------------

    def _choose_models(self, options: dict[str, Any]) -> bool:
        object_options = options.get("obj_init_options") or {}
        self.episode_id = int(object_options.get("episode_id", self.setup.draw_episode(self.rng())))
        self._clear_progress()
        return False

    def _apply_prepackaged_config(self) -> bool:
        self.robot_init_options = {"init_xy": self.setup.station.evaluation_xy, "init_rot_quat": [0, 0, 0, 1]}
        return self._choose_urdf_version("")

    def _draw_robot_xy(self, random: np.random.RandomState) -> tuple[float, float]:
        return self.setup.station.default_xy

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        if self.has_sink:
            self.sink.set_pose(SINK_POSE)
        source, target, turn = self.setup.episode(self.episode_id)
        height_m = (options.get("obj_init_options") or {}).get("init_z", TABLE_HEIGHT_M) + _DROP_HEIGHT_M
        self.drop_together(
            [
                (self._source, sapien.Pose([*source, height_m], turn)),
                (self._target, sapien.Pose([*target, height_m])),
            ]
        )
        self.note_settled()

    def note_settled(self) -> None:
        """Take the objects' present places, and the boxes as they lie, as those of the start."""
        actors, models = (self._source, self._target), (self.setup.source, self.setup.target)
        self.settled_m = np.array([unwrap(actor).pose.p for actor in actors], dtype=np.float64)
        self.half_m = np.array([self._half_box(model_id, actor) for model_id, actor in zip(models, actors, strict=True)])

    def _half_box(self, model_id: str, actor: Actor) -> NDArray[np.float64]:
        """Half an object's box [3] along world axes, as upstream has it: the size vector is rotated, signs and all."""
        model = self.assets.object_model(model_id)
        size = model.scale * (np.array(model.bbox_max) - np.array(model.bbox_min))
        return np.asarray(quat2mat(unwrap(actor).pose.q) @ size / 2)

    def reset_info(self) -> dict[str, Any]:
        """As the base, and which object is to go where."""
        models = [self.setup.source, self.setup.target]
        info = super().reset_info() | {
            "episode_id": self.episode_id,
            "episode_model_ids": models,
            "episode_model_scales": [self.assets.object_model(model_id).scale for model_id in models],
        }
        base = self.agent.base_pose().inv()
        for role, actor in (("source", self._source), ("target", self._target)):
            info[f"episode_{role}_obj_name"] = actor.name
            info[f"episode_{role}_obj_init_pose_wrt_robot_base"] = pose_vector(base * unwrap(actor).pose)
        return info

    # -- judging -------------------------------------------------------------------------------------------------

    @property
    def task_object(self) -> Actor:
        """The object to move."""
        return self._source

    @property
    def target_object(self) -> Actor:
        """What to put it on."""
        return self._target

    def target_pose(self) -> sapien.Pose:
        """Its pose in the world."""
        pose: sapien.Pose = unwrap(self._target).pose
        return pose

    def target_bounds(self) -> NDArray[np.float64]:
        """Its box."""
        return collision_bounds(self._target)

    def language_instruction(self) -> str:
        """For example "put carrot on plate"."""
        return self.setup.instruction

    def evaluate(self) -> dict[str, Any]:
        """Judge the state after a step; counts grasped steps, so once per step."""
        self._grasped_steps, verdict = judge_put_on(
            self._grasped_steps,
            is_grasped=self.agent.is_grasping(self._source),
            source_center_m=torch.from_numpy(center_of_mass(self._source))[None],
            target_center_m=torch.from_numpy(center_of_mass(self._target))[None],
            target_m=torch.from_numpy(np.asarray(unwrap(self._target).pose.p, dtype=np.float64))[None],
            settled_m=torch.from_numpy(self.settled_m)[None],
            half_m=torch.from_numpy(self.half_m)[None],
            gap_m=self.setup.gap_m,
            is_free=torch.tensor([not self.setup.is_touch_checked or self._is_source_free()]),
        )
        flags = put_on_flags(verdict)
        grasp_flags = ("is_src_obj_grasped", "consecutive_grasp")
        seen = {key: bool(flag) or (key in grasp_flags and self.episode_stats[key]) for key, flag in flags.items()}
        self.episode_stats = seen
        return flags | {"success": verdict.success, "episode_stats": dict(seen)}

    def _is_source_free(self) -> bool:
        """Whether the source pushes on nothing but the target and the robot."""
        allowed = self.agent.entity_ids | {unwrap(self._target).per_scene_id}
        return not ContactImpulses.of(self.scene, unwrap(self._source)).touches_other_than(allowed)


def put_on_flags(verdict: PutOnVerdict) -> dict[str, torch.Tensor]:
    """A verdict under upstream's names."""
    return {
        "moved_correct_obj": verdict.is_source_moved,
        "moved_wrong_obj": verdict.is_target_moved,
        "is_src_obj_grasped": verdict.is_grasped,
        "consecutive_grasp": verdict.is_grasped_long,
        "src_on_target": verdict.success,
    }
