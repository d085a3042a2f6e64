"""The 25 public SIMPLER tasks: what each is called, which scene class plays it, and for how long.

This table is the only place that knows task names. A family that is not offered yet is listed, so that its names are
recognised, but no scene class is registered for it in :mod:`envs.simpler.gym_env`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One public task.

    Example:
        google_robot_pick_standing_coke_can: env_id GraspSingleOpenedCokeCanInScene-v0, family pick, kwargs upright=True.
    """

    name: str
    env_id: str
    """Upstream's Gymnasium id."""
    family: str
    """Which scene class plays it: pick, move_near, drawer, place_in_drawer, put_on."""
    max_episode_steps: int
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Constructor arguments beyond the family's defaults."""

    @property
    def robot(self) -> str:
        """``google_robot`` or ``widowx``."""
        return "google_robot" if self.name.startswith("google_robot") else "widowx"


PICK_OBJECTS = (
    "opened_pepsi_can",
    "opened_coke_can",
    "opened_sprite_can",
    "opened_fanta_can",
    "opened_redbull_can",
    "blue_plastic_bottle",
    "apple",
    "orange",
    "sponge",
    "bridge_spoon_generated_modified",
    "bridge_carrot_generated_modified",
    "green_cube_3cm",
    "yellow_cube_3cm",
    "eggplant",
)
"""What "pick object" draws from."""


def _task(name: str, env_id: str, family: str, max_episode_steps: int, **kwargs: Any) -> TaskSpec:
    return TaskSpec(name=name, env_id=env_id, family=family, max_episode_steps=max_episode_steps, kwargs=MappingProxyType(kwargs))


def _tasks() -> list[TaskSpec]:
    can, coke_can = "GraspSingleOpenedCokeCanInScene-v0", ("opened_coke_can",)
    tasks = [
        _task("google_robot_pick_coke_can", can, "pick", 80, model_ids=coke_can),
        _task("google_robot_pick_horizontal_coke_can", can, "pick", 80, model_ids=coke_can, orientation="lr_switch"),
        _task("google_robot_pick_vertical_coke_can", can, "pick", 80, model_ids=coke_can, orientation="laid_vertically"),
        _task("google_robot_pick_standing_coke_can", can, "pick", 80, model_ids=coke_can, orientation="upright"),
        _task("google_robot_pick_object", "GraspSingleRandomObjectInScene-v0", "pick_object", 80, model_ids=PICK_OBJECTS),
        _task("google_robot_move_near", "MoveNearGoogleBakedTexInScene-v1", "move_near", 80, textures="v1"),
        _task("google_robot_move_near_v0", "MoveNearGoogleBakedTexInScene-v0", "move_near", 80, textures="v0"),
        _task("google_robot_move_near_v1", "MoveNearGoogleBakedTexInScene-v1", "move_near", 80, textures="v1"),
    ]
    for verb in ("open", "close"):
        title = verb.capitalize()
        tasks.append(_task(f"google_robot_{verb}_drawer", f"{title}DrawerCustomInScene-v0", "drawer", 113, verb=verb))
        for part in ("top", "middle", "bottom"):
            env_id = f"{title}{part.capitalize()}DrawerCustomInScene-v0"
            tasks.append(_task(f"google_robot_{verb}_{part}_drawer", env_id, "drawer", 113, verb=verb, drawers=(part,)))
    place = "PlaceIntoClosed{}DrawerCustomInScene-v0"
    tasks.append(_task("google_robot_place_in_closed_drawer", place.format(""), "place_in_drawer", 200))
    tasks += [
        _task(
            f"google_robot_place_in_closed_{part}_drawer",
            place.format(part.capitalize()),
            "place_in_drawer",
            200,
            drawers=(part,),
        )
        for part in ("top", "middle", "bottom")
    ]
    apple, top = "google_robot_place_apple_in_closed_top_drawer", ("top",)
    tasks += [
        _task(apple, place.format("Top"), "place_in_drawer", 200, drawers=top, model_ids=("baked_apple_v2",)),
        _task("widowx_spoon_on_towel", "PutSpoonOnTableClothInScene-v0", "put_on", 60, setup="spoon_on_towel"),
        _task("widowx_carrot_on_plate", "PutCarrotOnPlateInScene-v0", "put_on", 60, setup="carrot_on_plate"),
        _task("widowx_stack_cube", "StackGreenCubeOnYellowCubeBakedTexInScene-v0", "put_on", 60, setup="stack_cube"),
        _task("widowx_put_eggplant_in_basket", "PutEggplantInBasketScene-v0", "put_on", 120, setup="eggplant_in_basket"),
    ]
    return tasks


TASKS: Mapping[str, TaskSpec] = MappingProxyType({task.name: task for task in _tasks()})
ENVIRONMENTS: tuple[str, ...] = tuple(TASKS)
"""The public names, as ``simpler_env.ENVIRONMENTS``."""

OFFERED_FAMILIES = frozenset({"pick", "pick_object", "move_near", "drawer", "place_in_drawer", "put_on"})
"""Families with a scene class."""


def find_task(name: str) -> TaskSpec:
    """Look up a task that can be made.

    Example:
        >>> find_task("google_robot_pick_standing_coke_can").max_episode_steps
        80

    Raises:
        ConfigError: unknown (the nearest name is suggested), or known but not offered yet.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "known names are in envs.simpler.ENVIRONMENTS"
        raise ConfigError(f"unknown SIMPLER task {name!r}; {hint}")
    task = TASKS[name]
    if task.family not in OFFERED_FAMILIES:
        offered = [other.name for other in TASKS.values() if other.family in OFFERED_FAMILIES]
        raise ConfigError(f"SIMPLER task {name!r} is known but not offered yet; offered are {', '.join(offered)}")
    return task


def display_name(model_id: str) -> str:
    """An object's name in an instruction.

    Example:
        >>> display_name("opened_coke_can"), display_name("baked_apple_v2"), display_name("green_cube_3cm")
        ('coke can', 'apple', 'green cube')
    """
    dropped = {"opened", "light", "generated", "modified", "objaverse", "bridge", "baked", "v2"}
    return " ".join(word for word in model_id.split("_") if word not in dropped and not word.endswith("cm"))
