"""SIMPLER's Google robot ("google_robot_static") on SAPIEN 3: joints, gains, frictions, camera, grasp queries.

Joints are always found by name: SAPIEN 3 numbers them breadth first (the head comes second and fourth), SAPIEN 2, and
with it every recorded upstream number, depth first (:data:`UPSTREAM_JOINTS`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.sensors.camera import CameraConfig
from numpy.typing import NDArray
from sapien.render import RenderBodyComponent

from envs.simpler.camera import CAMERA_NAME, camera_intrinsics
from envs.simpler.controllers import ArmPlannerConfig, GripperPlannerConfig
from envs.simpler.grasp import ContactImpulses, is_pressed_open
from envs.simpler.native import unwrap

UPSTREAM_JOINTS = (
    "joint_torso",
    "joint_shoulder",
    "joint_bicep",
    "joint_elbow",
    "joint_forearm",
    "joint_wrist",
    "joint_gripper",
    "joint_finger_right",
    "joint_finger_left",
    "joint_head_pan",
    "joint_head_tilt",
)
"""SAPIEN 2's order: the order of every qpos that upstream's API takes or gives."""

INIT_QPOS = (
    -0.2639457174606611,
    0.0831913360274175,
    0.5017611504652179,
    1.156859026208673,
    0.028583671314766423,
    1.592598203487462,
    -1.080652960128774,
    0.0,
    0.0,
    -0.00285961,
    0.7851361,
)
"""At reset, rad, in UPSTREAM_JOINTS order. Fingers at 0 are open; the last two aim the camera."""

ROOT_HEIGHT_M = 0.06205 + 0.017
URDF_VARIANTS = (
    "",
    "recolor_tabletop_visual_matching_1",
    "recolor_tabletop_visual_matching_2",
    "recolor_cabinet_visual_matching_1",
)
"""The visual-matching set: the same robot in four colours."""

CONTROL_MODE = "arm_pd_ee_delta_pose_align_interpolate_by_planner_gripper_pd_joint_target_delta_pos_interpolate_by_planner"

_ARM_GAINS = {  # joint: stiffness, damping, force limit
    "joint_torso": (1700.0, 1059.9791902443303, 300.0),
    "joint_shoulder": (1737.0471680861954, 1010.4720585373592, 300.0),
    "joint_bicep": (979.975871856535, 767.2803161582076, 100.0),
    "joint_elbow": (930.0, 680.0, 100.0),
    "joint_forearm": (1212.154500274304, 674.9946964336588, 100.0),
    "joint_wrist": (432.96500923932535, 274.613381336198, 100.0),
    "joint_gripper": (468.0013365498738, 340.532560578637, 100.0),
    "joint_head_pan": (2000.0, 900.0, 100.0),
    "joint_head_tilt": (2000.0, 900.0, 100.0),
}


def _surface(friction: tuple[float, float], patch_radius: float) -> tuple[dict[str, float], float]:
    return {"static_friction": friction[0], "dynamic_friction": friction[1], "restitution": 0.0}, patch_radius


def _surfaces() -> dict[str, Any]:
    """Friction and patch radius per link, in ManiSkill's ``urdf_config`` form."""
    surfaces = {"base": _surface((0.1, 0.0), 0.1), "wheel": _surface((1.0, 0.0), 0.1)}
    surfaces |= {"finger": _surface((2.0, 2.0), 0.1), "nail": _surface((0.1, 0.1), 0.01)}
    links = {"link_base": "base", "link_wheel_left": "wheel", "link_wheel_right": "wheel"}
    for side in ("left", "right"):
        links |= {
            f"link_finger_{side}": "finger",
            f"link_finger_tip_{side}": "finger",
            f"link_finger_nail_{side}": "nail",
        }
    return {
        "_materials": {name: material for name, (material, _) in surfaces.items()},
        "link": {
            link: {"material": name, "patch_radius": surfaces[name][1], "min_patch_radius": surfaces[name][1]}
            for link, name in links.items()
        },
    }


class GoogleRobot(BaseAgent):
    """The robot in one scene.

    Args:
        scene: ManiSkill's scene.
        control_freq: actions per second.
        urdf_file: one of the colour variants.
        camera_size_px: height and width of the overhead camera's image.
        glossy: upstream's override of every visual's material (specular 0.9, roughness 0.3); drawer tasks leave it out.
    """

    uid = "google_robot_static"
    fix_root_link = True
    load_multiple_collisions = True

    def __init__(
        self,
        scene: Any,
        control_freq: int,
        *,
        urdf_file: Path,
        camera_size_px: tuple[int, int],
        glossy: bool = True,
        control_mode: str | None = None,
    ) -> None:
        self.urdf_path = str(urdf_file)
        self.urdf_config = _surfaces()
        self._camera_size_px = camera_size_px
        self._glossy = glossy
        super().__init__(scene, control_freq, control_mode, initial_pose=sapien.Pose([0.35, 0.2, ROOT_HEIGHT_M], [0, 0, 0, 1]))

    @property
    def _controller_configs(self) -> dict[str, Any]:
        stiffness, damping, force_limit = (list(column) for column in zip(*_ARM_GAINS.values(), strict=True))
        return {
            CONTROL_MODE: {
                "arm": ArmPlannerConfig(
                    joint_names=list(_ARM_GAINS),
                    stiffness=stiffness,
                    damping=damping,
                    force_limit=force_limit,
                    tool_link="link_gripper_tcp",
                ),
                "gripper": GripperPlannerConfig(joint_names=["joint_finger_right", "joint_finger_left"]),
                # Gravity is switched off on the links: indistinguishable from upstream's passive-force
                # compensation at these speeds, and what the GPU backend can do too.
                "balance_passive_force": True,
            }
        }

    @property
    def _sensor_configs(self) -> list[CameraConfig]:
        height_px, width_px = self._camera_size_px
        return [
            CameraConfig(
                uid=CAMERA_NAME,
                pose=sapien.Pose([0, 0, 0], [0.5, 0.5, -0.5, 0.5]),
                width=width_px,
                height=height_px,
                intrinsic=camera_intrinsics(height_px, width_px),
                near=0.1,
                far=10.0,
                entity_uid="link_camera",
                shader_pack="minimal",
            )
        ]

    def _after_loading_articulation(self) -> None:
        if self._glossy:
            for link in self.robot.links:
                _make_glossy(unwrap(link).entity)

    def _after_init(self) -> None:
        names = [joint.name for joint in self.robot.active_joints]
        self._upstream_index = np.array([names.index(name) for name in UPSTREAM_JOINTS])
        links = {link.name: link for link in self.robot.links}
        self.tcp = links["link_gripper_tcp"]
        self.links_by_name = links
        self.entity_ids = {unwrap(link).entity.per_scene_id for link in self.robot.links}
        self._native = unwrap(self.robot)
        self._native_tcp = unwrap(self.tcp)
        self._finger_limit_rad = self._native.get_qlimits()[self._upstream_index[7:9], 1]

    def set_action(self, action: torch.Tensor) -> None:
        """Hand an action [1, 7] to the controllers; it was checked at the door."""
        self.controller.set_action(action)

    def qpos_upstream(self) -> NDArray[np.float32]:
        """Measured joint positions [11], rad, in UPSTREAM_JOINTS order."""
        return self._native.get_qpos()[self._upstream_index]

    def qvel_upstream(self) -> NDArray[np.float32]:
        """Measured joint velocities [11], rad/s, in UPSTREAM_JOINTS order."""
        return self._native.get_qvel()[self._upstream_index]

    def set_qpos_upstream(self, qpos: NDArray[np.floating[Any]]) -> None:
        """Place the joints ([11], rad, UPSTREAM_JOINTS order) at rest, and forget the controllers' plans."""
        native = np.zeros(len(UPSTREAM_JOINTS), dtype=np.float32)
        native[self._upstream_index] = qpos
        self.reset(torch.from_numpy(native[None]))
        self.controller.reset()

    def tcp_pose(self) -> sapien.Pose:
        """The tool centre point in the world."""
        return self._native_tcp.entity_pose

    def base_pose(self) -> sapien.Pose:
        """The robot's root in the world."""
        return self._native.pose

    def gripper_closedness(self) -> float:
        """0 open .. 1 closed: the fingers' mean share of their range."""
        fingers = self._native.get_qpos()[self._upstream_index[7:9]]
        return max(0.0, float(np.mean(fingers / self._finger_limit_rad)))

    def is_grasping(self, object: Any = None, max_angle: float = 80.0) -> torch.Tensor:
        """Whether both fingers press on the object, each within ``max_angle`` degrees of its opening direction.

        Returns:
            [1] bool.
        """
        impulses = ContactImpulses.of(self.scene, unwrap(object))
        sides = (self._is_pressed(impulses, side, max_angle) for side in ("left", "right"))
        return torch.tensor([all(sides)])

    def _is_pressed(self, impulses: ContactImpulses, side: str, max_angle_deg: float) -> bool:
        bodies = [unwrap(self.links_by_name[f"link_finger_{part}{side}"]) for part in ("tip_", "")]
        return is_pressed_open(
            [impulses.on(body.entity) for body in bodies],
            [body.entity.pose.to_transformation_matrix()[:3, 1] for body in bodies],
            max_angle_deg=max_angle_deg,
        )


def _make_glossy(entity: sapien.Entity) -> None:
    visual = entity.find_component_by_type(RenderBodyComponent)
    if visual is None:
        return
    for shape in visual.render_shapes:
        for part in shape.parts:
            part.material.set_specular(0.9)
            part.material.set_roughness(0.3)
