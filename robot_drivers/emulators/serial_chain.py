"""Kinematics of a serial arm from its modified Denavit-Hartenberg table (Craig, Introduction to Robotics, section 3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_drivers.driver import Pose


@dataclass(frozen=True, kw_only=True)
class Link:
    """One row of the table: ``Rot_x(twist) Trans_x(length) Rot_z(q) Trans_z(offset)``."""

    twist_rad: float
    length_m: float
    offset_m: float
    limit_rad: tuple[float, float]


class SerialChain:
    """Forward kinematics, Jacobian, and inverse kinematics by damped least squares.

    Example::

        chain = SerialChain(XARM7_LINKS)
        pose = chain.forward(np.zeros(7))
    """

    def __init__(self, links: tuple[Link, ...]) -> None:
        self.links = links

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.links)

    def frames(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Frames of all links in the base frame, [J, 4, 4], for joint angles [J]."""
        frames = np.empty((self.num_joints, 4, 4))
        frame = np.eye(4)
        for index, (link, angle) in enumerate(zip(self.links, joints_rad, strict=True)):
            ca, sa = math.cos(link.twist_rad), math.sin(link.twist_rad)
            cq, sq = math.cos(angle), math.sin(angle)
            frame = frame @ np.array(
                [
                    [cq, -sq, 0.0, link.length_m],
                    [sq * ca, cq * ca, -sa, -sa * link.offset_m],
                    [sq * sa, cq * sa, ca, ca * link.offset_m],
                    [0.0, 0.0, 0.0, 1.0],
                ]
            )
            frames[index] = frame
        return frames

    def forward(self, joints_rad: NDArray[np.float64]) -> Pose:
        """Pose of the flange for joint angles [J]."""
        frame = self.frames(joints_rad)[-1]
        return Pose(
            position_m=frame[:3, 3],
            quaternion_wxyz=Rotation.from_matrix(frame[:3, :3]).as_quat(scalar_first=True),
        )

    def follow(
        self, joints_rad: NDArray[np.float64], position_m: NDArray[np.float64], rotation: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Joint angles [J] near ``joints_rad`` that put the flange at a position [3] and a rotation matrix [3, 3].

        One damped step: enough for the millimetre between two ticks, and on purpose not for a far pose.

        Returns:
            None near a singularity, out of reach or past a joint limit.
        """
        frames = self.frames(joints_rad)
        axes = frames[:, :3, 2]
        jacobian = np.concatenate([_cross(axes, frames[-1, :3, 3] - frames[:, :3, 3]), axes], axis=1).T
        error = _pose_error(frames[-1], position_m, rotation)
        joints: NDArray[np.float64] = joints_rad + jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING, error)
        left = _pose_error(self.frames(joints)[-1], position_m, rotation)
        is_there = np.abs(left[:3]).max() < 1e-3 and np.abs(left[3:]).max() < 1e-2 and np.abs(joints - joints_rad).max() < 0.2
        is_within = all(link.limit_rad[0] <= angle <= link.limit_rad[1] for link, angle in zip(self.links, joints, strict=True))
        return joints if is_there and is_within else None


_DAMPING = 1e-6 * np.eye(6)


def _cross(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cross products of rows, [N, 3]; numpy's own takes ten times as long for arrays this small."""
    return left[:, [1, 2, 0]] * right[:, [2, 0, 1]] - left[:, [2, 0, 1]] * right[:, [1, 2, 0]]


def _pose_error(
    frame: NDArray[np.float64], position_m: NDArray[np.float64], rotation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """From ``frame`` [4, 4] to a pose: translation [3] and, for small angles, rotation vector [3], both in the base frame."""
    turn = 0.5 * _cross(frame[:3, :3].T, rotation.T).sum(axis=0)
    return np.concatenate([position_m - frame[:3, 3], turn])


def _links(rows: tuple[tuple[float, float, float, float, float], ...]) -> tuple[Link, ...]:
    """Rows of (twist, degrees; length, mm; offset, mm; limits, degrees), as the vendors' manuals print them."""
    return tuple(
        Link(
            twist_rad=math.radians(twist),
            length_m=length / 1000,
            offset_m=offset / 1000,
            limit_rad=(math.radians(low), math.radians(high)),
        )
        for twist, length, offset, low, high in rows
    )


# UFACTORY xArm 7 (user manual, appendix "kinematic parameters"); limits: xarm.core.config.x_config, type XARM7_X4.
XARM7_LINKS = _links(
    (
        (0, 0, 267, -360, 360),
        (-90, 0, 0, -118, 120),
        (90, 0, 293, -360, 360),
        (90, 52.5, 0, -11, 225),
        (90, 77.5, 342.5, -360, 360),
        (90, 0, 0, -97, 180),
        (-90, 76, 97, -360, 360),
    )
)
# Realman RM75-B (product manual, section "DH parameters"): 610 mm from shoulder to wrist and flange.
RM75_LINKS = _links(
    (
        (0, 0, 240.5, -178, 178),
        (-90, 0, 0, -130, 130),
        (90, 0, 256, -178, 178),
        (-90, 0, 0, -135, 135),
        (90, 0, 210, -178, 178),
        (-90, 0, 0, -128, 128),
        (90, 0, 144, -360, 360),
    )
)
