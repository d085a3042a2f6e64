"""The Google robot in many scenes at once: :mod:`envs.simpler.google_robot`'s numbers, batched controllers and contacts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.simpler.batched.controllers import BatchedArmConfig, BatchedGripperConfig
from envs.simpler.google_robot import GoogleRobot
from envs.simpler.grasp import are_pressed_open
from envs.simpler.robot import make_glossy


class BatchedGoogleRobot(GoogleRobot):
    """Arguments as :class:`envs.simpler.robot.SimplerRobot`; every result has one entry per environment."""

    @property
    def _controller_configs(self) -> dict[str, Any]:
        (mode, configs), *_ = super()._controller_configs.items()
        return {
            mode: configs
            | {"arm": BatchedArmConfig(**vars(configs["arm"])), "gripper": BatchedGripperConfig(**vars(configs["gripper"]))}
        }

    def _after_loading_articulation(self) -> None:
        if self._glossy:
            for link in self.robot.links:
                for native in link._objs:  # noqa: SLF001 (materials are SAPIEN's)
                    make_glossy(native.entity)

    def _after_init(self) -> None:
        names = [joint.name for joint in self.robot.active_joints]
        index = [names.index(name) for name in self.upstream_joints]
        self._upstream_order = torch.tensor(index, device=self.device)
        self.links_by_name = {link.name: link for link in self.robot.links}
        self.tcp = self.links_by_name[self.tool_link]

    def before_simulation_step(self) -> None:
        """Let the controllers set their targets, then hand all of them to the GPU at once."""
        super().before_simulation_step()
        if self.scene.gpu_sim_enabled:
            self.scene.px.gpu_apply_articulation_target_position()
            self.scene.px.gpu_apply_articulation_target_velocity()

    def place(self, env_idx: Tensor, qpos: Tensor) -> None:
        """Put the joints of some environments at rest somewhere, and forget their plans.

        Args:
            env_idx: [n]; ManiSkill's reset mask names the same ones.
            qpos: [D] rad, :attr:`upstream_joints` order.
        """
        native = torch.zeros_like(qpos)
        native[self._upstream_order] = qpos
        self.reset(native.expand(len(env_idx), -1))
        for controller in self.controller.controllers.values():
            controller.restart(env_idx)

    def qpos_upstream_batch(self) -> Tensor:
        """Measured joint positions [N, D], rad, in :attr:`upstream_joints` order."""
        return self.robot.get_qpos()[:, self._upstream_order]

    def qvel_upstream_batch(self) -> Tensor:
        """Measured joint velocities [N, D], rad/s, in :attr:`upstream_joints` order."""
        return self.robot.get_qvel()[:, self._upstream_order]

    def is_grasping(self, object: Any = None, max_angle: float = 80.0) -> Tensor:
        """As for one scene: [N] bool."""
        sides = [self._side_is_pressed(object, side, max_angle) for side in ("left", "right")]
        return sides[0] & sides[1]

    def _side_is_pressed(self, object: Any, side: str, max_angle_deg: float) -> Tensor:
        bodies = [self.links_by_name[f"link_finger_{part}{side}"] for part in ("tip_", "")]
        impulses = [self.scene.get_pairwise_contact_impulses(body, object) for body in bodies]
        opening = [body.pose.to_transformation_matrix()[:, :3, 1] for body in bodies]
        return are_pressed_open(torch.stack(impulses, dim=1), torch.stack(opening, dim=1), max_angle_deg=max_angle_deg)
