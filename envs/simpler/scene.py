"""What all SIMPLER scenes share: physics numbers, stage, lights, seeding, settling, the policy's image with its overlay.

Hop 1 of the tour. A task is a subclass (for example :class:`envs.simpler.pick.PickScene`): it names its overlay and
stage, builds its objects, places them, and judges. The robot is Google's unless a subclass says otherwise. The class is
ManiSkill's ``BaseEnv``, so results are torch with a leading batch dimension; :mod:`envs.simpler.gym_env` gives them
upstream's numpy form.

Differs from a usual ManiSkill environment: random draws follow upstream's order (every level of a reset restarts the
same stream, see :meth:`SimplerScene.rng`), PCM contact generation is off, and observations are composited here, reading
the renderer's buffers once, rather than through ManiSkill's sensor pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.structs import Actor
from mani_skill.utils.structs.types import DefaultMaterialsConfig, SceneConfig, SimConfig
from numpy.typing import NDArray

from core.errors import ConfigError
from envs.simpler.assets import AssetSet, Stage
from envs.simpler.bodies import TABLE_HEIGHT_M, build_object, is_moving, lock_tilt, pose_vector, stop
from envs.simpler.camera import PolicyCamera
from envs.simpler.embodiment import GOOGLE_ROBOT, Embodiment
from envs.simpler.google_robot import INIT_QPOS, ROOT_HEIGHT_M, URDF_VARIANTS, GoogleRobot
from envs.simpler.native import collision_bounds, render_camera, unwrap
from envs.simpler.overlay import Overlay
from envs.simpler.robot import SimplerRobot

PARKED = sapien.Pose([-10.0, 0.0, 0.0])
"""Where the robot waits while objects settle."""

_DEFAULT_LIGHTS = (((0.0, 0.0, -1.0), 2.2), ((-1.0, -0.5, -1.0), 0.7), ((1.0, 1.0, -1.0), 0.7))
_FIRST_SEED = 2022


class SimplerScene(BaseEnv):
    """A scene with one of SIMPLER's robots.

    Args:
        assets: where robot, objects, stage and overlay come from.
        obs_size: height and width of the policy's image, px; the field of view does not depend on it.
        prepackaged_config: upstream's visual-matching evaluation: fixed robot pose, random robot colour.
        urdf_version: robot colour. None draws one per episode under ``prepackaged_config`` (each change rebuilds the
            scene, which is slow); a name fixes it.
        rgb_overlay_mode: ``background``, ``object``, ``debug``, or ``none`` for the plain rendering.
        render: False gives no image (and needs no observation camera).
    """

    metadata: Mapping[str, Any] = {"render_modes": ["rgb_array"]}
    stage_name: str
    overlay_name: str
    contact_offset_m = 0.02
    glossy_robot = True
    is_stage_solid = True
    lights: tuple[tuple[tuple[float, float, float], float], ...] = _DEFAULT_LIGHTS
    ambient_light: float = 0.3
    embodiment: Embodiment = GOOGLE_ROBOT
    camera: PolicyCamera = GOOGLE_ROBOT.camera
    urdf_variants: tuple[str, ...] = URDF_VARIANTS
    init_qpos: tuple[float, ...] = INIT_QPOS
    """At reset, in the order of :attr:`envs.simpler.robot.SimplerRobot.upstream_joints`."""
    root_height_m = ROOT_HEIGHT_M
    agent: SimplerRobot

    def __init__(
        self,
        *,
        assets: AssetSet,
        obs_size: tuple[int, int],
        prepackaged_config: bool = True,
        urdf_version: str | None = None,
        rgb_overlay_mode: str = "background",
        render: bool = True,
    ) -> None:
        if urdf_version is not None and urdf_version not in self.urdf_variants:
            raise ConfigError(f"urdf_version={urdf_version!r}; known are {', '.join(map(repr, self.urdf_variants))} and None")
        self.assets = assets
        self.obs_size = obs_size
        self.prepackaged_config = prepackaged_config
        self.robot_init_options: Mapping[str, Any] = {}
        self._fixed_urdf_version = urdf_version
        self.urdf_version = urdf_version or ""
        self._overlay = (
            None
            if rgb_overlay_mode == "none" or not render
            else Overlay(assets.overlay(self.overlay_name), mode=rgb_overlay_mode, height_px=obs_size[0], width_px=obs_size[1])
        )
        self.rgb_overlay_mode = rgb_overlay_mode
        self.is_rendering = render  # may be switched off for a while by who steps without looking
        self.episode_seed = _FIRST_SEED
        super().__init__(
            num_envs=1,
            obs_mode="rgb+depth+segmentation" if render else "none",
            reward_mode="sparse",
            sim_backend="physx_cpu",
            render_backend="sapien_cpu",
        )

    @property
    def _default_sim_config(self) -> SimConfig:
        return simulation_config(self.embodiment, contact_offset_m=self.contact_offset_m)

    # -- building ------------------------------------------------------------------------------------------------

    def _load_agent(self, options: dict[str, Any], *_: Any, **__: Any) -> None:
        self.agent = self._build_robot(
            self.scene,
            self._control_freq,
            camera=self.camera,
            camera_size_px=self.obs_size,
            initial_pose=sapien.Pose([0.35, 0.2, self.root_height_m], [0, 0, 0, 1]),
            glossy=self.glossy_robot,
        )

    def _build_robot(self, *scene: Any, **how: Any) -> SimplerRobot:
        """Arguments as :class:`envs.simpler.robot.SimplerRobot`, without the URDF."""
        return GoogleRobot(*scene, urdf_file=self.assets.robot_urdf(self.urdf_version), **how)

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.arena = build_stage(self.scene, self.stage, is_solid=self.is_stage_solid)
        self._load_objects()

    @property
    def stage(self) -> Stage:
        """A static table with its top at the nominal height; invisible where the asset set has no visual for it."""
        return self.assets.stage(self.stage_name)

    def _load_objects(self) -> None:
        """Build the task's objects."""
        raise NotImplementedError

    def build_object(
        self, model_id: str, *, linear_damping: float = 0.0, angular_damping: float = 0.0, density: float | None = None
    ) -> Actor:
        """Build one object of the asset set, with SIMPLER's object friction; ``density`` in kg/m^3 replaces the set's."""
        damping = (linear_damping, angular_damping)
        return build_object(self.scene, self.assets.object_model(model_id), damping=damping, density=density)

    def _load_lighting(self, options: dict[str, Any]) -> None:
        add_lights(self.scene, self.ambient_light, self.lights)

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        super()._setup_sensors(options)
        self._camera = render_camera(self._sensors[self.camera.name])
        if self._overlay is None:
            return
        robot_ids = {unwrap(link).entity.per_scene_id for link in self.agent.robot.links}
        object_ids = {
            unwrap(actor).per_scene_id for name, actor in self.scene.actors.items() if name not in self.overlaid_objects
        }
        for name, articulation in self.scene.articulations.items():
            if articulation is not self.agent.robot and name not in self.overlaid_objects:
                object_ids |= {unwrap(link).entity.per_scene_id for link in articulation.links}
        self._overlay.keep(robot_ids, object_ids)

    def show_overlay(self, name: str) -> None:
        """Put another photograph behind the scene, from now on."""
        if self._overlay is not None and name != self.overlay_name:
            self._overlay.show(self.assets.overlay(name))
        self.overlay_name = name

    @property
    def overlaid_objects(self) -> frozenset[str]:
        """Names of what the photograph always hides: the stage, and what a task adds."""
        return frozenset({"ground", "goal_site", "", "arena"})

    # -- resetting -----------------------------------------------------------------------------------------------

    def rng(self) -> np.random.RandomState:
        """A fresh stream of this episode's seed.

        Upstream restarts the stream at every nesting level of a reset, so orientation, robot colour and positions are
        correlated for a given seed; equal seeds give equal episodes only if that is kept.
        """
        return np.random.RandomState(self.episode_seed)

    def reset(self, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of every draw. None continues upstream's chain: the next number of a stream seeded by the last seed.
            options: upstream's reset options; not modified.
        """
        options = dict(options or {})
        if seed is None:
            seed = next_seed(self.episode_seed)
        self.episode_seed = int(np.atleast_1d(seed)[0])
        self.robot_init_options = dict(options.get("robot_init_options", {}))
        is_rebuild = self._choose_models(options)
        if self.prepackaged_config:
            is_rebuild |= self._apply_prepackaged_config()
        options["reconfigure"] = bool(options.get("reconfigure", False)) or is_rebuild
        obs, _ = super().reset(seed=[self.episode_seed], options=options)
        self._clear_progress()  # ManiSkill judges once at reset, upstream does not
        return obs, self.reset_info() | {"reconfigure": options["reconfigure"]}

    def _clear_progress(self) -> None:
        """Forget what the task has counted so far."""

    def _choose_models(self, options: dict[str, Any]) -> bool:
        """Decide what to build; returns whether the scene must be rebuilt for it."""
        raise NotImplementedError

    def _apply_prepackaged_config(self) -> bool:
        """Fix the robot's pose and draw its colour; returns whether the colour changed."""
        self.robot_init_options = {"init_xy": self.prepackaged_robot_xy, "init_rot_quat": [0, 0, 0, 1]}
        return self._choose_urdf_version(str(self.rng().choice(list(self.urdf_variants))))

    def _choose_urdf_version(self, drawn: str) -> bool:
        """Take the drawn colour unless one was fixed; returns whether it changed."""
        wanted = drawn if self._fixed_urdf_version is None else self._fixed_urdf_version
        changed, self.urdf_version = wanted != self.urdf_version, wanted
        return changed

    prepackaged_robot_xy: tuple[float, float] = (0.35, 0.20)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        random = self.rng()
        self._place_objects(random, options)
        self._place_robot(random)

    def _place_objects(self, random: np.random.RandomState, options: dict[str, Any]) -> None:
        """Put the objects where the episode starts and let them settle."""
        raise NotImplementedError

    def note_settled(self) -> None:
        """Remember what the task measures from: called when the objects lie as the episode will find them."""
        raise NotImplementedError

    def _place_robot(self, random: np.random.RandomState) -> None:
        options = self.robot_init_options
        self.agent.set_qpos_upstream(np.asarray(options.get("qpos", self.init_qpos)))
        xy = options.get("init_xy")
        if xy is None:
            xy = self._draw_robot_xy(random)
        height_m = options.get("init_height", self.root_height_m)
        self.agent.robot.set_pose(sapien.Pose([*xy, height_m], options.get("init_rot_quat", [0, 0, 0, 1])))

    def _draw_robot_xy(self, random: np.random.RandomState) -> tuple[float, float]:
        """Where the robot stands if nobody says."""
        return random.uniform(0.30, 0.40), random.uniform(0.0, 0.2)

    def park_robot(self) -> None:
        """Put the robot out of the way, at rest in its first posture.

        Upstream leaves it in the last episode's posture. Closed fingers touch each other, and their contacts are solved
        in one SIMD batch with the object's: settling would depend, by 1e-6 m, on how the last episode ended.
        """
        self.agent.set_qpos_upstream(np.asarray(self.init_qpos))
        self.agent.robot.set_pose(PARKED)

    def settle(self, duration_s: float) -> None:
        """Let physics run without acting."""
        for _ in range(int(self.embodiment.sim_hz * duration_s)):
            self.scene.px.step()

    def drop(self, actor: Actor, start: sapien.Pose) -> None:
        """Let an object fall from a pose, upright until it lies, and come to rest; the robot is out of the way."""
        self.drop_together([(actor, start)])

    def drop_together(self, starts: Sequence[tuple[Actor, sapien.Pose]]) -> None:
        """Let several objects fall at the same time, as :meth:`drop` does one."""
        for actor, start in starts:
            actor.set_pose(start)
            lock_tilt(actor, is_locked=True)
        self.park_robot()
        self.settle(0.5)
        for actor, _ in starts:
            lock_tilt(actor, is_locked=False)
            stop(actor)
        self.settle(0.5)
        if is_moving([actor for actor, _ in starts]):
            self.settle(1.5)

    @property
    def first_obs(self) -> dict[str, Any]:
        """The observation of the reset during construction; what observation spaces are made from."""
        return self._init_raw_obs

    # -- observing -----------------------------------------------------------------------------------------------

    def get_obs(self, info: dict[str, Any] | None = None, unflattened: bool = False) -> dict[str, Any]:
        """Upstream's nesting: ``agent``, ``extra``, and with a camera ``camera_param`` and ``image``; torch, batch 1."""
        obs: dict[str, Any] = {"agent": self._get_obs_agent(), "extra": self._get_obs_extra(info or {})}
        if self.is_rendering:
            name = self.camera.name
            obs["camera_param"] = {name: self._sensors[name].get_params()}
            obs["image"] = {name: {key: _batched(value) for key, value in self._look().items()}}
        return obs

    def _get_obs_agent(self) -> dict[str, Any]:
        agent = self.agent
        return {
            "qpos": _batched(agent.qpos_upstream()),
            "qvel": _batched(agent.qvel_upstream()),
            "controller": agent.controller.get_state(),
            "base_pose": _batched(pose_vector(agent.base_pose())),
        }

    def _get_obs_extra(self, info: dict[str, Any]) -> dict[str, Any]:
        return {"tcp_pose": _batched(pose_vector(self.agent.tcp_pose()))}

    def _look(self) -> dict[str, NDArray[Any]]:
        """Render the policy's camera once: rgb with overlay, depth in metres, segmentation ids."""
        self.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        self._camera.take_picture()
        rgb = self._camera.get_picture("Color")[..., :3]
        position_and_id = self._camera.get_picture("PositionSegmentation")
        actor_id = position_and_id[..., 3]
        segmentation = np.zeros((*actor_id.shape, 4), dtype=np.int32)
        segmentation[..., 1] = actor_id
        return {
            "rgb": np.ascontiguousarray(rgb) if self._overlay is None else self._overlay.apply(rgb, actor_id),
            "depth": position_and_id[..., 2:3].astype(np.float32) * np.float32(-1e-3),
            "Segmentation": segmentation,
        }

    # -- the task ------------------------------------------------------------------------------------------------

    @property
    def task_object(self) -> Actor:
        """The object that the instruction is about."""
        raise NotImplementedError

    def task_pose(self) -> sapien.Pose:
        """Its pose in the world."""
        pose: sapien.Pose = unwrap(self.task_object).pose
        return pose

    def task_object_bounds(self) -> NDArray[np.float64]:
        """Smallest and largest corner [2, 3] of its collision shapes, m, in its own frame."""
        return collision_bounds(self.task_object)

    def target_pose(self) -> sapien.Pose:
        """Where the instruction wants it: the pose of another object, in tasks that name one."""
        raise NotImplementedError

    def target_bounds(self) -> NDArray[np.float64]:
        """As :meth:`task_object_bounds`, of that object."""
        raise NotImplementedError

    def bystander_poses(self) -> list[sapien.Pose]:
        """Of objects that the instruction does not mention."""
        return []

    def language_instruction(self) -> str:
        """What the robot is asked to do in the present stage."""
        raise NotImplementedError

    def is_final_subtask(self) -> bool:
        """Whether no stage follows the present one."""
        return True

    def advance_to_next_subtask(self) -> None:
        """Begin the next stage, where a task has one."""

    def reset_info(self) -> dict[str, Any]:
        """What upstream reports at reset about the scene."""
        return {
            "scene_name": self.stage_name,
            "scene_offset": None,
            "scene_pose": None,
            "scene_table_height": TABLE_HEIGHT_M,
            "urdf_version": self.urdf_version,
            "rgb_overlay_path": None if self._overlay is None else f"{self.assets.name}:{self.overlay_name}",
            "rgb_overlay_cameras": [self.camera.name],
            "rgb_overlay_mode": self.rgb_overlay_mode,
            "disable_bad_material": not self.glossy_robot,
        }


def next_seed(seed: int) -> int:
    """Of the episode after one with this seed, where the caller gives none: upstream's chain."""
    return int(np.random.RandomState(seed).randint(2**32, dtype=np.uint64))


def simulation_config(embodiment: Embodiment, *, contact_offset_m: float) -> SimConfig:
    """SIMPLER's physics numbers; upstream's contact generation is not PCM (on a GPU PhysX has no other)."""
    return SimConfig(
        sim_freq=embodiment.sim_hz,
        control_freq=embodiment.control_hz,
        scene_config=SceneConfig(
            solver_position_iterations=25,
            solver_velocity_iterations=1,
            contact_offset=contact_offset_m,
            enable_pcm=False,
            enable_tgs=True,
        ),
        default_materials_config=DefaultMaterialsConfig(static_friction=1.0, dynamic_friction=1.0, restitution=0.0),
    )


def build_stage(scene: Any, stage: Stage, *, is_solid: bool = True) -> Actor:
    """The static scene around the objects, in each of a ManiSkill scene's environments; not solid: only looked at."""
    builder = scene.create_actor_builder()
    stage.add_to(builder, with_collision=is_solid)
    builder.initial_pose = stage.pose
    return builder.build_static(name="arena")


def add_lights(scene: Any, ambient: float, lights: Sequence[tuple[tuple[float, float, float], float]]) -> None:
    """White light from everywhere, and from directions, each with its strength; no shadows."""
    scene.set_ambient_light([ambient] * 3)
    for direction, intensity in lights:
        scene.add_directional_light(list(direction), [intensity] * 3)


def _batched(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array)[None]
