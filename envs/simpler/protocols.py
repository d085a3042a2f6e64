"""SIMPLER's published protocols as data: which starts of which task, in which scene, belong to an evaluation.

Before hop 1 of the tour, beside :mod:`envs.simpler.tasks`: that table says what a task is, this one what is played of it. A
:class:`Protocol` is a list of :class:`Trial`; equal names give equal lists, on every machine. Nothing is left out silently: a
trial that cannot be played says why, in :attr:`Trial.missing` where no code for it exists, through :func:`unavailable` where
an asset set lacks a file.

Sources: Li et al. 2024 (arXiv:2405.05941) and upstream's evaluation scripts for ``simpler_google_*`` and ``simpler_widowx``;
VideoVLA (arXiv:2512.06963) for the two generalisation protocols, whose lists of objects were never released.
"""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from core.errors import AssetError, ConfigError
from core.ids import digest
from envs.simpler.tasks import ENVIRONMENTS, OFFERED_FAMILIES, TASKS

ROBOT_COLOURS = (
    "",
    "recolor_tabletop_visual_matching_1",
    "recolor_tabletop_visual_matching_2",
    "recolor_cabinet_visual_matching_1",
)
"""The Google robot's four URDF variants of visual matching (:data:`envs.simpler.google_robot.URDF_VARIANTS`)."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NUM_EPISODES_OF_A_NAME = 50

_PICK = tuple(f"google_robot_pick_{pose}_coke_can" for pose in ("horizontal", "vertical", "standing"))
_NEAR = "google_robot_move_near_v0"
_OPEN, _CLOSE = (
    tuple(f"google_robot_{verb}_{part}_drawer" for part in ("top", "middle", "bottom")) for verb in ("open", "close")
)
_APPLE = "google_robot_place_apple_in_closed_top_drawer"
_WIDOWX = ("widowx_spoon_on_towel", "widowx_carrot_on_plate", "widowx_stack_cube", "widowx_put_eggplant_in_basket")

Average = str | tuple["Average", ...]
"""A task, or several of which the mean is taken, one within the other."""
_GOOGLE_AVERAGES: Mapping[str, Average] = MappingProxyType(
    {
        "A: mean of 4 tasks (CogACT, VideoVLA)": (_PICK, _NEAR, (_OPEN, _CLOSE), _APPLE),
        "B: mean of 6 columns over 3 tasks (SpatialVLA)": (*_PICK, _NEAR, _OPEN, _CLOSE),
        "B': mean of 3 tasks, without place apple (pi0's table)": (_PICK, _NEAR, (_OPEN, _CLOSE)),
    }
)
"""The same scores averaged in three ways differ by more than 20 points: a mean without its name says nothing."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One start of one task in one scene.

    Example:
        task google_robot_pick_standing_coke_can, variant "colour recolor_cabinet_visual_matching_1", index 99,
        scene {"robot_variant": "recolor_cabinet_visual_matching_1"}, options {"obj_init_options": {"init_xy": [-0.12, 0.42]}}.
    """

    task: str
    variant: str
    """What sets the scene apart from the task's own; for people."""
    index: int
    """Counted over all trials of the task in this protocol, from 0."""
    scene: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Arguments of :class:`envs.simpler.task_env.SimplerTaskEnv`; trials with equal ones share an environment."""
    options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Of its reset; empty where the seed draws the start."""
    is_averaged: bool = True
    """False: played and listed, but outside the published averages."""
    needs: tuple[tuple[str, str], ...] = ()
    """What the asset set must hold beyond the task's own: (method of ``AssetSet``, name)."""
    missing: str = ""
    """Why no code here can play it."""

    @property
    def key(self) -> str:
        """Unique in its protocol."""
        return f"{self.task}|{self.variant}|{self.index}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A published way of measuring."""

    name: str
    title: str
    trials: tuple[Trial, ...]
    averages: Mapping[str, Average]
    """Name of a convention -> what its mean is taken of."""
    notes: tuple[str, ...] = ()
    """What readers of a result must know."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the protocol."""
        return tuple(dict.fromkeys(trial.task for trial in self.trials))

    def of_task(self, task: str) -> tuple[Trial, ...]:
        """The task's trials, by index."""
        return tuple(trial for trial in self.trials if trial.task == task)

    @property
    def digest(self) -> str:
        """16 hex digits over every trial with its scene and options."""
        return digest(
            [
                {"key": trial.key, "scene": dict(trial.scene), "options": dict(trial.options), "averaged": trial.is_averaged}
                for trial in self.trials
            ]
        )


def unavailable(trial: Trial, assets: Any) -> str:
    """Why a trial cannot be played here; empty where it can.

    Args:
        trial: of any protocol.
        assets: an :class:`envs.simpler.assets.AssetSet`.
    """
    if TASKS[trial.task].family not in OFFERED_FAMILIES:
        return f"task family {TASKS[trial.task].family!r} is not offered yet"
    if trial.missing:
        return trial.missing
    for method, name in trial.needs:
        try:
            getattr(assets, method)(name)
        except AssetError as error:
            return str(error)
    return ""


def find_protocol(name: str) -> Protocol:
    """Look up a suite.

    Example:
        >>> len(find_protocol("simpler_widowx").trials)
        96

    Raises:
        ConfigError: unknown; the nearest name is suggested.
    """
    if name not in _MAKERS:
        nearest = difflib.get_close_matches(name, _MAKERS, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(f"unknown suite {name!r}; known are {', '.join(_MAKERS)}{hint}")
    return _MAKERS[name]()


# -- visual matching: photograph behind the scene, robot in four colours ---------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """A scene that trials share."""

    variant: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    is_averaged: bool = True
    needs: tuple[tuple[str, str], ...] = ()
    missing: str = ""


_COLOURS = tuple(_Scene(variant=f"colour {colour or 'base'}", arguments={"robot_variant": colour}) for colour in ROBOT_COLOURS)
Starts = Callable[[_Scene], Sequence[Mapping[str, Any]]]
"""A scene -> the reset options of each start in it."""


def _trials(task: str, scenes: Iterable[_Scene], starts: Starts) -> Iterator[Trial]:
    """Every start in every scene, scene by scene."""
    pairs = [(scene, start) for scene in scenes for start in starts(scene)]
    for index, (scene, start) in enumerate(pairs):
        yield Trial(
            task=task,
            variant=scene.variant,
            index=index,
            scene=scene.arguments,
            options=start,
            is_averaged=scene.is_averaged,
            needs=scene.needs,
            missing=scene.missing,
        )


def _grid(x_m: tuple[float, float, int], y_m: tuple[float, float, int]) -> list[list[float]]:
    """Points [x, y], x in the outer loop, from (first, last, count) each."""
    return [[float(x), float(y)] for x in np.linspace(*x_m) for y in np.linspace(*y_m)]


_CAN_PLACES = _grid((-0.35, -0.12, 5), (-0.02, 0.42, 5))
_APPLE_PLACES = _grid((-0.08, -0.02, 3), (-0.02, 0.08, 3))
_STANDPOINTS = tuple(f"{column}{row}" for column in "abc" for row in range(3))
"""Photographs of the cabinet; :data:`envs.simpler.drawer.STANDPOINTS` says where the robot stood."""


def _objects_at(places: Sequence[Sequence[float]]) -> Starts:
    """The object at each of some places [x, y]."""
    return lambda _: [{"obj_init_options": {"init_xy": xy}} for xy in places]


def _episodes(count: int) -> Starts:
    """Upstream's numbered arrangements."""
    return lambda _: [{"obj_init_options": {"episode_id": episode}} for episode in range(count)]


@functools.cache
def _google_vm() -> Protocol:
    trials: list[Trial] = []
    for task in _PICK:
        trials += _trials(task, _COLOURS, _objects_at(_CAN_PLACES))
    trials += _trials(_NEAR, _COLOURS, _episodes(60))
    for task in (*_OPEN, *_CLOSE):
        trials += _trials(task, _COLOURS, lambda _: [{"overlay_id": standpoint} for standpoint in _STANDPOINTS])
    photos_and_places = [
        {"overlay_id": standpoint, "obj_init_options": {"init_xy": xy}}
        for standpoint, xy in itertools.product(("a0", "b0", "c0"), _APPLE_PLACES)
    ]
    trials += _trials(_APPLE, _COLOURS, lambda _: photos_and_places)
    return Protocol(
        name="simpler_google_vm",
        title="Google robot, visual matching",
        trials=tuple(trials),
        averages=_GOOGLE_AVERAGES,
        notes=(
            "Move near is v0, as in the paper's script; the public name google_robot_move_near is v1.",
            "Drawers and place are rendered without ray tracing, which the published numbers have.",
        ),
    )


@functools.cache
def _widowx() -> Protocol:
    return Protocol(
        name="simpler_widowx",
        title="WidowX, visual matching",
        trials=tuple(trial for task in _WIDOWX for trial in _trials(task, [_Scene(variant="base")], _episodes(24))),
        averages={"mean of 4 tasks": _WIDOWX},
        notes=("The paper repeats policies that draw noise: --episodes-per-task 72 plays every start three times.",),
    )


# -- variant aggregation: no photograph, one colour, the scene changes -----------------------------------------------

_NO_PHOTO: Mapping[str, Any] = {"robot_variant": "", "prepackaged_config": False, "rgb_overlay_mode": "none"}
_TABLE = ("stage", "google_pick_coke_can_1_v4")
_FACING = [0.0, 0.0, 0.0, 1.0]
"""w, x, y, z of a robot that faces -x."""
_MOVE_NEAR_YAW_RAD = -0.09
_QPOS_BUT_TILT = (
    *(-0.2639457174606611, 0.0831913360274175, 0.5017611504652179, 1.156859026208673),
    *(0.028583671314766423, 1.592598203487462, -1.080652960128774, 0.0, 0.0, -0.00285961),
)
"""The Google robot's posture at reset, in upstream's joint order, without its last joint, the head's tilt."""
_HEAD_TILT_RAD: Mapping[str, float] = MappingProxyType({"camera 1": 0.9351361, "camera 2": 0.6651361})
_NO_OPTION = "no code here: the table-top scenes have no option for {} yet"


def _table_scenes(extra: Iterable[_Scene], **arguments: Any) -> list[_Scene]:
    """What both table-top tasks are varied by, and what one of them adds; the two cameras are outside the average."""
    stages = {
        "background 1": "google_pick_coke_can_1_v4_alt_background",
        "background 2": "google_pick_coke_can_1_v4_alt_background_2",
        "table 1": "Baked_sc1_staging_objaverse_cabinet1_h870",
        "table 2": "Baked_sc1_staging_objaverse_cabinet2_h870",
    }
    lights = ("slightly darker", "slightly brighter")
    scenes = [
        _Scene(variant="base"),
        *(_Scene(variant=variant, missing=_NO_OPTION.format(f"the stage {stage}")) for variant, stage in stages.items()),
        *(_Scene(variant=variant, missing=_NO_OPTION.format(f"{variant} lights")) for variant in lights),
        *extra,
        *(_Scene(variant=camera, is_averaged=False) for camera in _HEAD_TILT_RAD),
    ]
    common = {**_NO_PHOTO, **arguments}
    return [replace(scene, arguments={**common, **scene.arguments}, needs=(*scene.needs, _TABLE)) for scene in scenes]


def _turned(yaw_rad: float) -> list[float]:
    """Facing -x, turned: the product of a rotation about z with :data:`_FACING`."""
    return [-float(np.sin(yaw_rad / 2)), 0.0, 0.0, float(np.cos(yaw_rad / 2))]


def _robot(xy: Sequence[float], scene: _Scene, orientation: Sequence[float] = tuple(_FACING)) -> dict[str, Any]:
    """Where the robot stands, and how it holds its head."""
    options: dict[str, Any] = {"init_xy": list(xy), "init_rot_quat": list(orientation)}
    if scene.variant in _HEAD_TILT_RAD:
        options["qpos"] = [*_QPOS_BUT_TILT, _HEAD_TILT_RAD[scene.variant]]
    return {"robot_init_options": options}


def _cabinet_scenes(**arguments: Any) -> list[_Scene]:
    """Seven variants of the drawer tasks."""
    base = {**_NO_PHOTO, "scene_name": "frl_apartment_stage_simple", "station_name": "mk_station", **arguments}
    changes: Mapping[str, Mapping[str, str]] = {
        "base": {},
        "background 1": {"scene_name": "modern_bedroom_no_roof"},
        "background 2": {"scene_name": "modern_office_no_roof"},
        "brighter": {"light_mode": "brighter"},
        "darker": {"light_mode": "darker"},
        "cabinet 2": {"station_name": "mk_station2"},
        "cabinet 3": {"station_name": "mk_station3"},
    }
    scenes = []
    for variant, change in changes.items():
        arguments = base | dict(change)
        needs = (("stage", arguments["scene_name"]), ("cabinet_urdf", arguments["station_name"]))
        scenes.append(_Scene(variant=variant, arguments=arguments, needs=needs))
    return scenes


def _varied_places(xy: Sequence[Sequence[float]]) -> Starts:
    """The robot, facing the cabinet, at each of some places [x, y]."""
    return lambda scene: [_robot(place, scene) for place in xy]


@functools.cache
def _google_va() -> Protocol:
    trials: list[Trial] = []
    distractors = [_Scene(variant=f"{some} distractors", missing=_NO_OPTION.format("distractors")) for some in ("few", "many")]
    for task in _PICK:
        trials += _trials(
            task,
            _table_scenes(distractors),
            lambda scene: [{**_robot((0.35, 0.20), scene), **start} for start in _objects_at(_CAN_PLACES)(scene)],
        )
    trials += _trials(
        _NEAR,
        _table_scenes([_Scene(variant="no distractor", arguments={"no_distractor": True})], textures="plain"),
        lambda scene: [{**_robot((0.35, 0.21), scene, _turned(_MOVE_NEAR_YAW_RAD)), **start} for start in _episodes(60)(scene)],
    )
    for task in (*_OPEN, *_CLOSE):
        trials += _trials(task, _cabinet_scenes(), _varied_places(_grid((0.65, 0.85, 3), (-0.2, 0.2, 3))))
    trials += _trials(
        _APPLE,
        _cabinet_scenes(model_ids=("apple",)),
        lambda scene: [
            {**robot, **start}
            for robot in _varied_places(_grid((0.65, 0.65, 1), (-0.2, 0.2, 3)))(scene)
            for start in _objects_at(_APPLE_PLACES)(scene)
        ],
    )
    return Protocol(
        name="simpler_google_va",
        title="Google robot, variant aggregation",
        trials=tuple(trials),
        averages=_GOOGLE_AVERAGES,
        notes=(
            "Without a photograph the stage is seen: where an asset set has a box in its place, scores are not upstream's.",
            "Drawers and place are rendered without ray tracing, which the published numbers have.",
            "The two cameras are played and listed, and are outside the averages, as in the paper.",
        ),
    )


# -- every public name, as simpler_env.make gives it -----------------------------------------------------------------


@functools.cache
def _all_names() -> Protocol:
    trials = []
    for task in ENVIRONMENTS:
        colours = _COLOURS if TASKS[task].robot == "google_robot" else (_Scene(variant="base"),)
        for index in range(_NUM_EPISODES_OF_A_NAME):
            scene = colours[index % len(colours)]
            trials.append(Trial(task=task, variant=scene.variant, index=index, scene=scene.arguments))
    return Protocol(
        name="simpler_25",
        title="All 25 names of simpler_env.ENVIRONMENTS",
        trials=tuple(trials),
        averages={"mean of 25 tasks": ENVIRONMENTS},
        notes=(
            "Starts are drawn by seed, as simpler_env.make(name).reset(seed) does. The robot's colour goes through the four in "
            "turn where upstream draws it, so that no reset rebuilds the scene.",
        ),
    )


# -- VideoVLA's generalisation protocols -----------------------------------------------------------------------------

_NEW_TO_THE_GOOGLE_ROBOT = (
    "bridge_spoon_generated_modified",
    "bridge_carrot_generated_modified",
    "green_cube_3cm",
    "yellow_cube_3cm",
    "eggplant",
)
"""Objects of the WidowX's tasks: in no task of the Google robot's visual matching."""


@functools.cache
def _novel_objects() -> Protocol:
    task = "google_robot_pick_object"
    scenes = [
        _Scene(
            variant=f"object {model}",
            arguments={"robot_variant": "", "model_ids": (model,)},
            needs=(("object_model", model),),
        )
        for model in _NEW_TO_THE_GOOGLE_ROBOT
    ]
    starts = [{"obj_init_options": {"init_xy": xy, "orientation": "upright"}} for xy in _CAN_PLACES]
    return Protocol(
        name="videovla_novel_objects",
        title="Google robot picks up objects it was not trained on (after VideoVLA)",
        trials=tuple(_trials(task, scenes, lambda _: starts)),
        averages={"mean over objects": (task,)},
        notes=(
            "A stand-in: the paper's own objects (scans of household things) are in no asset set here. In their place are the "
            "five objects of SIMPLER's WidowX tasks, which the Google robot's visual matching never shows. Not comparable with "
            "the paper's numbers.",
        ),
    )


@functools.cache
def _new_skills() -> Protocol:
    reason = "no code here: the WidowX's tasks are built with the WidowX only, and the skill is asked of the Google robot"
    scene = _Scene(variant="played by the Google robot", missing=reason)
    return Protocol(
        name="videovla_new_skills",
        title="Google robot does what only the WidowX was trained for (after VideoVLA)",
        trials=tuple(trial for task in _WIDOWX for trial in _trials(task, [scene], _episodes(24))),
        averages={"mean of 4 tasks": _WIDOWX},
        notes=(
            "The paper's scenes were not released; SIMPLER's four WidowX skills would stand in for them. Listed so that it is "
            "not forgotten; none of its trials can be played.",
        ),
    )


_MAKERS: Mapping[str, Callable[[], Protocol]] = MappingProxyType(
    {
        "simpler_google_vm": _google_vm,
        "simpler_google_va": _google_va,
        "simpler_widowx": _widowx,
        "simpler_25": _all_names,
        "videovla_novel_objects": _novel_objects,
        "videovla_new_skills": _new_skills,
    }
)
SUITES: tuple[str, ...] = tuple(_MAKERS)
"""What ``python -m actors.evaluate --suite`` takes."""
