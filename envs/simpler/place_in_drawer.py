"""Open a closed drawer, then put an object into it: five public tasks with two subtasks each.

Hop 1 of the tour. The object lies on the cabinet. The second subtask begins with the policy's terminate signal
(:meth:`PlaceInDrawerScene.advance_to_next_subtask`), at the latest after 100 steps. Success: the second subtask, the drawer
out by 5 cm at least, and the object has touched the floor of the drawer's tray at some time.

Differs from upstream in what :mod:`envs.simpler.drawer` names, and in this: a touch counts whichever way round the engine
reports the pair (upstream looks at the tray's floor only where the drawer comes second, and at the whole drawer otherwise).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mani_skill.utils.structs import Actor

from envs.simpler.bodies import drop_pose, pose_vector
from envs.simpler.drawer import CabinetScene
from envs.simpler.grasp import MIN_IMPULSE_NS, impulse_on_shape
from envs.simpler.native import unwrap
from envs.simpler.rules import OPEN_M
from envs.simpler.tasks import display_name

MODEL_IDS = (
    "7up_can",
    "apple",
    "baked_apple_v2",
    "baked_blue_plastic_bottle_v2",
    "baked_opened_7up_can_v2",
    "baked_opened_coke_can_v2",
    "baked_opened_pepsi_can_v2",
    "baked_opened_redbull_can_v2",
    "baked_orange_v2",
    "baked_sponge_v2",
    "blue_plastic_bottle",
    "coke_can",
    "fanta_can",
    "opened_coke_can",
    "opened_fanta_can",
    "opened_sprite_can",
    "orange",
    "pepsi_can",
    "redbull_can",
    "sponge",
    "sprite_can",
)
"""Upstream's ``info_pick_custom_baked_tex_v1.json``, sorted: what an object is drawn from."""
OBJECT_XY_LOW_M, OBJECT_XY_HIGH_M = (-0.10, -0.00), (-0.05, 0.1)
STILL_OPEN_M = 0.05
_FIRST_SUBTASK_STEPS = 100
_TRAY_FLOOR = 2  # index of its collision box


class PlaceInDrawerScene(CabinetScene):
    """Open one drawer and put one object into it.

    Args:
        model_ids: which objects to draw from.
        **cabinet: see :class:`envs.simpler.drawer.CabinetScene`.
    """

    contact_offset_m = 0.005
    standpoints = ("a0", "b0", "c0")

    def __init__(self, *, model_ids: tuple[str, ...] = MODEL_IDS, **cabinet: Any) -> None:
        self.model_ids = model_ids
        self.model_id = ""
        super().__init__(**cabinet)

    def _clear_progress(self) -> None:
        self.subtask = 0
        self.episode_stats: dict[str, Any] = {"qpos": 0.0, "is_drawer_open": False, "has_contact": 0}

    # -- resetting -----------------------------------------------------------------------------------------------

    def _choose_models(self, options: dict[str, Any]) -> bool:
        is_rebuild = super()._choose_models(options)
        model_id = options.get("model_id")
        if model_id is None:
            ids = self.model_ids
            model_id = ids[0] if len(ids) == 1 else ids[int(self._stream.choice(len(ids)))]
        is_changed, self.model_id = model_id != self.model_id, model_id
        return is_rebuild or is_changed

    def _load_objects(self) -> None:
        super()._load_objects()
        self.obj = self.build_object(self.model_id, linear_damping=0.1, angular_damping=0.1)

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        super()._place_objects(random, options)
        self.drop(self.obj, drop_pose(random, options.get("obj_init_options", {}), OBJECT_XY_LOW_M, OBJECT_XY_HIGH_M))

    def reset_info(self) -> dict[str, Any]:
        """As the base, and which object lies where."""
        relative = self.agent.base_pose().inv() * unwrap(self.obj).pose
        return super().reset_info() | {"model_id": self.model_id, "obj_init_pose_wrt_robot_base": pose_vector(relative)}

    # -- judging -------------------------------------------------------------------------------------------------

    @property
    def task_object(self) -> Actor:
        """The object to put away."""
        return self.obj

    def language_instruction(self) -> str:
        """For example "open top drawer", then "place apple into top drawer"."""
        if self.subtask == 0:
            return f"open {self.drawer_id} drawer"
        return f"place {display_name(self.model_id)} into {self.drawer_id} drawer"

    def is_final_subtask(self) -> bool:
        """Whether the robot is asked to place."""
        return self.subtask == 1

    def advance_to_next_subtask(self) -> None:
        """Ask the robot to place."""
        self.subtask = 1

    def step(self, action: Any) -> Any:
        """One action; the hundred-and-first is the latest that begins the second subtask."""
        if int(self._elapsed_steps[0]) >= _FIRST_SUBTASK_STEPS:
            self.advance_to_next_subtask()
        return super().step(action)

    def evaluate(self) -> dict[str, Any]:
        """Judge the state after a step; counts the steps with a touch, so once per step."""
        position_m = self.drawer_position_m
        tray_floor = unwrap(self.cabinet_links[f"{self.drawer_id}_drawer"]).collision_shapes[_TRAY_FLOOR]
        impulse = impulse_on_shape(self.scene, unwrap(self.obj), tray_floor)
        stats = self.episode_stats
        stats["qpos"] = position_m
        stats["is_drawer_open"] = stats["is_drawer_open"] or position_m >= OPEN_M
        stats["has_contact"] += int(np.linalg.norm(impulse) > MIN_IMPULSE_NS)
        is_success = self.subtask == 1 and position_m >= STILL_OPEN_M and stats["has_contact"] >= 1
        return {"success": torch.tensor([is_success]), "episode_stats": dict(stats)}
