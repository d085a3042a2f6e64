"""The builtin tabletop objects: cans, a bottle, fruit and a sponge, with upstream's mass, centre of mass and size.

Before hop 1 of the tour. Each is a few convex pieces for physics and one painted mesh. The numbers are measurements of
upstream's models (extents, radii along the long axis, the volume of the convex hulls); the shapes and pictures are ours. A
collision shape is scaled across its axis until its volume is upstream's, so that density gives upstream's mass.

Several of upstream's ids are one object here: opened, baked and v2 models differ in texture or density only. Closed cans are
drawn open. The long axis of cans and bottle is y, that of apple and orange z, as in SIMPLER's model database.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from envs.simpler import builtin_labels
from envs.simpler.assets import ObjectModel, Vector

Array = NDArray[np.float64]
Profile = tuple[tuple[float, float], ...]
"""(radius, position along the axis) from one end to the other, m."""
Surface = tuple[Array, Array, NDArray[np.int64]]
"""Vertices [V, 3], texture coordinates [V, 2], faces [F, 3]."""
_VISUAL_SIDES = 48


@dataclass(frozen=True, kw_only=True)
class Lathe:
    """A body of revolution about y (or z)."""

    pieces: tuple[Profile, ...]
    """Of the convex pieces that collide; a GPU takes at most 64 vertices each, so round things are cut in slices."""
    drawn: Profile
    paint: Callable[[], NDArray[np.uint8]]
    axis_offset_m: tuple[float, float] = (0.0, 0.0)
    """x and z of the axis."""
    volume_m3: float | None = None
    """Of all pieces together; None: as the profiles give it."""
    lid: tuple[float, float, float] | None = None
    """Cans: radius of lid and base, position of the lid, of the base; their picture is below the side's."""
    is_about_z: bool = False
    sides: int = 16
    """Of the pieces that collide."""


@dataclass(frozen=True, kw_only=True)
class Slab:
    """A box with chamfered edges in two layers of colour."""

    half_size_m: Vector
    center_m: Vector
    volume_m3: float
    chamfer_m: float
    top_layer_m: float
    top_color: builtin_labels.Color
    bottom_color: builtin_labels.Color


# -- what there is -----------------------------------------------------------------------------------------------------

_COKE_DRAWN: Profile = (
    (0.0245, -0.0690),
    (0.0262, -0.0690),
    (0.0280, -0.0668),
    (0.0318, -0.0622),
    (0.0329, -0.0590),
    (0.0330, 0.0395),
    (0.0320, 0.0440),
    (0.0282, 0.0497),
    (0.0270, 0.0515),
    (0.0272, 0.0532),
    (0.0265, 0.0537),
    (0.0255, 0.0530),
    (0.0252, 0.0502),
)
_COKE = Lathe(
    pieces=(((0.0262, -0.06904), (0.033110, -0.0602), (0.033110, 0.042445), (0.0262, 0.05381)),),
    drawn=_COKE_DRAWN,
    paint=partial(builtin_labels.paint_can, builtin_labels.CAN_LABELS["coke"]),
    axis_offset_m=(7.8e-5, 6.34e-4),
    lid=(0.0252, 0.0502, -0.0665),
)
"""Upstream's can is off centre by this much; with it the centre of mass agrees. Its 16 sides hold upstream's volume."""


def _can(
    brand: str, *, radius: float, rim: float, ends: tuple[float, float], offset: tuple[float, float], volume: float
) -> Lathe:
    """Another can: the cola can's drawn profile stretched to its own radius and ends."""
    bottom, top = ends
    (_, low), (_, high) = _COKE_DRAWN[0], max(_COKE_DRAWN, key=lambda point: point[1])

    def along(y: float) -> float:
        return bottom + (y - low) * (top - bottom) / (high - low)

    widen = radius / 0.0330
    assert _COKE.lid is not None
    return Lathe(
        pieces=(((rim, bottom), (radius, bottom + 0.0090), (radius, top - 0.0115), (rim, top)),),
        drawn=tuple((r * widen, along(y)) for r, y in _COKE_DRAWN),
        paint=partial(builtin_labels.paint_can, builtin_labels.CAN_LABELS[brand]),
        axis_offset_m=offset,
        volume_m3=volume,
        lid=(_COKE.lid[0] * widen, along(_COKE.lid[1]), along(_COKE.lid[2])),
    )


def _ellipsoid(radius: float, half_height: float, center: float, *, num_rings: int, flat: float) -> Profile:
    """Rings of an ellipsoid of revolution; ``flat`` is the share of the half height where its ends are cut off."""
    heights = np.sin(np.linspace(-np.pi / 2, np.pi / 2, num_rings)) * flat
    return tuple((float(radius * np.sqrt(max(0.0, 1 - t * t))), float(center + half_height * t)) for t in heights)


_APPLE: Profile = (
    (0.0160, -0.0362),
    (0.0305, -0.0315),
    (0.0385, -0.0180),
    (0.0405, -0.0030),
    (0.0385, 0.0110),
    (0.0335, 0.0230),
    (0.0250, 0.0330),
    (0.0140, 0.0390),
)

SHAPES: Mapping[str, Lathe | Slab] = MappingProxyType(
    {
        "coke": _COKE,
        "pepsi": _can("pepsi", radius=0.0335, rim=0.0252, ends=(-0.0643, 0.0599), offset=(2e-4, 3e-4), volume=4.1289e-4),
        "sprite": _can("sprite", radius=0.0337, rim=0.0253, ends=(-0.0620, 0.0611), offset=(4e-4, 1.5e-4), volume=4.1112e-4),
        "7up": _can("7up", radius=0.0331, rim=0.0253, ends=(-0.0630, 0.0590), offset=(6e-5, -4.2e-4), volume=3.9292e-4),
        "fanta": _can("fanta", radius=0.0337, rim=0.0253, ends=(-0.0636, 0.0596), offset=(2.6e-4, 3.5e-4), volume=4.1114e-4),
        "redbull": _can("redbull", radius=0.0292, rim=0.0222, ends=(-0.0652, 0.0669), offset=(0.0, 0.0), volume=3.4514e-4),
        "redbull_unbaked": _can(
            "redbull", radius=0.0299, rim=0.0226, ends=(-0.0658, 0.0675), offset=(0.0, 0.0), volume=3.5827e-4
        ),
        "bottle": Lathe(
            pieces=(
                ((0.0260, -0.0882), (0.0320, -0.0800), (0.0320, 0.0560), (0.0240, 0.0780)),
                ((0.0240, 0.0780), (0.0183, 0.0964), (0.0135, 0.1157)),
            ),
            drawn=(
                (0.0, -0.0870),
                (0.0250, -0.0882),
                (0.0300, -0.0860),
                (0.0322, -0.0790),
                (0.0324, 0.0520),
                (0.0300, 0.0640),
                (0.0240, 0.0780),
                (0.0183, 0.0964),
                (0.0170, 0.0990),
                (0.0138, 0.1000),
                (0.0135, 0.1150),
                (0.0, 0.1157),
            ),
            paint=builtin_labels.paint_bottle,
            axis_offset_m=(0.0013, 0.0029),
            volume_m3=5.8307e-4,
        ),
        "apple": Lathe(
            pieces=tuple(itertools.pairwise(_APPLE)),
            drawn=((0.0, -0.0310), (0.0080, -0.0345), *_APPLE, (0.0070, 0.0375), (0.0, 0.0315)),
            paint=builtin_labels.paint_apple,
            axis_offset_m=(-3e-4, -5e-4),
            volume_m3=2.6806e-4,
            is_about_z=True,
            sides=24,
        ),
        "orange": Lathe(
            pieces=tuple(itertools.pairwise(_ellipsoid(0.0354, 0.0350, 0.0, num_rings=9, flat=0.985))),
            drawn=_ellipsoid(0.0354, 0.0350, 0.0, num_rings=25, flat=1.0),
            paint=builtin_labels.paint_orange,
            volume_m3=1.8688e-4,
            is_about_z=True,
            sides=24,
        ),
        "sponge": Slab(
            half_size_m=(0.0505, 0.0335, 0.0186),
            center_m=(9e-5, 0.0027, 0.0),
            volume_m3=2.3239e-4,
            chamfer_m=0.005,
            top_layer_m=0.010,
            top_color=(48, 92, 70),
            bottom_color=(222, 208, 92),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class TabletopObject:
    """One of upstream's model ids."""

    shape: str
    """A key of :data:`SHAPES`."""
    half_size_m: Vector
    """Of the box in upstream's model database (success rules use it); not always that of the mesh."""
    density: float
    """kg/m3; upstream's, but where our shape's volume is more than 2 % off: there, what gives upstream's mass."""


def _objects() -> dict[str, TabletopObject]:
    found = {}
    for brand in ("coke", "pepsi", "sprite", "7up", "fanta", "redbull"):
        is_slim = brand == "redbull"
        closed, opened = ((0.02925, 0.066, 0.02925), (0.02925, 0.086, 0.02925)) if is_slim else ((0.033, 0.0615, 0.033),) * 2
        unbaked = "redbull_unbaked" if is_slim else brand  # upstream's baked one is smaller
        found[f"{brand}_can"] = TabletopObject(shape=unbaked, half_size_m=closed, density=1000.0)
        found[f"opened_{brand}_can"] = TabletopObject(shape=unbaked, half_size_m=opened, density=50.0)
        for name in (f"baked_opened_{brand}_can", f"baked_opened_{brand}_can_v2"):
            found[name] = TabletopObject(shape=brand, half_size_m=opened, density=50.0)
    for name, shape, half_size, density in (
        ("blue_plastic_bottle", "bottle", (0.03005, 0.1015, 0.03025), 49.0),
        ("apple", "apple", (0.04, 0.04, 0.04), 800.0),
        ("orange", "orange", (0.035, 0.035, 0.034), 780.0),
        ("sponge", "sponge", (0.035, 0.05, 0.018), 150.0),
    ):
        for model_id in (name, f"baked_{name}", f"baked_{name}_v2"):
            found[model_id] = TabletopObject(shape=shape, half_size_m=half_size, density=density)
    return found


TABLETOP_OBJECTS: Mapping[str, TabletopObject] = MappingProxyType(_objects())


# -- files -------------------------------------------------------------------------------------------------------------


def write_objects(folder: Path) -> None:
    """Write ``SHAPE/collision_N.obj`` and ``SHAPE/textured.glb`` for every shape."""
    for name, shape in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, mesh in enumerate(collision_meshes(shape)):
            text = trimesh.exchange.obj.export_obj(mesh, include_normals=False, digits=7)
            (folder / name / f"collision_{index}.obj").write_text(text)
        scene = trimesh.Scene(visual_meshes(shape))
        (folder / name / "textured.glb").write_bytes(trimesh.exchange.gltf.export_glb(scene, include_normals=True))


def tabletop_model(folder: Path, model_id: str) -> ObjectModel:
    """One object, from the files that :func:`write_objects` wrote.

    Args:
        folder: of all of them.
        model_id: a key of :data:`TABLETOP_OBJECTS`.
    """
    item = TABLETOP_OBJECTS[model_id]
    x, y, z = item.half_size_m
    return ObjectModel(
        model_id=model_id,
        collision_files=tuple(sorted((folder / item.shape).glob("collision_*.obj"))),
        visual_file=folder / item.shape / "textured.glb",
        bbox_min=(-x, -y, -z),
        bbox_max=(x, y, z),
        density=item.density,
    )


# -- shapes for physics ------------------------------------------------------------------------------------------------


def collision_meshes(shape: Lathe | Slab) -> list[trimesh.Trimesh]:
    """Convex hulls that together have the shape's volume, in the object's frame."""
    if isinstance(shape, Slab):
        return [_slab_hull(shape)]
    pieces = [np.concatenate([_ring(radius, y, shape.sides) for radius, y in profile]) for profile in shape.pieces]
    volume = sum(trimesh.convex.convex_hull(points).volume for points in pieces)
    widen = 1.0 if shape.volume_m3 is None else np.sqrt(shape.volume_m3 / volume)
    return [trimesh.convex.convex_hull(np.round(_in_place(points * [widen, 1.0, widen], shape), 7)) for points in pieces]


def _slab_hull(shape: Slab) -> trimesh.Trimesh:
    """Corners cut at every edge; the two longer axes are scaled for the volume, so that it lies as high as upstream's."""
    half = np.array(shape.half_size_m)
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    corners = [signs * (half - shape.chamfer_m * (np.arange(3) != axis)) for axis in range(3)]
    points = np.concatenate(corners)
    widen = np.sqrt(shape.volume_m3 / trimesh.convex.convex_hull(points).volume)
    return trimesh.convex.convex_hull(np.round(points * [widen, widen, 1.0] + np.array(shape.center_m), 7))


def _ring(radius: float, y: float, sides: int) -> Array:
    angle = np.linspace(0.0, 2 * np.pi, sides, endpoint=False)
    return np.stack([radius * np.cos(angle), np.full(sides, y), radius * np.sin(angle)], axis=1)


def _in_place(points: Array, shape: Lathe) -> Array:
    """Turn the axis to z where it belongs there, and move it aside by its offset."""
    x, z = shape.axis_offset_m
    moved = points + np.array([x, 0.0, z])
    return moved @ np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]) if shape.is_about_z else moved


# -- shapes to look at -------------------------------------------------------------------------------------------------


def visual_meshes(shape: Lathe | Slab) -> list[trimesh.Trimesh]:
    """What is drawn, in the object's frame."""
    if isinstance(shape, Slab):
        return _slab_layers(shape)
    texture = shape.paint()
    side_share = 1.0 if shape.lid is None else builtin_labels.LABEL_ROWS / builtin_labels.TEXTURE_PX
    vertices, coordinates, faces = _side(shape.drawn, side_share)
    if shape.lid is not None:
        radius, lid_y, base_y = shape.lid
        for center_u, y, is_up in ((0.25, lid_y, True), (0.75, base_y, False)):
            disc, disc_uv, disc_faces = _disc(radius, center_u, y, is_up)
            faces = np.concatenate([faces, disc_faces + len(vertices)])
            vertices, coordinates = np.concatenate([vertices, disc]), np.concatenate([coordinates, disc_uv])
    image = Image.fromarray(texture)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=0.35)
    visual = trimesh.visual.TextureVisuals(uv=coordinates, material=material)
    return [trimesh.Trimesh(_in_place(vertices, shape), faces, visual=visual, process=False)]


def _side(profile: Profile, share: float) -> Surface:
    """The lathed side, on the upper ``share`` of the texture; the seam is doubled so that it does not run backwards there."""
    columns = _VISUAL_SIDES + 1
    points = np.array(profile)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    along = length / length[-1]
    rings = [np.concatenate([ring, ring[:1]]) for ring in (_ring(r, y, _VISUAL_SIDES) for r, y in profile)]
    u = np.linspace(1.0, 0.0, columns)  # seen from outside, the label runs against the angle
    low = 1.0 - share
    uv = np.concatenate([np.stack([u, np.full(columns, low + s * share)], axis=1) for s in along])
    row, column = np.meshgrid(np.arange(len(points) - 1), np.arange(_VISUAL_SIDES), indexing="ij")
    a = (row * columns + column).ravel()
    b, c, d = a + 1, a + columns, a + columns + 1
    faces = np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
    return np.concatenate(rings), uv, faces


def _disc(radius: float, center_u: float, y: float, is_up: bool) -> Surface:
    """A lid or a base, with its picture below the side's."""
    below = 1.0 - builtin_labels.LABEL_ROWS / builtin_labels.TEXTURE_PX
    ring = _ring(radius, y, _VISUAL_SIDES)
    vertices = np.concatenate([[[0.0, y, 0.0]], ring])
    uv = vertices[:, [0, 2]] / radius * (0.95 * below / 2) + np.array([center_u, below / 2])
    index = np.arange(_VISUAL_SIDES)
    following = (index + 1) % _VISUAL_SIDES
    first, second = (following, index) if is_up else (index, following)
    return vertices, uv, np.stack([np.zeros_like(index), first + 1, second + 1], axis=1)


def _slab_layers(shape: Slab) -> list[trimesh.Trimesh]:
    points = _slab_hull(shape).vertices
    (_, _, bottom), (_, _, top) = points.min(axis=0), points.max(axis=0)
    height = top - shape.top_layer_m
    outline = points[(points[:, 2] > bottom) & (points[:, 2] < top)] * [1, 1, 0] + [0, 0, height]  # the same at every height
    layers = []
    for is_kept, color in ((points[:, 2] > height, shape.top_color), (points[:, 2] < height, shape.bottom_color)):
        part = trimesh.convex.convex_hull(np.concatenate([points[is_kept], outline]))
        linear = [*((np.array(color) / 255.0) ** 2.2), 1.0]
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=linear, metallicFactor=0.0, roughnessFactor=0.9)
        part.unmerge_vertices()  # flat faces, sharp edges
        part.visual = trimesh.visual.TextureVisuals(material=material)
        layers.append(part)
    return layers
