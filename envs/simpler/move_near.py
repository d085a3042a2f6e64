"""Moving one of three objects next to another: 60 arrangements, and upstream's three sets of models.

Hop 1 of the tour. An episode succeeds while the source object is near the target (within 10 cm beyond both objects' half
diagonals) and not nearer to another, has been moved by more than 3 cm and more than any other object, and nothing has
fallen. Success is of the moment: an object carried past the target succeeds and then does not.

Differs from upstream: an ``episode_id`` out of range is refused, and ``near_tgt_obj`` and the like are plain booleans.
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
from sapien.render import RenderBodyComponent
from transforms3d.euler import euler2quat
from transforms3d.quaternions import quat2mat

from core.errors import ConfigError
from envs.simpler.bodies import TABLE_HEIGHT_M, pose_vector
from envs.simpler.native import center_of_mass, unwrap
from envs.simpler.rules import MoveNearVerdict, judge_move_near
from envs.simpler.scene import SimplerScene
from envs.simpler.tasks import display_name

_TRIPLETS = (
    ("blue_plastic_bottle", "opened_pepsi_can", "orange"),
    ("opened_7up_can", "apple", "sponge"),
    ("opened_coke_can", "opened_redbull_can", "apple"),
    ("sponge", "blue_plastic_bottle", "opened_7up_can"),
    ("orange", "opened_pepsi_can", "opened_redbull_can"),
)
_UNBAKED = ("blue_plastic_bottle", "orange")  # the same in every set of models
_XY_PATTERNS_M = (
    ((-0.33, 0.04), (-0.33, 0.34), (-0.13, 0.19)),
    ((-0.13, 0.04), (-0.33, 0.19), (-0.13, 0.34)),
)
_PAIRS = tuple(itertools.permutations(range(3), 2))  # (source, target)
NUM_EPISODES = len(_TRIPLETS) * len(_XY_PATTERNS_M) * len(_PAIRS)

_STANDING = euler2quat(np.pi / 2, 0, 0)
_ORIENTATIONS: Mapping[str, Any] = MappingProxyType(
    {
        "blue_plastic_bottle": euler2quat(np.pi / 2, 0, np.pi / 2),
        "orange": euler2quat(0, 0, np.pi / 2),
        "sponge": euler2quat(0, 0, np.pi / 2),
        "apple": (1.0, 0.0, 0.0, 0.0),
    }
)
_TOY_FRUIT_DENSITY = 200.0
"""kg/m^3 of apple and orange: the real evaluation used toys."""
_DROP_HEIGHT_M = 0.5

TEXTURES: Mapping[str, str] = MappingProxyType({"v0": "baked_{}", "v1": "baked_{}_v2", "plain": "{}"})
"""Set of models -> a model's name in it. ``plain`` is what upstream's variant aggregation uses."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Which objects stand where in an episode, and what is asked.

    Example:
        Episode 13, v1: 7up can (-0.33, 0.04), apple (-0.33, 0.34), sponge (-0.13, 0.19); move the first near the third.
    """

    episode_id: int
    model_ids: tuple[str, ...]
    xy_m: tuple[tuple[float, float], ...]
    orientations: tuple[Any, ...]
    """w, x, y, z each."""
    densities: tuple[float | None, ...]
    """kg/m^3; None: the asset set's."""
    source: int
    target: int


def arrangement(episode_id: int, textures: str, *, no_distractor: bool = False) -> Arrangement:
    """Upstream's grid: triplet of objects, then pattern of places, then (source, target).

    Args:
        episode_id: 0 .. 59.
        textures: a key of :data:`TEXTURES`.
        no_distractor: leave the third object out.

    Raises:
        ConfigError: no such episode.

    Example:
        >>> found = arrangement(13, "v1")
        >>> found.model_ids[found.source], found.model_ids[found.target]
        ('baked_opened_7up_can_v2', 'baked_sponge_v2')
    """
    check_episode(episode_id)
    per_triplet = len(_XY_PATTERNS_M) * len(_PAIRS)
    names = _TRIPLETS[episode_id // per_triplet]
    pattern = _XY_PATTERNS_M[episode_id % per_triplet // len(_PAIRS)]
    source, target = _PAIRS[episode_id % len(_PAIRS)]
    kept = (source, target) if no_distractor else (0, 1, 2)
    return Arrangement(
        episode_id=episode_id,
        model_ids=tuple(names[i] if names[i] in _UNBAKED else TEXTURES[textures].format(names[i]) for i in kept),
        xy_m=tuple(pattern[i] for i in kept),
        orientations=tuple(_ORIENTATIONS.get(names[i], _STANDING) for i in kept),
        densities=tuple(_TOY_FRUIT_DENSITY if names[i] in ("apple", "orange") else None for i in kept),
        source=kept.index(source),
        target=kept.index(target),
    )


def check_episode(episode_id: int) -> int:
    """The same number.

    Raises:
        ConfigError: no such episode.
    """
    if not 0 <= episode_id < NUM_EPISODES:
        raise ConfigError(f"episode_id={episode_id}; move near has episodes 0 to {NUM_EPISODES - 1}")
    return episode_id


def draw_episode(random: np.random.RandomState) -> int:
    """The arrangement of an episode whose caller does not say; the first draw of its stream."""
    return int(random.randint(NUM_EPISODES))


class MoveNearScene(SimplerScene):
    """Two or three objects on the table.

    Args:
        textures: a key of :data:`TEXTURES`.
        no_distractor: only source and target.
        **scene: see :class:`envs.simpler.scene.SimplerScene`.
    """

    stage_name = "google_pick_coke_can_1_v4"
    overlay_name = "google_move_near_real_eval_1"
    contact_offset_m = 0.005  # upstream: else objects that are only close count as touching
    prepackaged_robot_xy = (0.35, 0.21)

    def __init__(self, *, textures: str, no_distractor: bool = False, **scene: Any) -> None:
        if textures not in TEXTURES:
            raise ConfigError(f"textures={textures!r}; known are {', '.join(map(repr, TEXTURES))}")
        self._textures = textures
        self._no_distractor = no_distractor
        self.episode_model_ids: tuple[str, ...] = ()
        self._clear_progress()
        super().__init__(**scene)

    def _clear_progress(self) -> None:
        keys = ("all_obj_keep_height", "moved_correct_obj", "moved_wrong_obj", "near_tgt_obj", "is_closest_to_tgt")
        self.episode_stats: dict[str, bool] = dict.fromkeys(keys, False)

    # -- resetting -----------------------------------------------------------------------------------------------

    def _choose_models(self, options: dict[str, Any]) -> bool:
        object_options = options.get("obj_init_options") or {}
        episode_id = int(object_options.get("episode_id", draw_episode(self.rng())))
        self.arrangement = arrangement(episode_id, self._textures, no_distractor=self._no_distractor)
        is_changed = self.arrangement.model_ids != self.episode_model_ids
        self.episode_model_ids = self.arrangement.model_ids
        return is_changed

    def _apply_prepackaged_config(self) -> bool:
        is_changed = super()._apply_prepackaged_config()
        turned = sapien.Pose(q=euler2quat(0, 0, -0.09)) * sapien.Pose(q=[0, 0, 0, 1])
        self.robot_init_options = {**self.robot_init_options, "init_rot_quat": turned.q}
        return is_changed

    def _load_objects(self) -> None:
        pairs = zip(self.arrangement.model_ids, self.arrangement.densities, strict=True)
        self.episode_objs = [
            self.build_object(model_id, linear_damping=0.1, angular_damping=0.1, density=density) for model_id, density in pairs
        ]
        if self._textures == "v1":
            for actor in self.episode_objs:
                make_matt(actor)

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        height_m = (options.get("obj_init_options") or {}).get("init_z", TABLE_HEIGHT_M) + _DROP_HEIGHT_M
        places = zip(self.arrangement.xy_m, self.arrangement.orientations, strict=True)
        starts = [sapien.Pose([*xy, height_m], orientation) for xy, orientation in places]
        self.drop_together(list(zip(self.episode_objs, starts, strict=True)))
        self.note_settled()

    def note_settled(self) -> None:
        """Take the objects' present places, and source's and target's present orientations, as those of the start."""
        self.settled_m = self._positions()
        self.reach_m = sum(self.half_diagonal_m(index) for index in (self.arrangement.source, self.arrangement.target))

    def half_diagonal_m(self, index: int) -> float:
        """Half the horizontal diagonal of an object's box, as upstream has it: the size vector is rotated, signs and all."""
        model = self.assets.object_model(self.episode_model_ids[index])
        size = model.scale * (np.array(model.bbox_max) - np.array(model.bbox_min))
        return float(np.linalg.norm((quat2mat(self._entities[index].pose.q) @ size)[:2])) / 2

    def reset_info(self) -> dict[str, Any]:
        """As the base, and which object is to go where."""
        base, roles = self.agent.base_pose().inv(), self.arrangement
        info = super().reset_info() | {
            "episode_id": roles.episode_id,
            "episode_model_ids": list(roles.model_ids),
            "episode_model_scales": [self.assets.object_model(model_id).scale for model_id in roles.model_ids],
        }
        for role, index in (("source", roles.source), ("target", roles.target)):
            info[f"episode_{role}_obj_name"] = roles.model_ids[index]
            info[f"episode_{role}_obj_init_pose_wrt_robot_base"] = pose_vector(base * self._entities[index].pose)
        return info

    # -- judging -------------------------------------------------------------------------------------------------

    @property
    def task_object(self) -> Actor:
        """The object to move."""
        return self.episode_objs[self.arrangement.source]

    def target_pose(self) -> sapien.Pose:
        """Of the object to move it to."""
        return self._entities[self.arrangement.target].pose

    def bystander_poses(self) -> list[sapien.Pose]:
        """Of the distractor, if any."""
        roles = (self.arrangement.source, self.arrangement.target)
        return [entity.pose for index, entity in enumerate(self._entities) if index not in roles]

    @property
    def _entities(self) -> list[sapien.Entity]:
        return [unwrap(actor) for actor in self.episode_objs]

    def _positions(self) -> NDArray[np.float64]:
        """Origins [objects, 3] in the world."""
        return np.array([entity.pose.p for entity in self._entities], dtype=np.float64)

    def language_instruction(self) -> str:
        """For example "move 7up can near sponge"."""
        names = [display_name(model_id) for model_id in self.arrangement.model_ids]
        return f"move {names[self.arrangement.source]} near {names[self.arrangement.target]}"

    def evaluate(self) -> dict[str, Any]:
        """Judge the state after a step."""
        roles = self.arrangement
        centers = np.array([center_of_mass(actor) for actor in self.episode_objs])
        verdict = judge_move_near(
            positions_m=torch.from_numpy(self._positions())[None],
            centers_m=torch.from_numpy(centers)[None],
            settled_m=torch.from_numpy(self.settled_m)[None],
            is_present=torch.ones(1, len(self.episode_objs), dtype=torch.bool),
            source=torch.tensor([roles.source]),
            target=torch.tensor([roles.target]),
            reach_m=torch.tensor([self.reach_m], dtype=torch.float64),
        )
        flags = move_near_flags(verdict)
        self.episode_stats = {key: bool(flag) for key, flag in flags.items() if key != "success"}
        return flags | {"episode_stats": dict(self.episode_stats)}


def move_near_flags(verdict: MoveNearVerdict) -> dict[str, torch.Tensor]:
    """A verdict under upstream's names."""
    return {
        "all_obj_keep_height": verdict.is_all_standing,
        "moved_correct_obj": verdict.is_source_moved,
        "moved_wrong_obj": verdict.is_other_moved,
        "near_tgt_obj": verdict.is_near,
        "is_closest_to_tgt": verdict.is_closest,
        "success": verdict.success,
    }


def make_matt(actor: Actor) -> None:
    """Upstream's v1: no shine on the objects, whatever their files say; in each of a ManiSkill scene's environments."""
    for entity in actor._objs:  # noqa: SLF001 (materials are SAPIEN's)
        for shape in entity.find_component_by_type(RenderBodyComponent).render_shapes:
            for part in shape.parts:
                part.material.set_roughness(1.0)
                part.material.set_metallic(0.0)
                part.material.set_specular(0.0)
