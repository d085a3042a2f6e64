"""What batched SIMPLER scenes share: N copies of one scene in one physics system, on the GPU or (N = 1) on the CPU.

Hop 1 of the tour, for learners that want thousands of steps a second. Numbers, builders, grids and success rules are those of the
scenes with one environment (:mod:`envs.simpler.scene` and its tasks); this adds the leading dimension. Results are torch on
ManiSkill's device.

Differs from the scene with one environment:

- Objects do not fall at a reset. Stepping physics would move the other environments too, so they fall once, in a scene of the
  usual kind while this one is built, and every episode begins with them at rest as they came to lie, moved to its place.
- One robot colour, images without depth, and no upstream extras (``robot_init_options``, reset information).
- PhysX has only its PCM contact generation on the GPU, upstream's is the other: contacts are not those of the benchmark.
  Scores that are to be compared with published ones come from :func:`envs.simpler.make`.

NOTE: this has run on the CPU backend with one environment. It has not run on a GPU yet (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.structs import Actor
from mani_skill.utils.structs.types import SimConfig
from torch import Tensor

from core.errors import NonFiniteError, SpecError
from envs.simpler.assets import AssetSet
from envs.simpler.batched.google_robot import BatchedGoogleRobot
from envs.simpler.gym_env import ABSURD_MAGNITUDE
from envs.simpler.overlay import Overlay
from envs.simpler.scene import SimplerScene, add_lights, build_stage, simulation_config


class BatchedScene(BaseEnv):
    """N scenes with the Google robot.

    Args:
        num_envs: N.
        assets: as :class:`envs.simpler.scene.SimplerScene`.
        obs_size: likewise.
        max_episode_steps: after which an episode is truncated.
        sim_backend: ManiSkill's, ``physx_cuda`` or ``physx_cpu``.
        render_backend: ManiSkill's, ``sapien_cuda`` or ``sapien_cpu``.
        render: False gives no image.
    """

    metadata: Mapping[str, Any] = {"render_modes": ["rgb_array"]}
    one: ClassVar[type[SimplerScene]]
    """The scene with one environment that this is N of."""
    agent: BatchedGoogleRobot

    def __init__(
        self,
        *,
        num_envs: int,
        assets: AssetSet,
        obs_size: tuple[int, int],
        max_episode_steps: int,
        sim_backend: str,
        render_backend: str,
        render: bool = True,
    ) -> None:
        self.metadata = dict(self.metadata)
        self.assets = assets
        self.obs_size = obs_size
        self.max_episode_steps = max_episode_steps
        self.is_rendering = render
        self._overlay = Overlay(
            assets.overlay(self.one.overlay_name), mode="background", height_px=obs_size[0], width_px=obs_size[1]
        )
        action = self.one.embodiment.action
        self._action_bound = ABSURD_MAGNITUDE * torch.tensor([action.low, action.high]).abs().amax(dim=0)
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
        return simulation_config(self.one.embodiment, contact_offset_m=self.one.contact_offset_m)

    # -- building ------------------------------------------------------------------------------------------------

    def _load_agent(self, options: dict[str, Any], *_: Any, **__: Any) -> None:
        self.agent = BatchedGoogleRobot(
            self.scene,
            self._control_freq,
            urdf_file=self.assets.robot_urdf(),
            camera=self.one.camera,
            camera_size_px=self.obs_size,
            initial_pose=sapien.Pose([*self.one.prepackaged_robot_xy, self.one.root_height_m], [0, 0, 0, 1]),
            glossy=self.one.glossy_robot,
        )
        self._init_qpos = torch.tensor(self.one.init_qpos, dtype=torch.float32, device=self.device)

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.arena = build_stage(self.scene, self.assets.stage(self.one.stage_name))
        self._load_objects()

    def _load_objects(self) -> None:
        """Build the task's objects."""
        raise NotImplementedError

    def _load_lighting(self, options: dict[str, Any]) -> None:
        add_lights(self.scene, self.one.ambient_light, self.one.lights)

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        super()._setup_sensors(options)
        robot_ids = {link._objs[0].entity.per_scene_id for link in self.agent.robot.links}  # noqa: SLF001 (the same in each scene)
        self._overlay.keep(robot_ids, {int(actor.per_scene_id[0]) for actor in self.task_objects})

    @property
    def task_objects(self) -> list[Actor]:
        """What the photograph does not hide."""
        raise NotImplementedError

    # -- resetting -----------------------------------------------------------------------------------------------

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        seeds = [int(self._episode_seed[index]) for index in env_idx.tolist()]
        self._place_objects(env_idx, seeds, options)
        self.agent.place(env_idx, self._init_qpos)
        for flag in self._verdict.values():
            flag[env_idx] = False

    def _place_objects(self, env_idx: Tensor, seeds: list[int], options: dict[str, Any]) -> None:
        """Put the objects of some environments where their episodes begin, and forget what these have counted.

        Args:
            env_idx: [n] of the environments; ManiSkill's reset mask names the same ones.
            seeds: one for each of these.
            options: of ``reset``.
        """
        raise NotImplementedError

    # -- stepping ------------------------------------------------------------------------------------------------

    def step(self, action: Any) -> tuple[dict[str, Any], Tensor, Tensor, Tensor, dict[str, Any]]:
        """Execute one action in every environment.

        Args:
            action: [N, 7].

        Returns:
            Observation, reward (1 on success), success, time limit, flags of the task's rule; [N] or [N, ...] each.

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        obs, reward, terminated, _, info = super().step(self._checked(action))
        return obs, reward, terminated, self._elapsed_steps >= self.max_episode_steps, info

    def _checked(self, action: Any) -> Tensor:
        tensor = torch.as_tensor(action, dtype=torch.float32, device=self.device)
        spec = self.one.embodiment.action
        if tensor.shape != (self.num_envs, spec.dim):
            raise SpecError(f"actions have shape {tuple(tensor.shape)}; expected ({self.num_envs}, {spec.dim})")
        is_refused = ~(tensor.abs() <= self._action_bound.to(self.device))  # NaN too
        if is_refused.any():
            env, index = is_refused.nonzero()[0].tolist()
            value, bound = float(tensor[env, index]), float(self._action_bound[index])
            kind = SpecError if np.isfinite(value) else NonFiniteError
            raise kind(
                f"environment {env}: action[{index}] ({spec.names[index]}) is {value:.6g} {spec.units[index]}; limits are "
                f"[{spec.low[index]}, {spec.high[index]}] and anything beyond {bound:.6g} is refused"
            )
        return tensor

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
        return self._overlay.apply_batch(seen["rgb"], seen["segmentation"][..., 0])
