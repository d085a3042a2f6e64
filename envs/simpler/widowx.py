"""SIMPLER's WidowX 250S ("widowx", "widowx_sink_camera_setup") on SAPIEN 3: joints, gains, frictions, grasp rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mani_skill.utils import sapien_utils

from envs.simpler.camera import SINK_CAMERA, TABLE_CAMERA, PolicyCamera
from envs.simpler.grasp import ContactImpulses, is_pressed_open
from envs.simpler.native import unwrap
from envs.simpler.robot import SimplerRobot, surface
from envs.simpler.widowx_controllers import ArmTargetConfig, GripperPositionConfig

UPSTREAM_JOINTS = (
    "waist",
    "shoulder",
    "elbow",
    "forearm_roll",
    "wrist_angle",
    "wrist_rotate",
    "left_finger",
    "right_finger",
)
"""rad, the fingers m."""
CONTROL_MODE = "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos"
GRASP_ANGLE_DEG = 60.0

_ARM_GAINS = {  # joint: stiffness, damping, force limit
    "waist": (1169.7891719504198, 330.0, 200.0),
    "shoulder": (730.0, 180.0, 200.0),
    "elbow": (808.4601346394447, 152.12036565582588, 100.0),
    "forearm_roll": (1229.1299089624076, 309.6215302722146, 100.0),
    "wrist_angle": (1272.2760456418862, 201.04998711007383, 100.0),
    "wrist_rotate": (1056.3326605132252, 269.51458932695414, 100.0),
}
OPENING = {"left_finger_link": 1.0, "right_finger_link": -1.0}
"""Sign of the local y axis along which each finger opens."""
_UNTOUCHABLE = {"gripper_bar_link": 0b11, "left_finger_link": 0b01, "right_finger_link": 0b10}
"""Bodies that share a bit pass through each other: the bar and the fingers that slide along it."""


@dataclass(frozen=True, kw_only=True)
class Station:
    """Where and how the robot starts, and where its camera stands."""

    uid: str
    camera: PolicyCamera
    init_qpos: tuple[float, ...]
    """In UPSTREAM_JOINTS order; the fingers are open."""
    evaluation_xy: tuple[float, float]
    """m, under ``prepackaged_config``."""
    default_xy: tuple[float, float]
    """m, otherwise."""
    root_height_m: float


TABLE = Station(
    uid="widowx",
    camera=TABLE_CAMERA,
    init_qpos=(-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037),
    evaluation_xy=(0.147, 0.028),
    default_xy=(0.147, 0.028),
    root_height_m=0.870,
)
SINK = Station(
    uid="widowx_sink_camera_setup",
    camera=SINK_CAMERA,
    init_qpos=(-0.2600599, -0.12875618, 0.04461369, -0.00652761, 1.7033415, -0.26983038, 0.037, 0.037),
    evaluation_xy=(0.127, 0.06),
    default_xy=(0.147, 0.070),
    root_height_m=0.85,
)


class WidowX(SimplerRobot):
    """The robot in one scene.

    The fingers move independently, as in upstream: SAPIEN 2 did not know the URDF's ``mimic``.

    Args:
        scene: see :class:`envs.simpler.robot.SimplerRobot`.
        control_freq: likewise.
        uid: :attr:`Station.uid`.
        **robot: likewise.
    """

    upstream_joints = UPSTREAM_JOINTS
    tool_link = "ee_gripper_link"

    def __init__(self, scene: Any, control_freq: int, *, uid: str, **robot: Any) -> None:
        self.uid = uid
        super().__init__(scene, control_freq, **robot)

    def _surfaces(self) -> dict[str, Any]:
        finger = {"material": "finger", "patch_radius": 0.01, "min_patch_radius": 0.01}
        return {"_materials": {"finger": surface((2.0, 2.0))}, "link": dict.fromkeys(OPENING, finger)}

    def _load_articulation(self, initial_pose: Any = None) -> None:
        loader = self.scene.create_urdf_loader()
        loader.name = self.uid
        loader.fix_root_link = self.fix_root_link
        loader.load_multiple_collisions_from_file = self.load_multiple_collisions
        sapien_utils.apply_urdf_config(loader, sapien_utils.parse_urdf_config(self.urdf_config))
        (builder,) = loader.parse(self.urdf_path)["articulation_builders"]
        builder.initial_pose = initial_pose
        self.robot = builder.build(build_mimic_joints=False)
        self.robot_link_names = [link.name for link in self.robot.get_links()]

    def _after_loading_articulation(self) -> None:
        super()._after_loading_articulation()
        for link in self.robot.links:
            if link.name in _UNTOUCHABLE:
                link.set_collision_group(2, _UNTOUCHABLE[link.name])

    @property
    def _controller_configs(self) -> dict[str, Any]:
        stiffness, damping, force_limit = (list(column) for column in zip(*_ARM_GAINS.values(), strict=True))
        return {
            CONTROL_MODE: {
                "arm": ArmTargetConfig(
                    joint_names=list(_ARM_GAINS),
                    stiffness=stiffness,
                    damping=damping,
                    force_limit=force_limit,
                    tool_link=self.tool_link,
                ),
                "gripper": GripperPositionConfig(joint_names=["left_finger", "right_finger"]),
                "balance_passive_force": True,  # as for the Google robot
            }
        }

    def gripper_closedness(self) -> float:
        """0 open .. 1 closed: the fingers' mean share of their range."""
        fingers = self._upstream_index[6:8]
        low, high = self._native.get_qlimits()[fingers].T
        return max(0.0, 1.0 - float(np.mean((self._native.get_qpos()[fingers] - low) / (high - low))))

    def is_grasping(self, object: Any = None, max_angle: float = GRASP_ANGLE_DEG) -> torch.Tensor:
        """Whether both fingers press on the object, each within ``max_angle`` degrees of its opening direction.

        Returns:
            [1] bool.
        """
        impulses = ContactImpulses.of(self.scene, unwrap(object))
        return torch.tensor([all(self._is_pressed(impulses, link, max_angle) for link in OPENING)])

    def _is_pressed(self, impulses: ContactImpulses, link: str, max_angle_deg: float) -> bool:
        entity = unwrap(self.links_by_name[link]).entity
        opening = OPENING[link] * entity.pose.to_transformation_matrix()[:3, 1]
        return is_pressed_open([impulses.on(entity)], [opening], max_angle_deg=max_angle_deg)
