"""What batched SIMPLER scenes share: N copies of one scene in one physics system, on the GPU or (N = 1) on the CPU.

Hop 1 of the tour, for learners that want thousands of steps a second. Numbers, builders, grids and success rules are those of the
scenes with one environment (:mod:`envs.simpler.scene` and its tasks): one of them is made first, and everything that can be read
off it is (:class:`Starts`). This adds the leading dimension. Results are torch on ManiSkill's device.

Differs from the scene with one environment:

- Objects do not fall at a reset. Stepping physics would move the other environments too, so they fall once, in the scene that is
  made first, and every episode begins with them at rest as they came to lie there.
- Visual matching only (``prepackaged_config``), one robot colour, images without depth, and no upstream extras
  (``robot_init_options``, reset information).
- PhysX has only its PCM contact generation on the GPU, upstream's is the other: contacts are not those of the benchmark.
  Scores that are to be compared with published ones come from :func:`envs.simpler.make`.

NOTE: this has run on the CPU backend only. It has not run on a GPU yet (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.structs.types import GPUMemoryConfig, SimConfig
from torch import Tensor

from core.errors import ConfigError, NonFiniteError, SpecError
from core.specs import ActionSpec
from envs.simpler.assets import Stage
from envs.simpler.batched.google_robot import BatchedGoogleRobot
from envs.simpler.batched.overlay import BatchedOverlay
from envs.simpler.batched.robot import BatchedRobot
from envs.simpler.gym_env import ABSURD_MAGNITUDE
from envs.simpler.scene import SimplerScene, add_lights, build_stage, next_seed, simulation_config

UNSEEN: Mapping[str, Any] = {"obs_size": (8, 8), "urdf_version": "", "render": False}
"""Of the scene with one environment that :attr:`BatchedScene.prepare` makes: nobody looks at it."""
_SPACING_M, _CLEARANCE_M = 5.0, 2.0
_CONTACTS, _PATCHES = 2048, 512  # of one environment, generously; PhysX's buffers are made once


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where the episodes of one task begin, found out once and shared by all environments."""

    one: SimplerScene
    """The scene with one environment, closed again: camera, lights, stage and joints are read off it."""

    @property
    def photographs(self) -> tuple[str, ...]:
        """Names of what may be behind the scene."""
        return (self.one.overlay_name,)


def waiting_pose(place: int) -> sapien.Pose:
    """Where something is while it takes no part: behind the camera and below everything, apart from others.

    It falls from there until the episode ends, touching nothing, and PhysX takes its first step on a GPU before any episode
    begins, so things that wait must not overlap.
    """
    return sapien.Pose([1.6, -1.0 + 0.25 * place, -1.0])


def expand_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """One seed per environment, as Gymnasium's vector environments have it.

    Args:
        seed: of the first environment, the others follow; or one each.
        num_envs: how many.

    Raises:
        SpecError: another number of seeds.

    Example:
        >>> expand_seeds(7, 3)
        [7, 8, 9]
    """
    seeds = [seed + index for index in range(num_envs)] if isinstance(seed, int | np.integer) else [int(one) for one in seed]
    if len(seeds) != num_envs:
        raise SpecError(f"{len(seeds)} seeds for {num_envs} environments; give one each, or one number for all")
    return seeds


class BatchedScene(BaseEnv):
    """N scenes with one of SIMPLER's robots.

    Args:
        starts: of :attr:`prepare`.
        num_envs: N.
        obs_size: as :class:`envs.simpler.scene.SimplerScene`.
        max_episode_steps: after which an episode is truncated.
        sim_backend: ManiSkill's, ``physx_cuda`` or ``physx_cpu``.
        render_backend: ManiSkill's, ``sapien_cuda`` or ``sapien_cpu``.
        render: False gives no image.
    """

    metadata: Mapping[str, Any] = {"render_modes": ["rgb_array"]}
    agent: BatchedRobot
    prepare: ClassVar[Callable[..., Starts]]
    """Find out where episodes begin, in a scene with one environment; arguments: asset set, then the task's."""

    def __init__(
        self,
        starts: Any,
        *,
        num_envs: int,
        obs_size: tuple[int, int],
        max_episode_steps: int,
        sim_backend: str,
        render_backend: str,
        render: bool = True,
    ) -> None:
        self.metadata = dict(self.metadata)
        self.starts = starts
        self.one: SimplerScene = starts.one
        self.assets = self.one.assets
        self.obs_size = obs_size
        self.max_episode_steps = max_episode_steps
        self.is_rendering = render
        self._env_seeds = [0] * num_envs
        self._verdict: dict[str, Tensor] = {}
        super().__init__(
            num_envs=num_envs,
            obs_mode="rgb+segmentation" if render else "none",
            reward_mode="sparse",
            sim_backend=sim_backend,
            render_backend=render_backend,
        )

    @property
    def _default_sim_config(self) -> SimConfig:
        config = simulation_config(self.one.embodiment, contact_offset_m=self.one.contact_offset_m)
        config.spacing = _spacing_m(self.one.stage) if self.one.is_stage_solid else _SPACING_M
        smallest = GPUMemoryConfig()
        config.gpu_memory_config = GPUMemoryConfig(
            max_rigid_contact_count=max(smallest.max_rigid_contact_count, _CONTACTS * self.num_envs),
            max_rigid_patch_count=max(smallest.max_rigid_patch_count, _PATCHES * self.num_envs),
        )
        return config

    # -- building ------------------------------------------------------------------------------------------------

    def _load_agent(self, options: dict[str, Any], *_: Any, **__: Any) -> None:
        x, y = waiting_pose(0).p[:2]
        self.agent = self._build_robot(
            self.scene,
            self._control_freq,
            camera=self.one.camera,
            camera_size_px=self.obs_size,
            initial_pose=sapien.Pose([x, y, self.one.root_height_m], [0, 0, 0, 1]),
            glossy=self.one.glossy_robot,
        )
        self._init_qpos = torch.tensor(self.one.init_qpos, dtype=torch.float32, device=self.device)

    def _build_robot(self, *scene: Any, **how: Any) -> BatchedRobot:
        """Arguments as :class:`envs.simpler.robot.SimplerRobot`, without the URDF."""
        return BatchedGoogleRobot(*scene, urdf_file=self.assets.robot_urdf(), **how)

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.arena = build_stage(self.scene, self.one.stage, is_solid=self.one.is_stage_solid)
        self._shown = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._load_objects()

    def _load_objects(self) -> None:
        """Build the task's objects, each at a place of its own (:func:`waiting_pose`)."""
        raise NotImplementedError

    def _load_lighting(self, options: dict[str, Any]) -> None:
        add_lights(self.scene, self.one.ambient_light, self.one.lights)

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        super()._setup_sensors(options)
        if not self.is_rendering:
            return
        height_px, width_px = self.obs_size
        photos = [self.assets.overlay(name) for name in self.starts.photographs]
        self._overlay = BatchedOverlay(photos, height_px=height_px, width_px=width_px, device=self.device)
        bodies = [actor for name, actor in self.scene.actors.items() if name not in self.one.overlaid_objects]
        for articulation in self.scene.articulations.values():
            bodies += articulation.links
        self._overlay.keep({int(body.per_scene_id[0]) for body in bodies})  # the same in each scene

    # -- resetting -----------------------------------------------------------------------------------------------

    def reset(
        self, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: see :func:`expand_seeds`. None continues each environment's chain, as the scene with one environment does.
            options: of the task, and ``env_idx``: which environments, all if absent.

        Raises:
            SpecError: the number of seeds is not that of the environments to reset.
        """
        options = options or {}
        chosen = options.get("env_idx", torch.arange(self.num_envs)).tolist()
        seeds = [next_seed(self._env_seeds[env]) for env in chosen] if seed is None else expand_seeds(seed, len(chosen))
        for env, episode_seed in zip(chosen, seeds, strict=True):
            self._env_seeds[env] = episode_seed
        return super().reset(options=options)  # type: ignore[no-any-return]  # ManiSkill's own streams are not used

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        seeds = [self._env_seeds[env] for env in env_idx.tolist()]
        self._begin_episodes(env_idx, seeds, options.get("obj_init_options") or {}, options)
        self.agent.place(env_idx, self._init_qpos)
        for flag in self._verdict.values():
            flag[env_idx] = False

    def _begin_episodes(
        self, env_idx: Tensor, seeds: list[int], object_options: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Put robot and objects of some environments where their episodes begin, and forget what these have counted.

        Args:
            env_idx: [n] of the environments; ManiSkill's reset mask names the same ones.
            seeds: one for each of these.
            object_options: upstream's ``obj_init_options``, where the task takes any; a value, or one per environment.
            options: all options of ``reset``.
        """
        raise NotImplementedError

    def _place_robot_as_in_one(self) -> None:
        """Put the robot where visual matching has it, in the environments that are being reset."""
        start = self.one.robot_init_options
        self.agent.robot.set_pose(sapien.Pose([*start["init_xy"], self.one.root_height_m], start["init_rot_quat"]))

    def language_instructions(self) -> list[str]:
        """What the robot of each environment is asked to do."""
        raise NotImplementedError

    # -- stepping ------------------------------------------------------------------------------------------------

    def step(self, action: Any) -> tuple[dict[str, Any], Tensor, Tensor, Tensor, dict[str, Any]]:
        """Execute one action in every environment.

        Args:
            action: [N, 7], :attr:`envs.simpler.embodiment.Embodiment.action`.

        Returns:
            Observation, reward (1 on success), success, time limit, flags of the task's rule; [N] or [N, ...] each.

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        obs, reward, terminated, _, info = super().step(
            checked_actions(action, self.one.embodiment.action, self.num_envs, self.device)
        )
        return obs, reward, terminated, self._elapsed_steps >= self.max_episode_steps, info

    def _step_action(self, action: Any) -> Any:
        action = super()._step_action(action)
        self._verdict = self._judge()
        return action

    def _judge(self) -> dict[str, Tensor]:
        """The task's rule on the state after a step; flags [N], among them ``success``."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, Tensor]:
        """The latest verdict; ManiSkill asks at resets too, but the rule counts and so is asked once per step."""
        return {key: flag.clone() for key, flag in self._verdict.items()}

    # -- observing -----------------------------------------------------------------------------------------------

    def get_obs(self, info: dict[str, Any] | None = None, unflattened: bool = False) -> dict[str, Any]:
        """As the scene with one environment: ``agent``, ``extra``, and with a camera ``image``; torch [N, ...]."""
        robot = self.agent
        obs: dict[str, Any] = {
            "agent": {
                "qpos": robot.qpos_upstream_batch(),
                "qvel": robot.qvel_upstream_batch(),
                "controller": robot.controller.get_state(),
                "base_pose": robot.robot.pose.raw_pose,
            },
            "extra": {"tcp_pose": robot.tcp.pose.raw_pose},
        }
        if self.is_rendering:
            obs["image"] = {self.one.camera.name: {"rgb": self._look()}}
        return obs

    def _look(self) -> Tensor:
        """Render all cameras and put the photograph behind: [N, H, W, 3] uint8."""
        self.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        sensor = self._sensors[self.one.camera.name]
        sensor.capture()
        seen = sensor.get_obs(rgb=True, depth=False, position=False, segmentation=True)
        return self._overlay.apply(seen["rgb"], seen["segmentation"][..., 0], self._shown)


def checked_actions(action: Any, spec: ActionSpec, num_envs: int, device: torch.device) -> Tensor:
    """The actions [N, A] as a tensor on the device.

    Raises:
        SpecError: wrong shape or absurdly large.
        NonFiniteError: not finite.
    """
    tensor = torch.as_tensor(action, dtype=torch.float32, device=device)
    if tensor.shape != (num_envs, spec.dim):
        raise SpecError(f"actions have shape {tuple(tensor.shape)}; expected ({num_envs}, {spec.dim})")
    bounds = ABSURD_MAGNITUDE * torch.tensor([spec.low, spec.high], device=device).abs().amax(dim=0)
    is_refused = ~(tensor.abs() <= bounds)  # NaN too
    if is_refused.any():
        env, index = is_refused.nonzero()[0].tolist()
        value, bound = float(tensor[env, index]), float(bounds[index])
        kind = SpecError if np.isfinite(value) else NonFiniteError
        raise kind(
            f"environment {env}: action[{index}] ({spec.names[index]}) is {value:.6g} {spec.units[index]}; limits are "
            f"[{spec.low[index]}, {spec.high[index]}] and anything beyond {bound:.6g} is refused"
        )
    return tensor


def per_environment(value: Any, default: Sequence[Any], name: str) -> list[Any]:
    """An option of ``reset`` for each environment that is reset.

    Args:
        value: for all of them, or a sequence with one each; None for the default.
        default: what was drawn, one each.
        name: for the message.

    Raises:
        ConfigError: a sequence of another length.
    """
    if value is None:
        return list(default)
    if isinstance(value, str) or np.ndim(value) == 0:
        return [value] * len(default)
    if len(value) != len(default):
        raise ConfigError(f"{name} has {len(value)} values; expected one, or {len(default)} for the environments that are reset")
    return list(value)


def _spacing_m(stage: Stage) -> float:
    """How far apart the environments' origins are, so that no stage reaches into the next one.

    All environments share one world on a GPU, and coordinates are single precision: no farther than needed.
    """
    import trimesh

    corners = [np.abs(box.center) + np.array(box.half_size) for box in stage.boxes if box.is_solid]
    if stage.mesh_file is not None:
        corners.append(np.full(3, np.abs(trimesh.load(stage.mesh_file, force="scene").bounds).max()))
    reach_m = max((float(corner[:2].max()) for corner in corners), default=0.0) + float(np.abs(stage.position[:2]).max())
    return max(_SPACING_M, 2 * reach_m + _CLEARANCE_M)
