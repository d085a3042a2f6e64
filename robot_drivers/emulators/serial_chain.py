"""Kinematics of a serial arm of revolute joints: from its modified Denavit-Hartenberg table, or from any joint frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_drivers.driver import Pose


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One revolute joint; it turns about the z axis of its own frame."""

    placement: NDArray[np.float64]
    """[4, 4]: its frame in that of the joint before it, or in the base, at angle 0."""
    limit_rad: tuple[float, float]


class SerialChain:
    """Forward kinematics, Jacobian, and inverse kinematics by damped least squares.

    Example::

        chain = SerialChain(XARM7_JOINTS)
        pose = chain.forward(np.zeros(7))
    """

    def __init__(self, joints: tuple[Joint, ...], tool: NDArray[np.float64] | None = None) -> None:
        """``tool``: [4, 4], the tool in the last joint's frame; that frame itself if None."""
        self.joints = joints
        self._tool = np.eye(4) if tool is None else tool
        self._low, self._high = np.array([joint.limit_rad for joint in joints]).T

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joints)

    def frames(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Frames of all joints in the base frame, [J, 4, 4], for joint angles [J]."""
        frames = np.empty((self.num_joints, 4, 4))
        frame = np.eye(4)
        for index, (joint, angle) in enumerate(zip(self.joints, joints_rad, strict=True)):
            cosine, sine = math.cos(angle), math.sin(angle)
            frame = frame @ joint.placement
            x, y = frame[:, 0].copy(), frame[:, 1].copy()
            frame[:, 0], frame[:, 1] = cosine * x + sine * y, cosine * y - sine * x
            frames[index] = frame
        return frames

    def forward(self, joints_rad: NDArray[np.float64]) -> Pose:
        """Pose of the tool for joint angles [J]."""
        frame = self.frames(joints_rad)[-1] @ self._tool
        return Pose(
            position_m=frame[:3, 3],
            quaternion_wxyz=Rotation.from_matrix(frame[:3, :3], assume_valid=True).as_quat(scalar_first=True),
        )

    def follow(
        self, joints_rad: NDArray[np.float64], position_m: NDArray[np.float64], rotation: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Joint angles [J] near ``joints_rad`` that put the tool at a position [3] and a rotation matrix [3, 3].

        One damped step: enough for the millimetre between two ticks, and on purpose not for a far pose. A joint that would pass
        its limit stays at it, and the others make up for it where they can.

        Returns:
            None near a singularity, or out of reach.
        """
        joints, is_free = joints_rad, np.ones(self.num_joints, dtype=bool)
        while True:
            joints = joints.copy()
            joints[is_free] += self._step(joints, is_free, position_m, rotation)
            is_beyond = (joints < self._low) | (joints > self._high)
            if not is_beyond.any():
                break
            joints = np.clip(joints, self._low, self._high)
            is_free &= ~is_beyond
        left = _pose_error(self.frames(joints)[-1] @ self._tool, position_m, rotation)
        is_there = np.abs(left[:3]).max() < 1e-3 and np.abs(left[3:]).max() < 1e-2 and np.abs(joints - joints_rad).max() < 0.2
        return joints if is_there else None

    def _step(
        self,
        joints_rad: NDArray[np.float64],
        is_free: NDArray[np.bool_],
        position_m: NDArray[np.float64],
        rotation: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """What the free joints turn, rad, to bring the tool there."""
        frames = self.frames(joints_rad)
        tool = frames[-1] @ self._tool
        axes = frames[is_free, :3, 2]
        jacobian = np.concatenate([_cross(axes, tool[:3, 3] - frames[is_free, :3, 3]), axes], axis=1).T
        error = _pose_error(tool, position_m, rotation)
        return np.asarray(jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING, error))


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


def _from_table(rows: tuple[tuple[float, float, float, float, float], ...]) -> tuple[Joint, ...]:
    """Modified Denavit-Hartenberg, Craig's book, section 3.4: ``Rot_x(twist) Trans_x(length) Trans_z(offset)`` for each joint.

    Args:
        rows: of (twist, degrees; length, mm; offset, mm; limits, degrees), as the vendors' manuals print them.
    """
    return tuple(
        Joint(
            placement=_craig(math.radians(twist), length / 1000, offset / 1000),
            limit_rad=(math.radians(low), math.radians(high)),
        )
        for twist, length, offset, low, high in rows
    )


def _craig(twist_rad: float, length_m: float, offset_m: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(twist_rad), math.sin(twist_rad)
    return np.array(
        [
            [1.0, 0.0, 0.0, length_m],
            [0.0, cosine, -sine, -sine * offset_m],
            [0.0, sine, cosine, cosine * offset_m],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


# UFACTORY xArm 7 (user manual, appendix "kinematic parameters"); limits: xarm.core.config.x_config, type XARM7_X4.
XARM7_JOINTS = _from_table(
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
RM75_JOINTS = _from_table(
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
