"""SIMPLER for this project's actors: hop 1 of the tour, action -> Observation.

Adds to :mod:`envs.simpler.gym_env` our records, the proprioceptive state, and what a scripted expert may know. One robot
colour by default, so that no reset rebuilds the scene.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.experience import Observation
from core.specs import CameraSpec, EnvSpec, StateSpec
from envs.simpler.embodiment import EMBODIMENTS
from envs.simpler.gym_env import SimplerGymEnv
from envs.simpler.native import unwrap
from envs.simpler.tasks import find_task

_STATE = StateSpec(
    names=("tcp_x", "tcp_y", "tcp_z", "tcp_qw", "tcp_qx", "tcp_qy", "tcp_qz", "gripper_closedness"),
    units=("m", "m", "m", "1", "1", "1", "1", "1"),
)


class PoseInFrames(NamedTuple):
    """A pose twice: each [7] float32, position (m) then quaternion w, x, y, z."""

    base: NDArray[np.float32]
    """In the robot's base frame: the frame of actions."""
    world: NDArray[np.float32]


def simpler_env_spec(task: str, image_size_px: tuple[int, int] | None) -> EnvSpec:
    """What a task shows and accepts, without building it.

    Args:
        task: a public SIMPLER name.
        image_size_px: height and width; None: no image.
    """
    embodiment = EMBODIMENTS[find_task(task).robot]
    cameras: tuple[CameraSpec, ...] = ()
    if image_size_px is not None:
        cameras = (CameraSpec(name=embodiment.camera.name, height_px=image_size_px[0], width_px=image_size_px[1]),)
    return EnvSpec(cameras=cameras, state=_STATE, action=embodiment.action)


class SimplerTaskEnv:
    """One SIMPLER task; implements :class:`envs.task_env.TaskEnv`.

    Example:
        Google robot: observation.images {"overhead_camera": uint8 [128, 160, 3]}, observation.state float32 [8], 3 Hz, 80 steps.
        WidowX: {"3rd_view_camera": ...}, 5 Hz, 60 steps.

    Args:
        task: a public SIMPLER name.
        assets: ``"builtin"`` or ``"upstream"``.
        image_height_px: of the camera's image; the field of view does not depend on it.
        image_width_px: of the camera's image.
        robot_variant: robot colour; None draws one per episode as upstream's evaluation does (slow: each change
            rebuilds the scene).
        **scene_kwargs: see :class:`envs.simpler.scene.SimplerScene`.
    """

    def __init__(
        self,
        task: str,
        *,
        assets: str = "builtin",
        image_height_px: int = 128,
        image_width_px: int = 160,
        robot_variant: str | None = "",
        **scene_kwargs: Any,
    ) -> None:
        self.task = task
        self.asset_set = assets
        self.gym_env = SimplerGymEnv(
            find_task(task),
            assets=assets,
            obs_size=(image_height_px, image_width_px),
            urdf_version=robot_variant,
            **scene_kwargs,
        )
        self.family = self.gym_env.embodiment.family
        self.time_limit_steps = self.gym_env.max_episode_steps
        self._cameras: dict[str, Any] = {}
        size_px = (image_height_px, image_width_px) if scene_kwargs.get("render", True) else None
        self.env_spec = simpler_env_spec(task, size_px)

    @property
    def instruction(self) -> str:
        """What the robot is asked to do in the present stage."""
        return self.gym_env.get_language_instruction()

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``options`` are upstream's (:meth:`envs.simpler.gym_env.SimplerGymEnv.reset`)."""
        obs, info = self.gym_env.reset(seed=seed, options=options)
        return self._observation(obs), info | {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action [7].

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        obs, reward, terminated, truncated, info = self.gym_env.step(action)
        # SIMPLER counts "not solved within the limit" as failure.
        info["judged_failure"] = truncated and not terminated
        return self._observation(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Free the simulator."""
        self.gym_env.close()

    # -- what an expert may know ---------------------------------------------------------------------------------

    def tcp_pose(self) -> PoseInFrames:
        """The tool centre point, measured."""
        return self._in_frames(self.gym_env.scene.agent.tcp_pose())

    def object_pose(self) -> PoseInFrames:
        """The object that the instruction is about."""
        return self._in_frames(self.gym_env.scene.task_pose())

    def object_bounds(self) -> NDArray[np.float64]:
        """Smallest and largest corner [2, 3] of that object's collision shapes, m, in its own frame."""
        return self.gym_env.scene.task_object_bounds()

    def target_pose(self) -> PoseInFrames:
        """The object to which the instruction wants it moved."""
        return self._in_frames(self.gym_env.scene.target_pose())

    def target_bounds(self) -> NDArray[np.float64]:
        """As :meth:`object_bounds`, of that object."""
        return self.gym_env.scene.target_bounds()

    def commanded_tcp_pose(self) -> NDArray[np.float32]:
        """Where the last action sent the tool, [7] in the base frame: what a delta is relative to, for a WidowX."""
        state: NDArray[np.float32] = self.gym_env.scene.agent.controller.get_state()["arm"]["target_pose"][0].numpy()
        return state

    def bystander_poses(self) -> list[PoseInFrames]:
        """The objects that the instruction does not mention."""
        return [self._in_frames(pose) for pose in self.gym_env.scene.bystander_poses()]

    def drawer_pose(self) -> PoseInFrames:
        """The drawer that the instruction is about; its x axis points out of the cabinet, its origin moves with it."""
        return self._in_frames(self.gym_env.scene.drawer_pose())

    def drawer_opening_m(self) -> float:
        """How far that drawer is out."""
        return self.gym_env.scene.drawer_position_m

    def advance_to_next_subtask(self) -> None:
        """Say that the present subtask is done: what a policy's terminate signal means where another follows."""
        self.gym_env.advance_to_next_subtask()

    def gripper_closedness(self) -> float:
        """0 open .. 1 closed, measured."""
        return min(self.gym_env.scene.agent.gripper_closedness(), 1.0)

    def robot_mask(self) -> NDArray[np.bool_]:
        """Where the latest image of the policy's camera shows the robot: [H, W], as the simulator segments it."""
        ids = [unwrap(link).entity.per_scene_id for link in self.gym_env.scene.agent.robot.links]
        return np.isin(next(iter(self._cameras.values()))["Segmentation"][..., 1], ids)

    def _in_frames(self, pose: Any) -> PoseInFrames:
        relative = self.gym_env.scene.agent.base_pose().inv() * pose
        return PoseInFrames(
            base=np.concatenate([relative.p, relative.q]).astype(np.float32),
            world=np.concatenate([pose.p, pose.q]).astype(np.float32),
        )

    def _observation(self, obs: dict[str, Any]) -> Observation:
        self._cameras = obs.get("image", {})
        images = {name: camera["rgb"] for name, camera in self._cameras.items()}
        state = np.append(self.tcp_pose().base, np.float32(self.gripper_closedness()))
        time_s = self.gym_env.elapsed_steps / self.env_spec.action.control_hz
        return Observation(images=images, state=state, time_s=time_s)
