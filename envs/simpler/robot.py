"""What SIMPLER's two robots have in common in a scene: joints in upstream's order, tool, camera, surfaces."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sapien
import torch
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.sensors.camera import CameraConfig
from numpy.typing import NDArray
from sapien.render import RenderBodyComponent

from envs.simpler.camera import PolicyCamera
from envs.simpler.native import unwrap


class SimplerRobot(BaseAgent):
    """A robot in one scene; a subclass gives the numbers, the controllers and the grasp rule.

    Joints are always found by name: SAPIEN 3 numbers them breadth first, SAPIEN 2, and with it every recorded upstream
    number, depth first (:attr:`upstream_joints`).

    Args:
        scene: ManiSkill's scene.
        control_freq: actions per second.
        urdf_file: of the robot.
        camera: the policy's.
        camera_size_px: height and width of its image.
        initial_pose: of the root while the scene is built.
        glossy: upstream's override of every visual's material (specular 0.9, roughness 0.3); drawer tasks leave it out.
    """

    upstream_joints: ClassVar[tuple[str, ...]]
    """In the order of every qpos that upstream's API takes or gives."""
    tool_link: ClassVar[str]
    fix_root_link = True
    load_multiple_collisions = True

    def __init__(
        self,
        scene: Any,
        control_freq: int,
        *,
        urdf_file: Path,
        camera: PolicyCamera,
        camera_size_px: tuple[int, int],
        initial_pose: sapien.Pose,
        glossy: bool = True,
    ) -> None:
        self.urdf_path = str(urdf_file)
        self.urdf_config = self._surfaces()
        self._camera = camera
        self._camera_size_px = camera_size_px
        self._glossy = glossy
        super().__init__(scene, control_freq, None, initial_pose=initial_pose)

    @abstractmethod
    def _surfaces(self) -> dict[str, Any]:
        """Friction and patch radius per link, in ManiSkill's ``urdf_config`` form."""

    @abstractmethod
    def gripper_closedness(self) -> float:
        """0 open .. 1 closed: the fingers' mean share of their range."""

    @abstractmethod
    def is_grasping(self, object: Any = None, max_angle: float = 80.0) -> torch.Tensor:
        """Whether both fingers press on the object, each within ``max_angle`` degrees of its opening direction.

        Returns:
            [1] bool.
        """

    @property
    def _sensor_configs(self) -> list[CameraConfig]:
        height_px, width_px = self._camera_size_px
        return [
            CameraConfig(
                uid=self._camera.name,
                pose=sapien.Pose(self._camera.position, self._camera.orientation),
                width=width_px,
                height=height_px,
                intrinsic=self._camera.intrinsics(height_px, width_px),
                near=self._camera.near_m,
                far=10.0,
                entity_uid=self._camera.link,
                shader_pack="minimal",
            )
        ]

    def _after_loading_articulation(self) -> None:
        if self._glossy:
            for link in self.robot.links:
                for native in link._objs:  # noqa: SLF001 (materials are SAPIEN's)
                    make_glossy(native.entity)

    def _after_init(self) -> None:
        names = [joint.name for joint in self.robot.active_joints]
        self._upstream_index = np.array([names.index(name) for name in self.upstream_joints])
        self.links_by_name = {link.name: link for link in self.robot.links}
        self.tcp = self.links_by_name[self.tool_link]
        self.entity_ids = {unwrap(link).entity.per_scene_id for link in self.robot.links}
        self._native = unwrap(self.robot)
        self._native_tcp = unwrap(self.tcp)

    def set_action(self, action: torch.Tensor) -> None:
        """Hand an action [1, 7] to the controllers; it was checked at the door."""
        self.controller.set_action(action)

    def qpos_upstream(self) -> NDArray[np.float32]:
        """Measured joint positions [D], rad or m, in :attr:`upstream_joints` order."""
        return self._native.get_qpos()[self._upstream_index]

    def qvel_upstream(self) -> NDArray[np.float32]:
        """Measured joint velocities [D], rad/s or m/s, in :attr:`upstream_joints` order."""
        return self._native.get_qvel()[self._upstream_index]

    def set_qpos_upstream(self, qpos: NDArray[np.floating[Any]]) -> None:
        """Place the joints ([D], rad or m, :attr:`upstream_joints` order) at rest, and forget the controllers' plans."""
        native = np.zeros(len(self.upstream_joints), dtype=np.float32)
        native[self._upstream_index] = qpos
        self.reset(torch.from_numpy(native[None]))
        self.controller.reset()

    def tcp_pose(self) -> sapien.Pose:
        """The tool centre point in the world."""
        return self._native_tcp.entity_pose

    def base_pose(self) -> sapien.Pose:
        """The robot's root in the world."""
        return self._native.pose


def surface(friction: tuple[float, float]) -> dict[str, float]:
    """A physical material in ManiSkill's ``urdf_config`` form: static and dynamic friction, no restitution."""
    return {"static_friction": friction[0], "dynamic_friction": friction[1], "restitution": 0.0}


def make_glossy(entity: sapien.Entity) -> None:
    """Upstream's override of a link's materials."""
    visual = entity.find_component_by_type(RenderBodyComponent)
    if visual is None:
        return
    for shape in visual.render_shapes:
        for part in shape.parts:
            part.material.set_specular(0.9)
            part.material.set_roughness(0.3)
