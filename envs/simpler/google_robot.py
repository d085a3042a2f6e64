"""SIMPLER's Google robot ("google_robot_static") on SAPIEN 3: joints, gains, frictions, grasp rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from envs.simpler.controllers import ArmPlannerConfig, GripperPlannerConfig
from envs.simpler.grasp import ContactImpulses, is_pressed_open
from envs.simpler.native import unwrap
from envs.simpler.robot import SimplerRobot, surface

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
"""SAPIEN 2's order. (In SAPIEN 3's the head comes second and fourth.)"""

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


_SURFACES = {  # friction (static, dynamic), patch radius in m
    "base": ((0.1, 0.0), 0.1),
    "wheel": ((1.0, 0.0), 0.1),
    "finger": ((2.0, 2.0), 0.1),
    "nail": ((0.1, 0.1), 0.01),
}


class GoogleRobot(SimplerRobot):
    """The robot in one scene; arguments as :class:`envs.simpler.robot.SimplerRobot`."""

    uid = "google_robot_static"
    upstream_joints = UPSTREAM_JOINTS
    tool_link = "link_gripper_tcp"

    def _surfaces(self) -> dict[str, Any]:
        links = {"link_base": "base", "link_wheel_left": "wheel", "link_wheel_right": "wheel"}
        for side in ("left", "right"):
            links |= {
                f"link_finger_{side}": "finger",
                f"link_finger_tip_{side}": "finger",
                f"link_finger_nail_{side}": "nail",
            }
        return {
            "_materials": {name: surface(friction) for name, (friction, _) in _SURFACES.items()},
            "link": {
                link: {"material": name, "patch_radius": _SURFACES[name][1], "min_patch_radius": _SURFACES[name][1]}
                for link, name in links.items()
            },
        }

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
                    tool_link=self.tool_link,
                ),
                "gripper": GripperPlannerConfig(joint_names=["joint_finger_right", "joint_finger_left"]),
                # Gravity is switched off on the links: indistinguishable from upstream's passive-force
                # compensation at these speeds, and what the GPU backend can do too.
                "balance_passive_force": True,
            }
        }

    def _after_init(self) -> None:
        super()._after_init()
        self._finger_limit_rad = self._native.get_qlimits()[self._upstream_index[7:9], 1]

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
