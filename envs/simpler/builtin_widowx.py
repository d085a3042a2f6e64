"""The builtin WidowX 250S: upstream's kinematics, inertias and finger shape, our own boxes and cylinders for the rest.

Before hop 1 of the tour. Joint origins, axes, limits, masses and inertia tensors equal upstream's number by number; a test
compares the two robots in SAPIEN. The fingers and the bar that they slide on, which touch things, have upstream's extents.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from envs.simpler.assets import Vector
from envs.simpler.builtin_kinematics import Inertial, Joint
from envs.simpler.builtin_robot import Block, Body, Cylinder, Hull, Palette, RobotDescription, Shape

URDF_NAME = "wx250s.urdf"
_ORIGIN: Vector = (0.0, 0.0, 0.0)
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_HALF_PI, _PI = float(np.pi / 2), float(np.pi)

_FRAME = Inertial(0.001, _ORIGIN, (0.001, 0.0, 0.0, 0.001, 0.0, 0.001))
"""Upstream's stand-in for links without a body."""
_FINGER = Inertial(0.016246, (0.013816, 0.0, 0.0), (1.5506e-06, 4.56e-07, 0.0, 4.731e-06, 0.0, 3.7467e-06))

INERTIALS: Mapping[str, Inertial] = MappingProxyType(
    {
        "base_link": Inertial(
            0.538736, (-0.0380446, 0.000613892, 0.0193354), (0.0006921, 1.635e-05, -4.642e-05, 0.002115, 6.998e-07, 0.002524)
        ),
        "shoulder_link": Inertial(
            0.480879, (2.23482e-05, 4.14609e-05, 0.0066287), (0.0005557, -2.2e-09, -1.2245e-06, 0.000379, -3.561e-07, 0.0005889)
        ),
        "upper_arm_link": Inertial(
            0.430811, (0.0171605, 2.725e-07, 0.191323), (0.003587, 1e-10, -0.0004272, 0.003463, -2e-10, 0.0004566)
        ),
        "upper_forearm_link": Inertial(
            0.234589, (0.107963, 0.000115876, 0.0), (3.971e-05, 2.3528e-06, 0.0, 0.0008878, 0.0, 0.000888)
        ),
        "lower_forearm_link": Inertial(
            0.220991, (0.0374395, 0.00522252, 0.0), (6.369e-05, 2.292e-05, 0.0, 0.0001677, 0.0, 0.0001834)
        ),
        "wrist_link": Inertial(
            0.084957, (0.04236, -1.0663e-05, 0.010577), (2.822e-05, -1.91e-08, -2.5481e-06, 3.082e-05, 2.3e-09, 3.152e-05)
        ),
        "gripper_link": Inertial(
            0.072885, (0.021631, 2.516e-07, 0.01141), (1.836e-05, 0.0, -4.34e-07, 2.537e-05, 0.0, 1.674e-05)
        ),
        "ee_arm_link": _FRAME,
        "gripper_prop_link": Inertial(
            0.00434, (0.000846, -1.6817e-06, 4.2e-05), (1.1156e-06, 0.0, 4e-10, 5.923e-07, 3.195e-07, 5.743e-07)
        ),
        "gripper_bar_link": Inertial(
            0.034199, (0.009687, 8.177e-07, 0.004962), (2.843e-05, 8e-10, 1.3889e-06, 7.4125e-06, -6e-10, 2.86e-05)
        ),
        "fingers_link": _FRAME,
        "left_finger_link": _FINGER,
        "right_finger_link": _FINGER,
        "ee_gripper_link": _FRAME,
    }
)

_STROKE_M = (0.015, 0.037)
JOINTS: tuple[Joint, ...] = (
    Joint("waist", "base_link", "shoulder_link", (0.0, 0.0, 0.072), axis=_Z, limits=(-_PI, _PI)),
    Joint("shoulder", "shoulder_link", "upper_arm_link", (0.0, 0.0, 0.03865), axis=_Y, limits=(-1.88495559, 1.98967535)),
    Joint("elbow", "upper_arm_link", "upper_forearm_link", (0.04975, 0.0, 0.25), axis=_Y, limits=(-2.14675498, 1.60570291)),
    Joint(
        "forearm_roll", "upper_forearm_link", "lower_forearm_link", (0.175, 0.0, 0.0), axis=_X, limits=(-3.14158265, 3.14158265)
    ),
    Joint("wrist_angle", "lower_forearm_link", "wrist_link", (0.075, 0.0, 0.0), axis=_Y, limits=(-1.74532925, 2.14675498)),
    Joint("wrist_rotate", "wrist_link", "gripper_link", (0.065, 0.0, 0.0), axis=_X, limits=(-3.14158265, 3.14158265)),
    Joint("ee_arm", "gripper_link", "ee_arm_link", (0.043, 0.0, 0.0)),
    Joint("gripper", "ee_arm_link", "gripper_prop_link", (0.0055, 0.0, 0.0)),
    Joint("gripper_bar", "ee_arm_link", "gripper_bar_link", _ORIGIN),
    Joint("ee_bar", "gripper_bar_link", "fingers_link", (0.023, 0.0, 0.0)),
    Joint("left_finger", "fingers_link", "left_finger_link", _ORIGIN, axis=_Y, limits=_STROKE_M, slides=True),
    Joint("right_finger", "fingers_link", "right_finger_link", _ORIGIN, axis=(0.0, -1.0, 0.0), limits=_STROKE_M, slides=True),
    Joint("ee_gripper", "fingers_link", "ee_gripper_link", (0.027575, 0.0, 0.0)),
)

# -- shapes ------------------------------------------------------------------------------------------------------------

_FINGER_OUTLINE_MM = (
    (-12.1, -5.0, 4.6),
    (-12.1, 5.0, 4.6),
    (-8.1, -5.0, 12.6),
    (-8.1, 5.0, 12.6),
    (-6.2, 3.1, 14.5),
    (-5.0, -9.0, 14.5),
    (-1.9, -11.0, 10.6),
    (0.0, -11.0, 11.9),
    (1.9, -11.0, 10.6),
    (9.5, 3.1, 14.5),
    (9.5, 5.0, 12.6),
    (12.0, -9.0, 14.5),
    (12.0, 2.5, 14.5),
    (12.0, 5.0, 12.0),
    (36.9, -2.4, 13.1),
    (38.2, -0.1, 10.5),
    (41.4, -4.0, 8.9),
    (42.3, -9.0, 12.8),
    (43.2, -9.0, 12.1),
    (43.2, -6.0, 10.2),
)
"""Corners of the left finger, which grips with its -y side; the half with z > 0, the other half mirrors it."""


def _finger(side: str) -> Hull:
    sign = 1.0 if side == "left" else -1.0
    corners = [(x, sign * y, s * z) for x, y, z in _FINGER_OUTLINE_MM for s in (1.0, -1.0)]
    return Hull(f"{side}_finger", tuple((x / 1000, y / 1000, z / 1000) for x, y, z in corners))


def _box(low: Vector, high: Vector) -> Block:
    """From one corner to the opposite, m."""
    center = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    size = tuple(b - a for a, b in zip(low, high, strict=True))
    return Block((size[0], size[1], size[2]), (center[0], center[1], center[2]))


def _hub(radius: float, half_width: float, x: float = 0.0, z: float = 0.0) -> Cylinder:
    """A cylinder along y, where a joint turns."""
    return Cylinder(radius, 2 * half_width, (x, 0.0, z), (-_HALF_PI, 0.0, 0.0))


def _solid(*shapes: Shape, trim: tuple[Shape, ...] = ()) -> Body:
    """Collides with what it shows, except for the trim."""
    return Body(shapes, (*(("body", shape) for shape in shapes), *(("trim", shape) for shape in trim)))


BODIES: Mapping[str, Body] = MappingProxyType(
    {
        "base_link": _solid(
            _box((-0.157, -0.0765, 0.0), (0.0, 0.0765, 0.016)),
            Cylinder(0.0765, 0.016, (0.0, 0.0, 0.008)),
            Cylinder(0.052, 0.056, (0.0, 0.0, 0.0436)),
        ),
        "shoulder_link": _solid(Cylinder(0.0511, 0.016, (0.0, 0.0, 0.006)), _box((-0.022, -0.04, 0.0), (0.022, 0.04, 0.0495))),
        "upper_arm_link": _solid(
            _hub(0.0144, 0.0541),
            _box((-0.0144, -0.0274, 0.015), (0.0144, 0.0274, 0.2685)),
            _box((0.0144, -0.0274, 0.231), (0.061, 0.0274, 0.2685)),
            trim=(_hub(0.0144, 0.0541, 0.04975, 0.25),),
        ),
        "upper_forearm_link": _solid(
            Cylinder(0.0212, 0.16, (0.095, 0.0, 0.0), (0.0, _HALF_PI, 0.0)),
            _box((-0.0144, -0.0212, -0.0144), (0.03, 0.0212, 0.0144)),
        ),
        "lower_forearm_link": _solid(
            _box((-0.0037, -0.0245, -0.0245), (0.007, 0.0245, 0.0245)), _box((0.007, -0.0166, -0.0174), (0.0862, 0.0352, 0.0174))
        ),
        "wrist_link": _solid(
            _box((0.010, -0.02, -0.02), (0.065, 0.02, 0.0352)), trim=(_hub(0.0150, 0.022), _hub(0.0080, 0.0225, 0.03))
        ),
        "gripper_link": _solid(_box((0.0, -0.02, -0.02), (0.043, 0.02, 0.0352))),
        "gripper_prop_link": _solid(_box((-0.0025, -0.0102, -0.0182), (0.0025, 0.0102, 0.0182))),
        "gripper_bar_link": _solid(
            _box((-0.0006, -0.0242, 0.0175), (0.0036, 0.0243, 0.0358)),
            _box((-0.0006, -0.0523, -0.0145), (0.0036, 0.0523, 0.0175)),
            _box((0.0174, -0.0506, -0.0056), (0.0286, 0.0506, 0.0056)),
            _box((0.0036, 0.0399, -0.0048), (0.0174, 0.0501, 0.0048)),
            _box((0.0036, -0.0501, -0.0048), (0.0174, -0.0399, 0.0048)),
        ),
        "left_finger_link": _solid(_finger("left")),
        "right_finger_link": _solid(_finger("right")),
    }
)
PALETTE: Palette = MappingProxyType({"body": (0.035, 0.035, 0.037), "trim": (0.012, 0.012, 0.013)})
WIDOWX = RobotDescription(name="wx250s", root="base_link", joints=JOINTS, inertials=INERTIALS, bodies=BODIES)
