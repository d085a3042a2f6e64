"""What the two robots have in common in many scenes at once: joints in upstream's order, starts, and the grasp rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.simpler.grasp import are_pressed_open
from envs.simpler.robot import SimplerRobot


class BatchedRobot(SimplerRobot):
    """Arguments as :class:`envs.simpler.robot.SimplerRobot`; every result has one entry per environment."""

    fingers: ClassVar[Mapping[tuple[str, ...], float]]
    """Links of each finger, and the sign of their local y axis along which they open."""
    grasp_angle_deg: ClassVar[float]

    def _after_init(self) -> None:
        names = [joint.name for joint in self.robot.active_joints]
        index = [names.index(name) for name in self.upstream_joints]
        self._upstream_order = torch.tensor(index, device=self.device)
        self.links_by_name = {link.name: link for link in self.robot.links}
        self.tcp = self.links_by_name[self.tool_link]

    def place(self, env_idx: Tensor, qpos: Tensor) -> None:
        """Put the joints of some environments at rest somewhere, and forget what their controllers were doing.

        Args:
            env_idx: [n]; ManiSkill's reset mask names the same ones.
            qpos: [D] rad or m, :attr:`upstream_joints` order.
        """
        native = torch.zeros_like(qpos)
        native[self._upstream_order] = qpos
        self.reset(native.expand(len(env_idx), -1))
        for controller in self.controller.controllers.values():
            controller.restart(env_idx)

    def qpos_upstream_batch(self) -> Tensor:
        """Measured joint positions [N, D], rad or m, in :attr:`upstream_joints` order."""
        return self.robot.get_qpos()[:, self._upstream_order]

    def qvel_upstream_batch(self) -> Tensor:
        """Measured joint velocities [N, D], rad/s or m/s, in :attr:`upstream_joints` order."""
        return self.robot.get_qvel()[:, self._upstream_order]

    def is_grasping(self, object: Any = None, max_angle: float | None = None) -> Tensor:
        """As for one scene: [N] bool."""
        angle_deg = self.grasp_angle_deg if max_angle is None else max_angle
        pressed = [self._finger_is_pressed(object, links, sign, angle_deg) for links, sign in self.fingers.items()]
        return torch.stack(pressed).all(dim=0)

    def _finger_is_pressed(self, object: Any, links: tuple[str, ...], sign: float, max_angle_deg: float) -> Tensor:
        bodies = [self.links_by_name[name] for name in links]
        impulses = [self.scene.get_pairwise_contact_impulses(body, object) for body in bodies]
        opening = [sign * body.pose.to_transformation_matrix()[:, :3, 1] for body in bodies]
        return are_pressed_open(torch.stack(impulses, dim=1), torch.stack(opening, dim=1), max_angle_deg=max_angle_deg)
