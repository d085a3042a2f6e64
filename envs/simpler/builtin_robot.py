"""The builtin Google robot: upstream's kinematics and inertias, our own primitive shapes.

Before hop 1 of the tour. What decides how the robot moves is in :mod:`envs.simpler.builtin_kinematics`. What decides how it
looks and touches is here and is ours: cylinders, boxes, and lofts (hulls of a few outlines), fitted to the extents of the
real parts, so that a can is gripped at the same width and height, with 31 convex collision shapes where upstream has 54.
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
from envs.simpler.builtin_kinematics import INERTIALS, JOINTS, Inertial, Joint

URDF_STEM = "google_robot_meta_sim_fix_wheel_fix_fingertip"
_ORIGIN: Vector = (0.0, 0.0, 0.0)
_HALF_PI = float(np.pi / 2)
_ALONG_X: Vector = (0.0, _HALF_PI, 0.0)
_ALONG_Y: Vector = (-_HALF_PI, 0.0, 0.0)
_ALONG_Z: Vector = _ORIGIN

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


@dataclass(frozen=True)
class Hull:
    """The convex hull of points in the link's frame, m."""

    name: str
    points: tuple[Vector, ...]


Shape = Cylinder | Block | Loft | Hull


@dataclass(frozen=True)
class Body:
    """The shapes of one link; a visual shape comes with the name of its colour."""

    collisions: tuple[Shape, ...] = ()
    visuals: tuple[tuple[str, Shape], ...] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class RobotDescription:
    """A robot as numbers: all that its URDF says but the colours."""

    name: str
    root: str
    joints: tuple[Joint, ...]
    inertials: Mapping[str, Inertial]
    """By link; one without has no mass of its own."""
    bodies: Mapping[str, Body]
    """By link; one without has no shape."""


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

GOOGLE_ROBOT = RobotDescription(name="google_robot", root="link_base", joints=JOINTS, inertials=INERTIALS, bodies=BODIES)
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


def convex_mesh(shape: Loft | Hull) -> trimesh.Trimesh:
    """The mesh of a shape that is one."""
    if isinstance(shape, Hull):
        return trimesh.convex.convex_hull(np.array(shape.points))
    corners = 4 if shape.roundness == 0.0 else 32
    points = np.concatenate([_outline(row, shape.roundness, corners) for row in shape.rows])
    return trimesh.convex.convex_hull(np.round(points, 6))


def _meshed_shapes(robot: RobotDescription) -> dict[str, Loft | Hull]:
    bodies = robot.bodies.values()
    shapes = [shape for body in bodies for shape in (*body.collisions, *(shape for _, shape in body.visuals))]
    return {shape.name: shape for shape in shapes if isinstance(shape, Loft | Hull)}


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
    center, rpy = (_ORIGIN, _ORIGIN) if isinstance(shape, Loft | Hull) else (shape.center, shape.rpy)
    ElementTree.SubElement(element, "origin", xyz=_numbers(center), rpy=_numbers(rpy))
    element.append(_geometry(shape))
    if color is not None:
        # One material name per colour: URDF readers share materials by name.
        material = ElementTree.SubElement(element, "material", name="rgb_" + "_".join(f"{channel:.3f}" for channel in color))
        ElementTree.SubElement(material, "color", rgba=_numbers((*color, 1.0)))
    return element


def _link_element(robot: RobotDescription, name: str, palette: Palette) -> ElementTree.Element:
    link = ElementTree.Element("link", name=name)
    if name in robot.inertials:
        numbers = robot.inertials[name]
        inertial = ElementTree.SubElement(link, "inertial")
        ElementTree.SubElement(inertial, "mass", value=f"{numbers.mass:.15g}")
        ElementTree.SubElement(inertial, "origin", xyz=_numbers(numbers.center), rpy="0 0 0")
        axes = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        ElementTree.SubElement(
            inertial, "inertia", {axis: f"{value:.15g}" for axis, value in zip(axes, numbers.inertia, strict=True)}
        )
    body = robot.bodies.get(name, Body())
    for color, shape in body.visuals:
        link.append(_shape_element("visual", shape, palette[color]))
    for shape in body.collisions:
        link.append(_shape_element("collision", shape))
    return link


def _joint_element(joint: Joint) -> ElementTree.Element:
    kind = "fixed" if joint.axis is None else "prismatic" if joint.slides else "revolute"
    element = ElementTree.Element("joint", name=joint.name, type=kind)
    ElementTree.SubElement(element, "origin", xyz=_numbers(joint.xyz), rpy=_numbers(joint.rpy))
    ElementTree.SubElement(element, "parent", link=joint.parent)
    ElementTree.SubElement(element, "child", link=joint.child)
    if joint.axis is not None:
        ElementTree.SubElement(element, "axis", xyz=_numbers(joint.axis))
        low, high = joint.limits
        ElementTree.SubElement(element, "limit", lower=f"{low:.9g}", upper=f"{high:.9g}", effort="10", velocity="3")
    return element


def urdf_text(robot: RobotDescription, palette: Palette) -> str:
    """The URDF in one set of colours."""
    root = ElementTree.Element("robot", name=robot.name)
    for name in (robot.root, *(joint.child for joint in robot.joints)):
        root.append(_link_element(robot, name, palette))
    for joint in robot.joints:
        root.append(_joint_element(joint))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def urdf_name(variant: str) -> str:
    """File name of a colour variant, as upstream's."""
    return f"{URDF_STEM}{'_' if variant else ''}{variant}.urdf"


def write_robot(folder: Path, robot: RobotDescription, palettes: Mapping[str, Palette]) -> None:
    """Write URDFs, one a palette, by file name, and the meshes that they share."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in _meshed_shapes(robot).items():
        (folder / f"{name}.obj").write_text(trimesh.exchange.obj.export_obj(convex_mesh(shape), include_normals=False))
    for file, palette in palettes.items():
        (folder / file).write_text(urdf_text(robot, palette))
