"""From the joint angles of an SO-100 or SO-101 to its tool's pose and back, by LeRobot's kinematics (extra ``so101``).

One for both hands: the follower (:mod:`robot_drivers.so101`) and the leader arm that a person moves (``console.leader_arm``) have
the same links, the same joint names and, calibrated with ``lerobot-calibrate``, the same zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_drivers.driver import Pose

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
"""In the order of joint vectors."""
GRIPPER = "gripper"
"""The sixth motor, 0 closed .. 100 open."""
_TOOL_FRAME = "gripper_frame_link"
_ORIENTATION_WEIGHT = 0.01
"""LeRobot's own for this arm: the rotation where it costs the position nothing."""


class SO101Kinematics:
    """Forward and inverse kinematics of one arm; not to be shared by threads."""

    def __init__(self, urdf: Path) -> None:
        """Load the arm's description.

        Args:
            urdf: with the frame ``gripper_frame_link``.

        Raises:
            ImportError: without LeRobot, or without placo.
            Exception: what placo raises for a file that it cannot use.
        """
        from lerobot.model.kinematics import RobotKinematics

        self._robot: Any = RobotKinematics(str(urdf), _TOOL_FRAME, list(JOINTS))

    def tool_pose(self, joints_deg: NDArray[np.float64]) -> Pose:
        """``T_base_tool`` at joint angles [5], degrees."""
        frame = self._robot.forward_kinematics(joints_deg)
        return Pose(position_m=frame[:3, 3], quaternion_wxyz=Rotation.from_matrix(frame[:3, :3]).as_quat(scalar_first=True))

    def joints_near(self, present_deg: NDArray[np.float64], pose: Pose) -> tuple[NDArray[np.float64], float]:
        """Joint angles for a pose of the tool; the position counts, the rotation as far as it costs nothing.

        Args:
            present_deg: [5], where the search begins.
            pose: ``T_base_tool`` wanted.

        Returns:
            Joint angles [5], degrees, and how far from the wanted position they lead, m.
        """
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True).as_matrix()
        matrix[:3, 3] = pose.position_m
        goal = np.array(self._robot.inverse_kinematics(present_deg, matrix, orientation_weight=_ORIENTATION_WEIGHT), np.float64)
        return goal, float(np.linalg.norm(self._robot.forward_kinematics(goal)[:3, 3] - pose.position_m))
