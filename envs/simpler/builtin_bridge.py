"""What the builtin set has for the WidowX: spoon, towel, carrot, plate, cubes, eggplant, sink, table.

Before hop 1 of the tour. Shapes follow measurements of upstream's models (outlines along the long axis, heights, volumes of the
convex hulls), so that they weigh the same, lie the same and are gripped at the same width. The sink is 18 blocks under
upstream's height map, where upstream has 82 hulls; the basket in it is part of the sink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import trimesh
from numpy.typing import NDArray

from envs.simpler.assets import Box, ObjectModel, Vector
from envs.simpler.builtin_objects import Array, Lathe, collision_meshes, visual_meshes

Row = tuple[float, float, float, float, float]
"""An outline across x: x, lowest and highest y, lowest and highest z, m."""
_DRAWN_SIDES, _COLLIDING_SIDES = 32, 8
TABLE_TOP_M = 0.869532
"""As high as the mesh under upstream's objects; the nominal height is 0.87 m."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A convex part: ellipses, or rectangles, stacked along x."""

    rows: tuple[Row, ...]
    color: Vector
    """Linear RGB."""
    is_round: bool = True
    volume_m3: float | None = None
    """What its hull is widened to; None: as the rows give it."""
    collides: bool = True


@dataclass(frozen=True, kw_only=True)
class BridgeObject:
    """One of upstream's model ids."""

    shape: str
    """A key of :data:`SHAPES`."""
    half_size_m: Vector
    """Of the box in upstream's model database; success rules use it."""
    density: float
    box_center_m: Vector = (0.0, 0.0, 0.0)


# -- what there is -----------------------------------------------------------------------------------------------------

_ORANGE, _LEAF = (0.80, 0.22, 0.03), (0.06, 0.16, 0.05)
_LIME, _STEEL = (0.30, 0.42, 0.12), (0.45, 0.47, 0.48)
_PURPLE = (0.14, 0.04, 0.17)
_SINK_BLUE, _BASKET_YELLOW = (0.33, 0.52, 0.56), (0.80, 0.66, 0.22)


def _block(low: Vector, high: Vector, color: Vector) -> Piece:
    """From one corner to the opposite."""
    y, z = (low[1], high[1]), (low[2], high[2])
    return Piece(rows=((low[0], *y, *z), (high[0], *y, *z)), color=color, is_round=False)


def _cube(color: Vector) -> tuple[Piece, ...]:
    return (_block((-0.015, -0.015, -0.015), (0.015, 0.015, 0.015), color),)


Profile = tuple[tuple[float, float], ...]
"""(x, height) of a top, m."""


def _ridge(y_low: float, y_high: float, tops: Profile, color: Vector) -> Piece:
    """Straight along y, standing on z = 0."""
    rows = tuple((x, y_low, y_high, 0.0, top) for x, top in tops)
    return Piece(rows=rows, color=color, is_round=False)


def _sink() -> tuple[Piece, ...]:
    """A basket (y < -0.04) beside a basin (y > -0.03), in a rim that is 0.1 m high; floors are a little lower in front."""
    yellow, blue = _BASKET_YELLOW, _SINK_BLUE
    return (
        _ridge(-0.2036, -0.1555, ((-0.137, 0.098), (0.138, 0.096)), yellow),
        _ridge(-0.1555, -0.0480, ((-0.137, 0.100), (-0.095, 0.115), (-0.0575, 0.098)), yellow),
        _ridge(-0.1555, -0.1490, ((-0.0575, 0.060), (0.0965, 0.060)), yellow),
        _ridge(-0.1555, -0.0530, ((-0.0575, 0.062), (-0.0480, 0.060), (-0.0330, 0.050)), yellow),
        _ridge(-0.1490, -0.1100, ((-0.0330, 0.0500), (0.0965, 0.0465)), yellow),
        _ridge(-0.1100, -0.0800, ((-0.0330, 0.0490), (0.0965, 0.0455)), yellow),
        _ridge(-0.0800, -0.0530, ((-0.0330, 0.0475), (0.0965, 0.0450)), yellow),
        _ridge(-0.0530, -0.0450, ((-0.0575, 0.061), (0.0965, 0.061)), yellow),
        _ridge(-0.0450, -0.0320, ((-0.0575, 0.099), (0.0965, 0.097)), yellow),
        _ridge(-0.1555, -0.0320, ((0.0915, 0.047), (0.1030, 0.090), (0.1100, 0.097), (0.1380, 0.090)), yellow),
        _ridge(-0.0480, 0.1695, ((-0.137, 0.091), (-0.118, 0.099), (-0.0540, 0.099)), blue),
        _ridge(-0.0320, -0.0200, ((-0.0540, 0.061), (0.0965, 0.061)), blue),
        _ridge(-0.0200, 0.1695, ((-0.0540, 0.062), (-0.0480, 0.061), (-0.0360, 0.042)), blue),
        _ridge(-0.0200, 0.0300, ((-0.0360, 0.0430), (0.0965, 0.0425)), blue),
        _ridge(0.0300, 0.0800, ((-0.0360, 0.0405), (0.0965, 0.0410)), blue),
        _ridge(0.0800, 0.1695, ((-0.0360, 0.0395), (0.0965, 0.0405)), blue),
        _ridge(-0.0320, 0.1695, ((0.0970, 0.041), (0.1045, 0.089), (0.1100, 0.095), (0.1380, 0.089)), blue),
        _ridge(0.1695, 0.1956, ((-0.137, 0.094), (0.138, 0.091)), blue),
    )


SINK = _sink()


def _plain(color: Vector) -> NDArray[np.uint8]:
    """A texture of one colour, sRGB 0..255."""
    return np.full((8, 8, 3), np.round(255 * np.array(color) ** (1 / 2.2)), dtype=np.uint8)


def _paint_plate() -> NDArray[np.uint8]:
    return _plain((0.42, 0.55, 0.16))


SHAPES: Mapping[str, tuple[Piece, ...] | Lathe] = MappingProxyType(
    {
        "carrot": (
            Piece(
                rows=(
                    (-0.0641, -0.0012, 0.0012, -0.0062, -0.0030),
                    (-0.0568, -0.0052, 0.0048, -0.0087, 0.0011),
                    (-0.0272, -0.0118, 0.0118, -0.0145, 0.0085),
                    (0.0024, -0.0162, 0.0159, -0.0177, 0.0144),
                    (0.0172, -0.0157, 0.0157, -0.0166, 0.0170),
                    (0.0468, -0.0138, 0.0110, -0.0030, 0.0221),
                    (0.0542, -0.0080, 0.0060, 0.0060, 0.0225),
                ),
                color=_ORANGE,
                volume_m3=7.8179e-5,
            ),
            Piece(
                rows=((0.0460, -0.0142, 0.0114, -0.0032, 0.0223), (0.0545, -0.0082, 0.0062, 0.0058, 0.0227)),
                color=_LEAF,
                collides=False,
            ),
        ),
        "eggplant": (
            Piece(
                rows=(
                    (-0.0449, -0.0015, 0.0025, 0.0090, 0.0130),
                    (-0.0301, -0.0105, 0.0119, -0.0067, 0.0167),
                    (-0.0105, -0.0161, 0.0166, -0.0167, 0.0172),
                    (0.0092, -0.0188, 0.0184, -0.0203, 0.0175),
                    (0.0190, -0.0178, 0.0168, -0.0193, 0.0164),
                    (0.0289, -0.0118, 0.0111, -0.0140, 0.0099),
                    (0.0338, -0.0040, 0.0035, -0.0060, 0.0020),
                ),
                color=_PURPLE,
                volume_m3=5.2222e-5,
            ),
        ),
        "spoon": (
            Piece(
                rows=(
                    (-0.0230, -0.0045, 0.0045, -0.0025, 0.0060),
                    (-0.0060, -0.0069, 0.0070, -0.0081, 0.0100),
                    (0.0281, -0.0107, 0.0110, -0.0116, 0.0131),
                    (0.0509, -0.0110, 0.0119, -0.0102, 0.0129),
                    (0.0622, -0.0062, 0.0079, -0.0036, 0.0094),
                    (0.0679, -0.0010, 0.0020, 0.0010, 0.0050),
                ),
                color=_LIME,
                volume_m3=2.6707e-5,
            ),
            Piece(
                rows=(
                    (-0.0479, -0.0178, 0.0178, -0.0083, 0.0030),
                    (-0.0370, -0.0166, 0.0167, -0.0081, 0.0028),
                    (-0.0230, -0.0050, 0.0050, -0.0022, 0.0026),
                ),
                color=_STEEL,
                volume_m3=4.8418e-6,
            ),
            Piece(
                rows=((-0.0732, -0.0020, 0.0030, 0.0130, 0.0153), (-0.0608, -0.0146, 0.0148, -0.0018, 0.0076)),
                color=_STEEL,
                volume_m3=1.3841e-6,
            ),
            Piece(
                rows=((-0.0608, -0.0146, 0.0148, -0.0018, 0.0070), (-0.0479, -0.0176, 0.0178, -0.0080, 0.0033)),
                color=_STEEL,
                volume_m3=2.9885e-6,
            ),
        ),
        "towel": (
            _block((-0.0474, -0.0508, -0.0050), (0.0487, -0.0028, 0.0038), (0.06, 0.14, 0.34)),
            _block((-0.0474, -0.0028, -0.0050), (0.0487, 0.0208, 0.0027), (0.07, 0.16, 0.38)),
            _block((-0.0474, 0.0208, -0.0050), (0.0487, 0.0502, 0.0031), (0.06, 0.14, 0.34)),
        ),
        "plate": Lathe(
            pieces=(((0.0340, 0.0), (0.0377, 0.0010), (0.0469, 0.0030), (0.0549, 0.0050), (0.0549, 0.0060)),),
            drawn=(
                (0.0, 0.0),
                (0.0340, 0.0),
                (0.0377, 0.0010),
                (0.0469, 0.0030),
                (0.0549, 0.0055),
                (0.0545, 0.0060),
                (0.0460, 0.0045),
                (0.0370, 0.0030),
                (0.0, 0.0028),
            ),
            paint=_paint_plate,
            volume_m3=3.9189e-5,
            is_about_z=True,
            sides=12,
        ),
        "green_cube": _cube((0.05, 0.30, 0.08)),
        "yellow_cube": _cube((0.72, 0.50, 0.05)),
        "sink": SINK,
        "basket_floor": (_block((-0.065, -0.04, -0.001), (0.065, 0.04, 0.001), _BASKET_YELLOW),),
    }
)


def _objects() -> dict[str, BridgeObject]:
    cube = (0.015, 0.015, 0.015)
    found = {
        "bridge_spoon_generated_modified": BridgeObject(shape="spoon", half_size_m=(0.07, 0.0173, 0.013021), density=1200.0),
        "bridge_carrot_generated_modified": BridgeObject(shape="carrot", half_size_m=(0.0575, 0.016, 0.019), density=700.0),
        "bridge_plate_objaverse_larger": BridgeObject(shape="plate", half_size_m=(0.055, 0.055, 0.003), density=1000.0),
        "table_cloth_generated_shorter": BridgeObject(shape="towel", half_size_m=(0.05, 0.05, 0.005), density=330.0),
        "eggplant": BridgeObject(shape="eggplant", half_size_m=(0.03915, 0.0187, 0.019), density=400.0),
        "sink": BridgeObject(
            shape="sink", half_size_m=(0.1345, 0.1965, 0.0575), density=100000.0, box_center_m=(0.0, 0.0, 0.0575)
        ),
        "dummy_sink_target_plane": BridgeObject(shape="basket_floor", half_size_m=(0.065, 0.04, 0.001), density=100000.0),
    }
    for color in ("green", "yellow"):
        for model_id in (f"{color}_cube_3cm", f"baked_{color}_cube_3cm"):
            found[model_id] = BridgeObject(shape=f"{color}_cube", half_size_m=cube, density=1000.0)
    return found


BRIDGE_OBJECTS: Mapping[str, BridgeObject] = MappingProxyType(_objects())


# -- files -------------------------------------------------------------------------------------------------------------


def write_bridge_objects(folder: Path) -> None:
    """Write ``SHAPE/collision_N.obj`` and ``SHAPE/textured.glb`` for every shape."""
    for name, shape in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        hulls = collision_meshes(shape) if isinstance(shape, Lathe) else [_hull(piece) for piece in shape if piece.collides]
        for index, mesh in enumerate(hulls):
            text = trimesh.exchange.obj.export_obj(mesh, include_normals=False, digits=7)
            (folder / name / f"collision_{index:02}.obj").write_text(text)
        drawn = visual_meshes(shape) if isinstance(shape, Lathe) else [_skin(piece) for piece in shape]
        glb = trimesh.exchange.gltf.export_glb(trimesh.Scene(drawn), include_normals=True)
        (folder / name / "textured.glb").write_bytes(glb)


def bridge_model(folder: Path, model_id: str) -> ObjectModel:
    """One object, from the files that :func:`write_bridge_objects` wrote.

    Args:
        folder: of all of them.
        model_id: a key of :data:`BRIDGE_OBJECTS`.
    """
    item = BRIDGE_OBJECTS[model_id]
    (x, y, z), (half_x, half_y, half_z) = item.box_center_m, item.half_size_m
    return ObjectModel(
        model_id=model_id,
        collision_files=tuple(sorted((folder / item.shape).glob("collision_*.obj"))),
        visual_file=folder / item.shape / "textured.glb",
        bbox_min=(x - half_x, y - half_y, z - half_z),
        bbox_max=(x + half_x, y + half_y, z + half_z),
        density=item.density,
    )


def _outline(row: Row, num_sides: int, widen: float) -> Array:
    """Points [num_sides, 3] around a row, with a flat side at the bottom; four for a rectangle."""
    x, y_low, y_high, z_low, z_high = row
    if num_sides == 4:
        unit = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    else:
        angle = np.linspace(0.0, 2 * np.pi, num_sides, endpoint=False) + np.pi / num_sides
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    center, half = np.array([y_low + y_high, z_low + z_high]) / 2, np.array([y_high - y_low, z_high - z_low]) / 2
    return np.column_stack([np.full(num_sides, x), center + widen * unit * half])


def _hull(piece: Piece) -> trimesh.Trimesh:
    """What it collides as."""
    sides = _COLLIDING_SIDES if piece.is_round else 4

    def hull(widen: float) -> trimesh.Trimesh:
        points = np.concatenate([_outline(row, sides, widen) for row in piece.rows])
        return trimesh.convex.convex_hull(np.round(points, 7))

    return hull(1.0 if piece.volume_m3 is None else float(np.sqrt(piece.volume_m3 / hull(1.0).volume)))


def _skin(piece: Piece) -> trimesh.Trimesh:
    """What is drawn of it: smooth if round."""
    points = np.concatenate([_outline(row, _DRAWN_SIDES if piece.is_round else 4, 1.0) for row in piece.rows])
    mesh = trimesh.convex.convex_hull(points)
    if not piece.is_round:
        mesh.unmerge_vertices()
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[*piece.color, 1.0], metallicFactor=0.0, roughnessFactor=0.6)
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    return mesh


# -- the table ---------------------------------------------------------------------------------------------------------


def table() -> Box:
    """Under the objects and the robot."""
    half_height = TABLE_TOP_M / 2 - 0.01
    return Box(half_size=(0.7, 0.7, half_height), center=(-0.1, 0.0, TABLE_TOP_M - half_height), color=(0.30, 0.10, 0.05))
