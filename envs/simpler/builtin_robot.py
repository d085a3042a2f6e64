"""The builtin Google robot: upstream's kinematics and inertias, our own primitive shapes.

Before hop 1 of the tour. What decides how the robot moves is the same as upstream's, number by number: the link and joint
tree, joint origins, axes and limits, masses, centres of mass, inertia tensors. What decides how it looks and touches is
ours: cylinders, boxes, and lofts (hulls of a few outlines), fitted to the extents of the real parts, so that a can is
gripped at the same width and height, with 31 convex collision shapes where upstream has 54.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree

import numpy as np
import trimesh
from numpy.typing import NDArray

from envs.simpler.assets import Vector

URDF_STEM = "google_robot_meta_sim_fix_wheel_fix_fingertip"
_ORIGIN: Vector = (0.0, 0.0, 0.0)
_HALF_PI = float(np.pi / 2)
_ALONG_X: Vector = (0.0, _HALF_PI, 0.0)
_ALONG_Y: Vector = (-_HALF_PI, 0.0, 0.0)
_ALONG_Z: Vector = _ORIGIN

# -- how it moves ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inertial:
    """Mass in kg, centre of mass in m, inertia about it in kg m^2, all in the link's frame."""

    mass: float
    center: Vector
    inertia: tuple[float, float, float, float, float, float]
    """xx, xy, xz, yy, yz, zz."""


@dataclass(frozen=True)
class Joint:
    """How a link hangs on its parent: origin in m, roll-pitch-yaw in rad; a revolute one has an axis and limits in rad."""

    name: str
    parent: str
    child: str
    xyz: Vector
    rpy: Vector = _ORIGIN
    axis: Vector | None = None
    """None: fixed."""
    limits: tuple[float, float] = (0.0, 0.0)


_FINGER = Inertial(
    0.033324467357629,
    (3.15535341569906e-08, 3.50529611204361e-04, 3.71802506226547e-02),
    (
        9.32117719701092e-06,
        1.22669879721999e-11,
        -7.58255431912799e-12,
        6.08487398831113e-06,
        1.57826570013177e-06,
        3.23630320887583e-06,
    ),
)
_TIP = Inertial(
    1.61861871252174e-02,
    (7.32211158115053e-08, 4.1273472371548e-04, 2.15605732703755e-02),
    (1.066e-05, 0, 0, 1.147e-05, 0, 1.78e-06),
)
# Upstream gives the nails and the rear wheels no inertia of their own; these are what SAPIEN derives from their meshes.
_NAIL = Inertial(3.77e-05, (-0.0006, -0.00106, -0.00022), (1e-6, 0, 0, 1e-6, 0, 1e-6))
_REAR_WHEEL = Inertial(0.0996809, _ORIGIN, (3.96860e-05, 0, 0, 7.11681e-05, 0, 3.96860e-05))

INERTIALS: Mapping[str, Inertial] = MappingProxyType(
    {
        "link_base": Inertial(
            52.9101052160097,
            (-0.142542994624505, 2.33339305547787e-03, 0.130110970092973),
            (
                2.78321475990223,
                1.02013636219535e-03,
                -0.544719331016329,
                3.24941132525702,
                7.51942241521894e-03,
                1.33602142044359,
            ),
        ),
        "link_wheel_left": Inertial(
            0.227550092516064,
            _ORIGIN,
            (
                2.25894737564536e-04,
                -1.73680020768121e-07,
                -7.41129856416082e-07,
                4.34263997688239e-04,
                -1.74562742842436e-07,
                2.25894737558779e-04,
            ),
        ),
        "link_wheel_right": Inertial(
            0.227550092516064,
            _ORIGIN,
            (
                2.25894737564536e-04,
                -1.73680020768121e-07,
                7.41129856416082e-07,
                4.34263997688239e-04,
                1.74562742842436e-07,
                2.25894737558779e-04,
            ),
        ),
        "link_rear_wheel_left": _REAR_WHEEL,
        "link_rear_wheel_right": _REAR_WHEEL,
        "link_torso": Inertial(
            1.8957478141399,
            (-3.49440775620019e-03, -6.07148425485309e-02, 0.111756043503709),
            (
                1.33075265762797e-02,
                1.89697020107391e-04,
                2.61969764388555e-05,
                6.70473236899565e-03,
                1.74650164172695e-04,
                0.01146044402243,
            ),
        ),
        "link_shoulder": Inertial(
            1.84719381890442,
            (1.08073648299081e-03, 4.80943923806668e-03, 0.104943810827839),
            (
                1.39748177932869e-02,
                -4.34243299680672e-05,
                -1.63555207176536e-05,
                1.42491663186364e-02,
                4.46239649689696e-04,
                2.94679102626988e-03,
            ),
        ),
        "link_bicep": Inertial(
            1.24742039827471,
            (4.09029241155202e-04, -2.11440998419464e-02, 0.135242657168686),
            (
                7.04679718538362e-03,
                1.36969628307193e-10,
                3.84597629359556e-05,
                6.88742202474402e-03,
                9.28918679930493e-04,
                1.85445900824595e-03,
            ),
        ),
        "link_elbow": Inertial(
            0.646384675806209,
            (1.73027427722836e-03, -7.65653785661243e-02, 3.67058126361657e-02),
            (
                1.78669367379914e-03,
                4.72737764012305e-09,
                1.63948789791547e-05,
                1.18491737676627e-03,
                4.57024538361969e-04,
                1.3174964153246e-03,
            ),
        ),
        "link_forearm": Inertial(
            0.724366583650768,
            (1.27504320016631e-05, 0.015087509138929, 0.181814236861875),
            (
                7.2105415923413e-03,
                1.04502358823027e-07,
                1.31044797457377e-06,
                7.15752801157893e-03,
                -5.11256783255503e-04,
                5.91583070198947e-04,
            ),
        ),
        "link_wrist": Inertial(
            0.501929332223751,
            (-2.97206845574571e-04, -7.32716069306932e-03, 5.36615347785701e-02),
            (
                1.14262626699036e-03,
                -2.30402238037496e-06,
                -6.14792965371237e-06,
                1.07002285178686e-03,
                -2.60092608214865e-04,
                4.2713626545483e-04,
            ),
        ),
        "link_gripper": Inertial(
            0.40507013, (4.2266e-04, 1.1761e-04, 0.03790068), (2.9237e-04, 3.59e-06, 2.66e-06, 2.6364e-04, 6.6e-07, 3.1135e-04)
        ),
        "link_finger_right": _FINGER,
        "link_finger_left": _FINGER,
        "link_finger_tip_right": _TIP,
        "link_finger_tip_left": _TIP,
        "link_finger_nail_right": _NAIL,
        "link_finger_nail_left": _NAIL,
        "link_head_pan": Inertial(
            0.96335794,
            (1.64010030935057e-02, -5.7398337011911e-04, 8.68775033608304e-02),
            (1.99658e-03, -2.2593e-04, 5.3396e-04, 2.82709e-03, -1.2776e-04, 2.40811e-03),
        ),
        "link_head_tilt": Inertial(
            0.879240552641472,
            (7.28448960084497e-02, -3.00449029242004e-03, 1.32833990979786e-03),
            (
                3.36483410344631e-03,
                -6.95997852501698e-05,
                -3.20907144882021e-06,
                1.55398903526845e-03,
                -6.72868939256485e-06,
                4.10079899218125e-03,
            ),
        ),
    }
)

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_TIP_OFFSET: Vector = (0.0, -1.03567252152576e-02, 6.41556076619853e-02)


def _mount(child: str, xyz: Vector, rpy: Vector = _ORIGIN, *, parent: str = "link_base", name: str = "") -> Joint:
    return Joint(name or f"{child}_mount", parent, child, xyz, rpy)


def _sensor_mounts() -> list[Joint]:
    """Frames without mass or shape; kept so that link lists equal upstream's."""
    mounts = [
        _mount("link_base_inertial", INERTIALS["link_base"].center, name="link_base_inertial_joint"),
        _mount("link_base_imu_mount", (0.09005, 0.0622, 0.0650), name="joint_base_imu_mount"),
        _mount("imu.base", _ORIGIN, parent="link_base_imu_mount", name="joint_imu.base"),
        _mount("link_neck_imu_mount", (0.89029, 0.00965, 0.03835), name="joint_neck_imu_mount"),
        _mount("imu.neck", _ORIGIN, parent="link_neck_imu_mount", name="joint_imu.neck"),
    ]
    yaws = {"right": (4.4279, 4.0596, 3.6931, 3.3249), "left": (1.8553, 2.2235, 2.5901, 2.9583)}
    places = (("1", -0.3227, 0.1755), ("2", -0.3639, 0.1338), ("back_1", -0.3779, 0.0812), ("back_2", -0.3848, 0.0277))
    for side, sign in (("right", -1.0), ("left", 1.0)):
        for (label, x, y), yaw in zip(places, yaws[side], strict=True):
            mounts.append(_mount(f"time_of_flight.{side}_{label}", (x, sign * y, 0.0930), (0.0, 0.0, yaw)))
        mounts.append(_mount(f"cliff.rear_{side}", (-0.3597, sign * 0.1522, -0.0139), (0.0, 1.570795, 0.0)))
    return mounts


def _finger_joints(side: str, y: float, yaw: float) -> list[Joint]:
    finger, tip, nail = (f"link_finger_{part}{side}" for part in ("", "tip_", "nail_"))
    return [
        Joint(f"joint_finger_{side}", "link_gripper", finger, (0.0, y, 0.05861), (-1.15, 0.0, yaw), _X, (-0.0001, 1.3)),
        Joint(f"joint_finger_tip_{side}", finger, tip, _TIP_OFFSET, (0.45, 0.0, 0.0)),
        Joint(f"joint_finger_nail_{side}", tip, nail, (0.0, 0.0, 0.0463)),
    ]


JOINTS: tuple[Joint, ...] = (
    *_sensor_mounts(),
    Joint("joint_wheel_left", "link_base", "link_wheel_left", (0.0, 0.18333, 0.0)),
    Joint("joint_wheel_right", "link_base", "link_wheel_right", (-1.38753859997836e-04, -0.18333, 0.0)),
    Joint("joint_rear_wheel_left", "link_base", "link_rear_wheel_left", (-0.338371, 0.094989, -0.029296)),
    Joint("joint_rear_wheel_right", "link_base", "link_rear_wheel_right", (-0.338371, -0.094989, -0.029296)),
    Joint("joint_torso", "link_base", "link_torso", (0.0, 0.0, 0.5945), axis=_Z, limits=(-4.49, 1.35)),
    Joint("joint_shoulder", "link_torso", "link_shoulder", (0.0, -0.16728852885, 0.113), axis=_Y, limits=(-2.66, 3.18)),
    Joint("joint_bicep", "link_shoulder", "link_bicep", (0.0, 2.289e-03, 0.21502852885), axis=_Z, limits=(-2.13, 3.71)),
    Joint("joint_elbow", "link_bicep", "link_elbow", (0.0, -0.064, 0.1849715), axis=_Y, limits=(-2.05, 3.79)),
    Joint("joint_forearm", "link_elbow", "link_forearm", (0.0, -0.101, 0.0915), axis=_Z, limits=(-2.92, 2.92)),
    Joint("joint_wrist", "link_forearm", "link_wrist", (0.0, -6.04e-03, 0.2735), axis=_Y, limits=(-1.79, 1.79)),
    Joint("joint_gripper", "link_wrist", "link_gripper", (0.0, 6.0384e-03, 0.10911), axis=_Z, limits=(-4.49, 1.35)),
    Joint(
        "gripper_tcp_joint",
        "link_gripper",
        "link_gripper_tcp",
        (4.3374896e-03, 1.8852949e-03, 1.6353297e-01),
        (-0.001328879239766479, -0.00443973089771006, -0.0008686511567993004),
    ),
    *_finger_joints("right", -0.025, 3.14159265359),
    *_finger_joints("left", 0.025, 0.0),
    Joint("joint_head_pan", "link_base", "link_head_pan", (0.0, 0.0, 1.16902), axis=_Z, limits=(-3.79, 2.22)),
    Joint("joint_head_tilt", "link_head_pan", "link_head_tilt", (0.07181, 0.0, 0.11848), axis=_Y, limits=(-1.17, 1.17)),
    Joint("joint_camera_mount", "link_head_tilt", "link_camera", (0.10488, 0.0, 0.0), (-1.57079632679, 0.0, -1.57079632679)),
)

# -- how it looks and touches ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cylinder:
    """About the z axis of its own frame."""

    radius: float
    length: float
    center: Vector = _ORIGIN
    rpy: Vector = _ALONG_Z


@dataclass(frozen=True)
class Block:
    """A box by its full size."""

    size: Vector
    center: Vector = _ORIGIN
    rpy: Vector = _ORIGIN


@dataclass(frozen=True)
class Loft:
    """The hull of rounded rectangles stacked along z: rows of (z, half width in x, lowest y, highest y), m."""

    name: str
    rows: tuple[tuple[float, float, float, float], ...]
    roundness: float = 0.0
    """0: rectangles, 1: ellipses."""


Shape = Cylinder | Block | Loft


@dataclass(frozen=True)
class Body:
    """The shapes of one link; a visual shape comes with the name of its colour."""

    collisions: tuple[Shape, ...] = ()
    visuals: tuple[tuple[str, Shape], ...] = field(default_factory=tuple)


_FINGER_HULL = Loft("finger_base", ((0.0204, 0.0274, -0.0162, 0.0197), (0.0682, 0.0198, -0.0176, 0.0033)))
_TIP_HULL = Loft(
    "finger_tip",
    (
        (-0.0029, 0.0212, -0.0067, 0.0158),
        (0.003, 0.0205, -0.0066, 0.0124),
        (0.038, 0.0119, -0.0062, 0.0016),
        (0.0451, 0.0119, -0.0005, 0.0003),
    ),
)
_NAIL_BLOCK = Block((0.015, 0.0027, 0.0031), (0.0, -0.00115, 0.0))
_FINGER_SKIN = Loft(
    "finger_base_skin", ((0.012, 0.0215, -0.014, 0.019), (0.04, 0.0235, -0.0165, 0.017), (0.069, 0.0195, -0.017, 0.004)), 0.35
)
_TIP_SKIN = Loft(
    "finger_tip_skin",
    ((-0.003, 0.0197, -0.0062, 0.0138), (0.028, 0.0157, -0.006, 0.0055), (0.0451, 0.0117, -0.004, 0.0006)),
    0.35,
)
_PALM = Loft(
    "palm",
    (
        (0.001, 0.039, -0.041, 0.041),
        (0.043, 0.0405, -0.049, 0.049),
        (0.0665, 0.0322, -0.031, 0.031),
        (0.0762, 0.0225, -0.0165, 0.0165),
    ),
    1.0,
)
_CHASSIS = Loft("chassis", ((-0.037, 0.175, -0.40, 0.13), (0.14, 0.18, -0.39, 0.13), (0.205, 0.15, -0.33, 0.09)), 0.45)

_FINGER_BODY = Body((_FINGER_HULL,), (("finger", _FINGER_SKIN), ("pad", Block((0.034, 0.003, 0.04), (0.0, -0.0162, 0.042)))))
_TIP_BODY = Body((_TIP_HULL,), (("finger", _TIP_SKIN), ("pad", Block((0.026, 0.0014, 0.03), (0.0, -0.006, 0.017)))))
_NAIL_BODY = Body((_NAIL_BLOCK,), (("pad", _NAIL_BLOCK),))
_WHEEL = Cylinder(0.0645, 0.02, rpy=_ALONG_Y)
_REAR = Cylinder(0.0381, 0.0222, rpy=_ALONG_Y)


def _tube(radius: float, low: float, high: float, y: float = 0.0, x: float = 0.0) -> Cylinder:
    """A cylinder along z."""
    return Cylinder(radius, high - low, (x, y, (low + high) / 2))


def _hub(radius: float, low: float, high: float, z: float = 0.0, x: float = 0.0) -> Cylinder:
    """A cylinder along y, where a joint turns."""
    return Cylinder(radius, high - low, (x, (low + high) / 2, z), _ALONG_Y)


def _dressed(body: Sequence[tuple[str, Shape]], trim: Sequence[tuple[str, Shape]] = ()) -> Body:
    """Collides with what it shows, except for the trim."""
    return Body(tuple(shape for _, shape in body), (*body, *trim))


BODIES: Mapping[str, Body] = MappingProxyType(
    {
        "link_base": Body(
            (
                Block((0.52, 0.36, 0.235), (-0.135, 0.0, 0.0805)),
                _tube(0.088, 0.21, 0.588),
                _tube(0.0705, 0.812, 1.17),
            ),
            (
                ("body", _CHASSIS),
                ("trim", _tube(0.10, 0.199, 0.249)),
                ("body", _tube(0.089, 0.249, 0.5887)),
                ("body", _tube(0.0712, 0.8009, 1.0662)),
                ("trim", _tube(0.059, 1.0662, 1.1707)),
            ),
        ),
        "link_wheel_left": _dressed([("trim", _WHEEL)]),
        "link_wheel_right": _dressed([("trim", _WHEEL)]),
        "link_rear_wheel_left": _dressed([("trim", _REAR)]),
        "link_rear_wheel_right": _dressed([("trim", _REAR)]),
        "link_torso": _dressed([("body", _tube(0.0785, 0.0, 0.2125)), ("body", _hub(0.052, -0.1685, -0.06, z=0.113))]),
        "link_shoulder": _dressed(
            [("body", _hub(0.064, -0.0585, 0.081)), ("body", _tube(0.0595, 0.03, 0.2165))],
            [("trim", _tube(0.0602, 0.205, 0.2172))],
        ),
        "link_bicep": _dressed(
            [("body", _tube(0.056, 0.001, 0.15)), ("body", _hub(0.0525, -0.0677, 0.0535, z=0.185))],
            [("trim", _hub(0.044, -0.069, -0.066, z=0.185))],
        ),
        "link_elbow": _dressed([("body", _hub(0.0512, -0.13, 0.0005)), ("body", _tube(0.0465, -0.02, 0.0912, y=-0.101))]),
        "link_forearm": _dressed(
            [
                ("body", _tube(0.0452, 0.0, 0.215)),
                ("body", _hub(0.041, -0.0095, 0.0635, z=0.2735)),
                ("body", Block((0.07, 0.062, 0.07), (0.0, 0.024, 0.235))),
            ],
            [("trim", _tube(0.0456, 0.0, 0.006))],
        ),
        "link_wrist": _dressed(
            [
                ("body", _hub(0.0392, -0.0535, -0.005)),
                ("body", _tube(0.0405, 0.04, 0.1115, y=0.003)),
                ("body", Block((0.07, 0.03, 0.09), (0.0, -0.034, 0.05))),
            ],
            [("trim", _tube(0.0412, 0.103, 0.1118, y=0.003))],
        ),
        "link_gripper": Body(
            (_PALM,),
            (("body", _PALM), ("trim", Loft("collar", ((-0.002, 0.041, -0.042, 0.042), (0.004, 0.041, -0.042, 0.042)), 1.0))),
        ),
        "link_finger_right": _FINGER_BODY,
        "link_finger_left": _FINGER_BODY,
        "link_finger_tip_right": _TIP_BODY,
        "link_finger_tip_left": _TIP_BODY,
        "link_finger_nail_right": _NAIL_BODY,
        "link_finger_nail_left": _NAIL_BODY,
        "link_head_pan": _dressed(
            [("body", _tube(0.058, 0.0044, 0.09)), ("body", Block((0.15, 0.10, 0.08), (0.025, 0.0, 0.11)))]
        ),
        "link_head_tilt": _dressed(
            [("body", _hub(0.0455, -0.1124, 0.1124, x=0.075))], [("trim", Cylinder(0.02, 0.006, (0.118, 0.0, 0.0), _ALONG_X))]
        ),
    }
)

Palette = Mapping[str, Vector]


def _palette(body: Vector, finger: Vector, pad: Vector) -> Palette:
    return MappingProxyType({"body": body, "finger": finger, "pad": pad, "trim": (0.03, 0.03, 0.035)})


PALETTES: Mapping[str, Palette] = MappingProxyType(
    {
        "": _palette((0.67, 0.66, 0.64), (0.87, 0.63, 0.28), (0.43, 0.43, 0.43)),
        "recolor_tabletop_visual_matching_1": _palette((0.78, 0.60, 0.42), (0.60, 0.40, 0.09), (0.43, 0.28, 0.12)),
        "recolor_tabletop_visual_matching_2": _palette((0.81, 0.68, 0.50), (0.85, 0.60, 0.17), (0.43, 0.28, 0.09)),
        "recolor_cabinet_visual_matching_1": _palette((0.57, 0.39, 0.24), (0.60, 0.40, 0.09), (0.43, 0.28, 0.12)),
    }
)
"""Linear RGB by colour variant of the URDF."""

# -- writing it down -------------------------------------------------------------------------------------------------


def _outline(row: tuple[float, float, float, float], roundness: float, num_points: int = 32) -> NDArray[np.float64]:
    """Points [num_points, 3] around one row of a loft."""
    z, half_x, y_low, y_high = row
    angle = np.linspace(0.0, 2 * np.pi, num_points, endpoint=False) + np.pi / num_points
    exponent = max(roundness, 1e-3)  # a superellipse: 1 is an ellipse, 0 a rectangle
    cosine, sine = np.cos(angle), np.sin(angle)
    x = np.sign(cosine) * np.abs(cosine) ** exponent * half_x
    y = np.sign(sine) * np.abs(sine) ** exponent * (y_high - y_low) / 2 + (y_low + y_high) / 2
    return np.stack([x, y, np.full(num_points, z)], axis=1)


def loft_mesh(loft: Loft) -> trimesh.Trimesh:
    """The convex mesh of a loft."""
    corners = 4 if loft.roundness == 0.0 else 32
    points = np.concatenate([_outline(row, loft.roundness, corners) for row in loft.rows])
    return trimesh.convex.convex_hull(np.round(points, 6))


def _lofts() -> dict[str, Loft]:
    shapes = [shape for body in BODIES.values() for shape in (*body.collisions, *(shape for _, shape in body.visuals))]
    return {shape.name: shape for shape in shapes if isinstance(shape, Loft)}


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def _geometry(shape: Shape) -> ElementTree.Element:
    geometry = ElementTree.Element("geometry")
    if isinstance(shape, Cylinder):
        ElementTree.SubElement(geometry, "cylinder", radius=f"{shape.radius:.6g}", length=f"{shape.length:.6g}")
    elif isinstance(shape, Block):
        ElementTree.SubElement(geometry, "box", size=_numbers(shape.size))
    else:
        ElementTree.SubElement(geometry, "mesh", filename=f"{shape.name}.obj")
    return geometry


def _shape_element(tag: str, shape: Shape, color: Vector | None = None) -> ElementTree.Element:
    element = ElementTree.Element(tag)
    center, rpy = (_ORIGIN, _ORIGIN) if isinstance(shape, Loft) else (shape.center, shape.rpy)
    ElementTree.SubElement(element, "origin", xyz=_numbers(center), rpy=_numbers(rpy))
    element.append(_geometry(shape))
    if color is not None:
        # One material name per colour: URDF readers share materials by name.
        material = ElementTree.SubElement(element, "material", name="rgb_" + "_".join(f"{channel:.3f}" for channel in color))
        ElementTree.SubElement(material, "color", rgba=_numbers((*color, 1.0)))
    return element


def _link_element(name: str, palette: Palette) -> ElementTree.Element:
    link = ElementTree.Element("link", name=name)
    if name in INERTIALS:
        numbers = INERTIALS[name]
        inertial = ElementTree.SubElement(link, "inertial")
        ElementTree.SubElement(inertial, "mass", value=f"{numbers.mass:.15g}")
        ElementTree.SubElement(inertial, "origin", xyz=_numbers(numbers.center), rpy="0 0 0")
        axes = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        ElementTree.SubElement(
            inertial, "inertia", {axis: f"{value:.15g}" for axis, value in zip(axes, numbers.inertia, strict=True)}
        )
    body = BODIES.get(name, Body())
    for color, shape in body.visuals:
        link.append(_shape_element("visual", shape, palette[color]))
    for shape in body.collisions:
        link.append(_shape_element("collision", shape))
    return link


def _joint_element(joint: Joint) -> ElementTree.Element:
    element = ElementTree.Element("joint", name=joint.name, type="fixed" if joint.axis is None else "revolute")
    ElementTree.SubElement(element, "origin", xyz=_numbers(joint.xyz), rpy=_numbers(joint.rpy))
    ElementTree.SubElement(element, "parent", link=joint.parent)
    ElementTree.SubElement(element, "child", link=joint.child)
    if joint.axis is not None:
        ElementTree.SubElement(element, "axis", xyz=_numbers(joint.axis))
        low, high = joint.limits
        ElementTree.SubElement(element, "limit", lower=f"{low:g}", upper=f"{high:g}", effort="10", velocity="3")
    return element


def urdf_text(variant: str) -> str:
    """The URDF in one colour variant (a key of :data:`PALETTES`)."""
    robot = ElementTree.Element("robot", name="google_robot")
    for name in ("link_base", *(joint.child for joint in JOINTS)):
        robot.append(_link_element(name, PALETTES[variant]))
    for joint in JOINTS:
        robot.append(_joint_element(joint))
    ElementTree.indent(robot)
    return ElementTree.tostring(robot, encoding="unicode") + "\n"


def urdf_name(variant: str) -> str:
    """File name of a colour variant, as upstream's."""
    return f"{URDF_STEM}{'_' if variant else ''}{variant}.urdf"


def write_robot(folder: Path) -> None:
    """Write every URDF variant and the meshes that they share."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, loft in _lofts().items():
        (folder / f"{name}.obj").write_text(trimesh.exchange.obj.export_obj(loft_mesh(loft), include_normals=False))
    for variant in PALETTES:
        (folder / urdf_name(variant)).write_text(urdf_text(variant))
