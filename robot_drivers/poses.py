"""Arithmetic of tool poses: move one by a delta, and the delta between two.

One convention everywhere, that of ``pd_ee_delta_pose`` in SIMPLER and of VideoVLA's actions: a delta is a translation [m] along
the base frame's axes and a rotation vector [rad] about the base frame's axes through the tool point, so ``p' = p + d`` and
``R' = exp(w) R``. Rotations are scipy's; this file only fixes order and frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_drivers.driver import Pose


def moved(pose: Pose, *, translation_m: NDArray[np.float64], rotation_rad: NDArray[np.float64]) -> Pose:
    """The pose after a delta.

    Args:
        pose: ``T_base_tool`` before.
        translation_m: [3], in the base frame.
        rotation_rad: [3], rotation vector in the base frame.

    Example:
        >>> pose = Pose(position_m=np.zeros(3), quaternion_wxyz=np.array([1.0, 0, 0, 0]))
        >>> moved(pose, translation_m=np.array([0.1, 0, 0]), rotation_rad=np.zeros(3)).position_m.tolist()
        [0.1, 0.0, 0.0]
    """
    rotation = Rotation.from_rotvec(rotation_rad) * _rotation(pose)
    return Pose(position_m=pose.position_m + translation_m, quaternion_wxyz=rotation.as_quat(scalar_first=True))


def delta(start: Pose, end: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What :func:`moved` takes from ``start`` to ``end``: translation [3] m and rotation vector [3] rad, the short way round."""
    rotation = _rotation(end) * _rotation(start).inv()
    return end.position_m - start.position_m, rotation.as_rotvec()


def tilt_rad(pose: Pose, *, tool_axis: NDArray[np.float64], base_axis: NDArray[np.float64]) -> float:
    """Angle [rad] between an axis of the tool and one of the base, both unit vectors [3] in their own frames."""
    return float(np.arccos(np.clip(_rotation(pose).apply(tool_axis) @ base_axis, -1.0, 1.0)))


def _rotation(pose: Pose) -> Rotation:
    return Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True)
