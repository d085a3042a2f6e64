"""The builtin opened cola can: a lathe mesh, painted by arithmetic; mass, centre of mass and size as upstream's can.

Before hop 1 of the tour. The can's long axis is y, as in SIMPLER's model database.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from envs.simpler.assets import ObjectModel

COKE_CAN = "opened_coke_can"
_DENSITY = 50.0
_BBOX = (0.033, 0.0615, 0.033)
_AXIS_OFFSET_M = (7.8e-5, 6.34e-4)
"""x and z of the can's axis. Upstream's can is off centre by this much; with it the centre of mass agrees."""
_BOTTOM_Y_M, _TOP_Y_M = -0.06904, 0.05381
_COLLISION_PROFILE = ((0.0262, _BOTTOM_Y_M), (0.033110, -0.0602), (0.033110, 0.042445), (0.0262, _TOP_Y_M))
"""(radius, y) from bottom to top, m; with 16 sides the hull holds upstream's volume, 3.9915e-4 m^3."""
_COLLISION_SIDES = 16
_VISUAL_PROFILE = (
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
_VISUAL_SIDES = 48
_LID_RADIUS_M, _LID_Y_M = 0.0252, 0.0502
_BASE_Y_M = -0.0665

_TEXTURE_PX = 512
_LABEL_ROWS = 320  # the rest of the texture holds lid and base, side by side
_WORD_CENTER_PX = 105
_ALUMINIUM = (202, 205, 210)
_RED, _DARK_RED, _WHITE = (196, 16, 26), (138, 6, 14), (244, 240, 236)


def _ring(radius: float, y: float, sides: int) -> NDArray[np.float64]:
    angle = np.linspace(0.0, 2 * np.pi, sides, endpoint=False)
    x, z = _AXIS_OFFSET_M
    return np.stack([x + radius * np.cos(angle), np.full(sides, y), z + radius * np.sin(angle)], axis=1)


def collision_mesh() -> trimesh.Trimesh:
    """One convex hull of 64 vertices."""
    points = np.concatenate([_ring(radius, y, _COLLISION_SIDES) for radius, y in _COLLISION_PROFILE])
    return trimesh.convex.convex_hull(np.round(points, 7))


def visual_mesh() -> trimesh.Trimesh:
    """The lathed can with texture coordinates: side, lid (sunk a little), base."""
    vertices, coordinates, faces = _side()
    for center_u, y, is_up in ((0.25, _LID_Y_M, True), (0.75, _BASE_Y_M, False)):
        disc, disc_uv, disc_faces = _disc(center_u, y, is_up)
        faces = np.concatenate([faces, disc_faces + len(vertices)])
        vertices, coordinates = np.concatenate([vertices, disc]), np.concatenate([coordinates, disc_uv])
    image = Image.fromarray(paint_label())
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=0.35)
    visual = trimesh.visual.TextureVisuals(uv=coordinates, material=material)
    return trimesh.Trimesh(vertices, faces, visual=visual, process=False)


Surface = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def _side() -> Surface:
    """Vertices, texture coordinates, faces; the seam is doubled so that the texture does not run backwards there."""
    columns = _VISUAL_SIDES + 1
    profile = np.array(_VISUAL_PROFILE)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))])
    share = length / length[-1]
    rings = [np.concatenate([ring, ring[:1]]) for ring in (_ring(r, y, _VISUAL_SIDES) for r, y in _VISUAL_PROFILE)]
    u = np.linspace(1.0, 0.0, columns)  # seen from outside, the label runs against the angle
    low = 1.0 - _LABEL_ROWS / _TEXTURE_PX
    uv = np.concatenate([np.stack([u, np.full(columns, low + s * (1.0 - low))], axis=1) for s in share])
    row, column = np.meshgrid(np.arange(len(profile) - 1), np.arange(_VISUAL_SIDES), indexing="ij")
    a = (row * columns + column).ravel()
    b, c, d = a + 1, a + columns, a + columns + 1
    faces = np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
    return np.concatenate(rings), uv, faces


def _disc(center_u: float, y: float, is_up: bool) -> Surface:
    ring = _ring(_LID_RADIUS_M, y, _VISUAL_SIDES)
    center = np.array([[_AXIS_OFFSET_M[0], y, _AXIS_OFFSET_M[1]]])
    vertices = np.concatenate([center, ring])
    flat = (vertices[:, [0, 2]] - np.array(_AXIS_OFFSET_M)) / _LID_RADIUS_M
    radius_uv = 0.95 * (_TEXTURE_PX - _LABEL_ROWS) / _TEXTURE_PX / 2
    center_v = (1.0 - _LABEL_ROWS / _TEXTURE_PX) / 2
    uv = flat * radius_uv + np.array([center_u, center_v])
    index = np.arange(_VISUAL_SIDES)
    following = (index + 1) % _VISUAL_SIDES
    first, second = (following, index) if is_up else (index, following)
    return vertices, uv, np.stack([np.zeros_like(index), first + 1, second + 1], axis=1)


def paint_label() -> NDArray[np.uint8]:
    """The texture [512, 512, 3]: rows 0..319 the side from top to bottom, below lid (left) and base (right)."""
    texture = np.full((_TEXTURE_PX, _TEXTURE_PX, 3), _ALUMINIUM, dtype=np.uint8)
    texture[:_LABEL_ROWS] = _paint_side()
    disc_center_row = (_LABEL_ROWS + _TEXTURE_PX) // 2
    _paint_lid(texture, (_TEXTURE_PX // 4, disc_center_row))
    cv2.circle(texture, (3 * _TEXTURE_PX // 4, disc_center_row), 60, (150, 153, 158), 6, cv2.LINE_AA)
    return texture


def _paint_side() -> NDArray[np.uint8]:
    """[320, 512, 3]: aluminium rims, a red label with a white wave and a word, twice around."""
    label = np.full((_LABEL_ROWS, _TEXTURE_PX, 3), _ALUMINIUM, dtype=np.uint8)
    top, bottom = 42, 300
    label[top:bottom] = _RED
    label[top:bottom] = _shaded(label[top:bottom])
    u = np.arange(_TEXTURE_PX)
    wave = 232 + 20 * np.sin(4 * np.pi * u / _TEXTURE_PX) + 7 * np.sin(8 * np.pi * u / _TEXTURE_PX + 1.0)
    rows = np.arange(_LABEL_ROWS)[:, None]
    thickness = 9 + 5 * np.sin(4 * np.pi * u / _TEXTURE_PX + 0.8)
    label[np.abs(rows - wave[None]) < thickness[None]] = _WHITE
    label[np.abs(rows - wave[None] - 24) < 2] = _WHITE
    for left in (18, 18 + _TEXTURE_PX // 2):
        cv2.putText(label, "Cola", (left, 172), cv2.FONT_HERSHEY_SCRIPT_COMPLEX, 3.1, _DARK_RED, 15, cv2.LINE_AA)
        cv2.putText(label, "Cola", (left, 170), cv2.FONT_HERSHEY_SCRIPT_COMPLEX, 3.1, _WHITE, 9, cv2.LINE_AA)
    label[top - 2 : top + 2] = (120, 10, 16)
    label[bottom - 2 : bottom + 2] = (120, 10, 16)
    return np.roll(label, -_WORD_CENTER_PX, axis=1)  # a word faces +x, where the robot's camera is


def _shaded(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label that darkens towards its lower edge, with the faint vertical streaks of brushed metal under ink."""
    rows = np.linspace(1.04, 0.86, label.shape[0])[:, None, None]
    streaks = 1.0 + 0.03 * np.random.RandomState(0).standard_normal((1, label.shape[1], 1))
    return np.clip(label * rows * cv2.GaussianBlur(streaks, (9, 1), 0).reshape(1, -1, 1), 0, 255).astype(np.uint8)


def _paint_lid(texture: NDArray[np.uint8], center: tuple[int, int]) -> None:
    """Aluminium rings, the dark opening, the tab."""
    x, y = center
    cv2.circle(texture, center, 91, (176, 179, 184), -1, cv2.LINE_AA)
    cv2.circle(texture, center, 80, (214, 217, 221), -1, cv2.LINE_AA)
    cv2.circle(texture, center, 80, (140, 143, 148), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x + 36, y), (30, 34), 0, 0, 360, (28, 20, 18), -1, cv2.LINE_AA)
    cv2.ellipse(texture, (x + 36, y), (31, 35), 0, 0, 360, (120, 123, 128), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 26, y), (36, 20), 0, 0, 360, (186, 189, 194), -1, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 26, y), (36, 20), 0, 0, 360, (120, 123, 128), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 40, y), (14, 10), 0, 0, 360, (120, 123, 128), -1, cv2.LINE_AA)
    cv2.circle(texture, (x - 4, y), 6, (110, 113, 118), -1, cv2.LINE_AA)


def write_coke_can(folder: Path) -> None:
    """Write ``collision.obj`` and ``textured.glb``."""
    folder.mkdir(parents=True, exist_ok=True)
    collision = trimesh.exchange.obj.export_obj(collision_mesh(), include_normals=False, digits=7)
    (folder / "collision.obj").write_text(collision)
    (folder / "textured.glb").write_bytes(trimesh.exchange.gltf.export_glb(trimesh.Scene(visual_mesh()), include_normals=True))


def coke_can(folder: Path) -> ObjectModel:
    """The can, from the files that :func:`write_coke_can` wrote."""
    x, y, z = _BBOX
    return ObjectModel(
        model_id=COKE_CAN,
        collision_files=(folder / "collision.obj",),
        visual_file=folder / "textured.glb",
        bbox_min=(-x, -y, -z),
        bbox_max=(x, y, z),
        density=_DENSITY,
    )
