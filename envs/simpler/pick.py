"""Picking one object off the table: the four coke-can tasks, and the scene that "pick object" will share.

An episode succeeds when the object is held with nothing but the robot touching it, one centimetre up; or, as upstream
counts by default, when it has been two centimetres up for five steps at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.structs import Actor
from transforms3d.euler import euler2quat

from core.errors import ConfigError
from envs.simpler.bodies import drop_pose, pose_vector
from envs.simpler.grasp import ContactImpulses
from envs.simpler.native import unwrap
from envs.simpler.rules import PickProgress, judge_pick
from envs.simpler.scene import SimplerScene
from envs.simpler.tasks import display_name

ORIENTATIONS: Mapping[str, Any] = MappingProxyType(
    {
        "upright": euler2quat(np.pi / 2, 0, 0),
        "laid_vertically": euler2quat(0, 0, np.pi / 2),
        "lr_switch": euler2quat(0, 0, np.pi),
    }
)
_ALIASES = {"standing": "upright", "horizontal": "lr_switch"}
OBJECT_XY_LOW_M, OBJECT_XY_HIGH_M = (-0.35, -0.02), (-0.12, 0.42)


def draw_orientation(random: np.random.RandomState) -> str:
    """How the object lies in an episode whose caller does not say; the first draw of its stream."""
    return str(random.choice(list(ORIENTATIONS)))


def orientation_key(name: str) -> str:
    """The key of :data:`ORIENTATIONS` that a name means.

    Raises:
        ConfigError: none.
    """
    key = next((known for alias, known in _ALIASES.items() if alias in name), name)
    if key not in ORIENTATIONS:
        raise ConfigError(f"orientation={name!r}; known are {', '.join([*ORIENTATIONS, *_ALIASES])}")
    return key


class PickScene(SimplerScene):
    """One object on the table.

    Args:
        model_ids: which objects to draw from.
        orientation: a key of :data:`ORIENTATIONS`, or None to draw one per episode.
        require_lifting_obj_for_success: False: five grasped steps in a row are enough.
        success_from_episode_stats: count an object that was lifted for five steps even if it is down again.
        **scene: see :class:`envs.simpler.scene.SimplerScene`.
    """

    stage_name = "google_pick_coke_can_1_v4"
    overlay_name = "google_coke_can_real_eval_1"

    def __init__(
        self,
        *,
        model_ids: tuple[str, ...],
        orientation: str | None = None,
        require_lifting_obj_for_success: bool = True,
        success_from_episode_stats: bool = True,
        **scene: Any,
    ) -> None:
        self.model_ids = model_ids
        self.model_id = ""
        self.model_scale = 1.0
        self._task_orientation = orientation
        self._require_lifting = require_lifting_obj_for_success
        self._success_from_stats = success_from_episode_stats
        self.settled_height_m = 0.0
        self._clear_progress()
        super().__init__(**scene)

    def _clear_progress(self) -> None:
        self._progress = PickProgress.start(1)

    # -- resetting -----------------------------------------------------------------------------------------------

    def _choose_models(self, options: dict[str, Any]) -> bool:
        object_options = dict(options.get("obj_init_options") or {})
        self.orientation = self._choose_orientation(object_options)
        options["obj_init_options"] = object_options
        random = self.rng()
        model_id = options.get("model_id")
        if model_id is None:
            ids = self.model_ids
            model_id = ids[0] if len(ids) == 1 else ids[int(random.choice(len(ids)))]
        is_changed, self.model_id = model_id != self.model_id, model_id
        self._clear_progress()
        return is_changed

    def _choose_orientation(self, object_options: dict[str, Any]) -> str | None:
        """Decide on the orientation and write its quaternion into the options, unless they have one."""
        if object_options.get("init_rot_quat") is not None:
            return None
        name = object_options.get("orientation") or self._task_orientation
        if name is None:
            name = draw_orientation(self.rng())
        object_options["init_rot_quat"] = ORIENTATIONS[orientation_key(name)]
        return name

    def _load_objects(self) -> None:
        self.obj = self.build_object(self.model_id, linear_damping=0.1, angular_damping=0.1)

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        self.drop(self.obj, drop_pose(random, options.get("obj_init_options", {}), OBJECT_XY_LOW_M, OBJECT_XY_HIGH_M))
        self.note_settled()

    def note_settled(self) -> None:
        """Take the object's present height as the one it is lifted from."""
        self.settled_height_m = float(self._native_obj.pose.p[2])

    def reset_info(self) -> dict[str, Any]:
        """As the base, and which object lies how."""
        relative = self.agent.base_pose().inv() * self._native_obj.pose
        return super().reset_info() | {
            "model_id": self.model_id,
            "model_scale": self.model_scale,
            "distractor_model_ids": None,
            "distractor_model_scales": None,
            "obj_init_pose_wrt_robot_base": pose_vector(relative),
            "orientation": self.orientation,
        }

    # -- judging -------------------------------------------------------------------------------------------------

    @property
    def task_object(self) -> Actor:
        """The object to pick."""
        return self.obj

    @property
    def _native_obj(self) -> sapien.Entity:
        return unwrap(self.obj)

    def language_instruction(self) -> str:
        """For example "pick coke can"."""
        return f"pick {display_name(self.model_id)}"

    def evaluate(self) -> dict[str, Any]:
        """Judge the state after a step; counts towards the episode's statistics, so once per step."""
        impulses = ContactImpulses.of(self.scene, self._native_obj)
        self._progress, verdict = judge_pick(
            self._progress,
            is_grasped=self.agent.is_grasping(self.obj, max_angle=80.0),
            is_free=torch.tensor([not impulses.touches_other_than(self._robot_ids)]),
            rise_m=torch.tensor([float(self._native_obj.pose.p[2]) - self.settled_height_m], dtype=torch.float64),
            require_lifting=self._require_lifting,
            success_from_stats=self._success_from_stats,
        )
        return {
            "is_grasped": verdict.is_grasped,
            "consecutive_grasp": verdict.is_grasped_long,
            "lifted_object": verdict.is_lifted,
            "lifted_object_significantly": verdict.is_lifted_significantly,
            "success": verdict.success,
            "episode_stats": self.episode_stats,
        }

    @property
    def episode_stats(self) -> dict[str, Any]:
        """Upstream's, of the episode so far."""
        return {
            "n_lift_significant": int(self._progress.significant_lifts),
            "consec_grasp": bool(self._progress.was_grasped_long),
            "grasped": bool(self._progress.was_grasped),
        }

    @property
    def _robot_ids(self) -> set[int]:
        return self.agent.entity_ids
