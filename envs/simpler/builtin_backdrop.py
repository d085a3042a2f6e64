"""The builtin "photograph" behind robot and can: a small ray tracer of a wooden counter in a room, seen by the robot.

Before hop 1 of the tour. Visual matching replaces every pixel that is not robot or task object by a photograph. Ours is
painted from the camera's pose: a counter whose top lies in the plane that the objects stand on, drawers below, floor, wall.
Each pixel's ray meets planes and rectangles only, so the picture costs well under a second and needs no renderer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.simpler.camera import OVERHEAD_CAMERA, PolicyCamera

_SUPERSAMPLING = 2
_HEAD_PAN_RAD, _HEAD_TILT_RAD = -0.00285961, 0.7851361
_ROOT_HEIGHT_M = 0.07905

TABLE_X_M, TABLE_Y_M, TABLE_TOP_M = (-0.76, -0.025), (-0.12, 0.54), 0.87
_SLAB_M = 0.03
_WALL_X_M = -1.05
Array = NDArray[np.float64]
Paint = Callable[[Array, Array], Array]
"""Two plane coordinates [N] in m -> colour [N, 3] in [0, 1], before light."""


@dataclass(frozen=True)
class Camera:
    """Where a pinhole camera stands: position [3] in m, rotation [3, 3] from image axes (right, down, forward) to the world."""

    position: Array
    rotation: Array
    lens: PolicyCamera = OVERHEAD_CAMERA

    def rays(self) -> Array:
        """Directions [H * W, 3], row by row, at the supersampled size; forward length 1."""
        height, width = (size * _SUPERSAMPLING for size in self.lens.full_size_px)
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        focal = self.lens.focal_px * _SUPERSAMPLING
        center_column, center_row = (center * _SUPERSAMPLING for center in self.lens.center_px)
        local = np.stack([(columns - center_column) / focal, (rows - center_row) / focal, np.ones_like(rows)], axis=-1)
        return local.reshape(-1, 3) @ self.rotation.T


def head_camera(root_x_m: float, root_y_m: float, yaw_offset_rad: float = 0.0) -> Camera:
    """The overhead camera of a robot that faces -x (yaw pi plus an offset), head as at reset.

    Example:
        >>> head_camera(0.35, 0.20).position.round(2).tolist()
        [0.2, 0.2, 1.29]
    """
    yaw = np.pi + yaw_offset_rad
    pan, tilt = _rotation_z(yaw) @ _rotation_z(_HEAD_PAN_RAD), _rotation_y(_HEAD_TILT_RAD)
    position = np.array([root_x_m, root_y_m, _ROOT_HEIGHT_M + 1.16902]) + pan @ np.array([0.07181, 0.0, 0.11848])
    position = position + pan @ tilt @ np.array([0.10488, 0.0, 0.0])
    image_axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return Camera(position, pan @ tilt @ image_axes)


def _rotation_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation_y(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


@dataclass(frozen=True)
class Rectangle:
    """Axis-aligned, in the plane ``axis = level``; the two remaining coordinates, in x, y, z order, have bounds."""

    axis: int
    level: float
    first: tuple[float, float]
    second: tuple[float, float]
    paint: Paint


def paint_counter(camera: Camera) -> NDArray[np.uint8]:
    """The Google robot's picture [512, 640, 3] RGB."""
    return paint_room(camera, _room())


def paint_room(camera: Camera, rectangles: Sequence[Rectangle]) -> NDArray[np.uint8]:
    """The picture [H, W, 3] RGB, of the camera's full size, of a room made of rectangles."""
    rays = camera.rays()
    nearest = np.full(len(rays), np.inf)
    color = np.zeros((len(rays), 3))
    for rectangle in rectangles:
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (rectangle.level - camera.position[rectangle.axis]) / rays[:, rectangle.axis]
        points = camera.position + rays * distance[:, None]
        a, b = np.delete(points, rectangle.axis, axis=1).T
        (a_low, a_high), (b_low, b_high) = rectangle.first, rectangle.second
        hit = (distance > 0) & (distance < nearest) & (a >= a_low) & (a <= a_high) & (b >= b_low) & (b <= b_high)
        if hit.any():
            nearest[hit] = distance[hit]
            color[hit] = rectangle.paint(a[hit], b[hit])
    height, width = camera.lens.full_size_px
    image = color.reshape(height * _SUPERSAMPLING, width * _SUPERSAMPLING, 3)
    return _as_photograph(np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float64))


def _as_photograph(image: Array) -> NDArray[np.uint8]:
    """A lens's slight softness and vignette, a sensor's noise."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1.0 - 0.14 * (rows**2 + columns**2)
    grain = np.random.RandomState(7).standard_normal((height, width, 1)) * 0.006
    soft = cv2.GaussianBlur(image, (0, 0), 0.7)
    return np.clip((soft * vignette[..., None] + grain) * 255.0, 0, 255).astype(np.uint8)


def _room() -> list[Rectangle]:
    (x0, x1), (y0, y1), top = TABLE_X_M, TABLE_Y_M, TABLE_TOP_M
    front = x1 - 0.02
    sides = (0.0, top - _SLAB_M)
    slab = (top - _SLAB_M, top)
    return [
        Rectangle(2, 0.0, (-3.0, 2.0), (-3.0, 3.0), _floor),
        Rectangle(0, _WALL_X_M, (-3.0, 3.0), (0.0, 3.0), _wall),
        Rectangle(0, front, (y0 + 0.02, y1 - 0.02), sides, _drawers),
        Rectangle(1, y0 + 0.02, (x0 + 0.02, front), sides, _side_panel),
        Rectangle(1, y1 - 0.02, (x0 + 0.02, front), sides, _side_panel),
        Rectangle(0, x1, (y0, y1), slab, lambda y, z: 0.72 * _wood(z * 0.5, y)),
        Rectangle(2, top, (x0, x1), (y0, y1), _table_top),
    ]


def noise(a: Array, b: Array, *, cells_per_m: tuple[float, float], seed: int) -> Array:
    """Smooth noise in about [-1, 1] at plane coordinates, by bicubic look-up in a random table that repeats."""
    table = np.random.RandomState(seed).uniform(-1.0, 1.0, (256, 256)).astype(np.float32)
    u = np.mod(a * cells_per_m[0] + 1000.0, 255.0).astype(np.float32)
    v = np.mod(b * cells_per_m[1] + 1000.0, 255.0).astype(np.float32)
    # remap takes pictures of at most 32767 columns, so the points are laid out in rows.
    padding = -len(u) % 1024
    u, v = (np.pad(coordinate, (0, padding)).reshape(-1, 1024) for coordinate in (u, v))
    found = cv2.remap(table, u, v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    return found.ravel()[: len(a)].astype(np.float64)


def _wood(along: Array, across: Array) -> Array:
    """Maple planks: long grain, a slow change of tone, pores."""
    bend = 0.012 * noise(along, across, cells_per_m=(3.0, 5.0), seed=1)
    rings = np.sin(2 * np.pi * 34.0 * (across + bend) + 2.2 * noise(along, across, cells_per_m=(2.0, 9.0), seed=2))
    grain = noise(along, across, cells_per_m=(6.0, 420.0), seed=3)
    tone = noise(along, across, cells_per_m=(1.5, 3.0), seed=4)
    plank = np.floor((across + 0.12) / 0.165)
    plank_tone = 0.035 * np.sin(plank * 2.4 + 0.7)
    seam = np.abs(np.mod(across + 0.12, 0.165) - 0.0825) > 0.0818
    light = 1.0 + 0.030 * rings + 0.045 * grain + 0.05 * tone + plank_tone - 0.16 * seam
    return np.array([0.71, 0.55, 0.39]) * light[:, None]


def _table_top(x: Array, y: Array) -> Array:
    """Wood under a lamp: brighter to the wall, a soft reflection, a darker edge."""
    base = _wood(x, y)
    glow = 0.13 * np.exp(-(((x + 0.60) / 0.20) ** 2) - ((y - 0.30) / 0.24) ** 2)
    streak = 0.22 * _band(x, -0.088, 0.010) * _band(y, 0.36, 0.12)
    falloff = 1.04 - 0.22 * (x - TABLE_X_M[0])
    (x0, x1), (y0, y1) = TABLE_X_M, TABLE_Y_M
    edge = np.minimum(np.minimum(x - x0, x1 - x), np.minimum(y - y0, y1 - y))
    rim = 1.0 - 0.12 * np.exp(-edge / 0.004)
    return base * (falloff * rim)[:, None] + (glow + streak)[:, None] * np.array([1.0, 0.97, 0.90])


def _band(value: Array, center: float, half_width: float) -> Array:
    """1 inside, falling smoothly to 0 outside."""
    return 1.0 / (1.0 + np.exp((np.abs(value - center) - half_width) / (0.12 * half_width)))


def _drawers(y: Array, z: Array) -> Array:
    """Three fronts with dark gaps and bar handles; the overhang shades the first."""
    color = np.array([0.60, 0.585, 0.56]) * (1.0 + 0.02 * noise(y, z, cells_per_m=(4.0, 60.0), seed=5))[:, None]
    middle = (TABLE_Y_M[0] + TABLE_Y_M[1]) / 2
    height = 0.245
    below_top = TABLE_TOP_M - _SLAB_M - 0.02 - z
    within = np.mod(below_top, height)
    is_gap = (within < 0.012) | (below_top < 0)
    offset = within - 0.075
    is_bar = (np.abs(y - middle) < 0.065) & (np.abs(offset) < 0.007)
    is_post = (np.abs(np.abs(y - middle) - 0.060) < 0.005) & (offset < 0) & (offset > -0.022)
    is_shadow = (np.abs(y - middle) < 0.066) & (np.abs(offset - 0.022) < 0.008)
    color[is_shadow] *= 0.75
    color[is_gap] = (0.07, 0.065, 0.06)
    color[is_bar | is_post] = (0.06, 0.06, 0.065)
    shade = 0.55 + 0.45 * (1.0 - np.exp(-np.maximum(below_top, 0.0) / 0.06))
    return color * (shade * (0.55 + 0.45 * z / TABLE_TOP_M))[:, None]


def _side_panel(x: Array, z: Array) -> Array:
    return 0.36 * _wood(z, x) * (0.5 + 0.5 * z / TABLE_TOP_M)[:, None]


def _floor(x: Array, y: Array) -> Array:
    """Grey tiles, dark near the counter."""
    speckle = 0.05 * noise(x, y, cells_per_m=(160.0, 160.0), seed=6) + 0.05 * noise(x, y, cells_per_m=(7.0, 7.0), seed=8)
    joint = (np.mod(x + 0.11, 0.4) < 0.008) | (np.mod(y + 0.07, 0.4) < 0.008)
    away = np.hypot(
        np.maximum(np.maximum(TABLE_X_M[0] - x, x - TABLE_X_M[1]), 0),
        np.maximum(np.maximum(TABLE_Y_M[0] - y, y - TABLE_Y_M[1]), 0),
    )
    shade = (0.45 + 0.55 * (1.0 - np.exp(-away / 0.30))) * (1.0 + speckle - 0.25 * joint)
    return np.array([0.46, 0.44, 0.41]) * shade[:, None]


def _wall(y: Array, z: Array) -> Array:
    """White kitchen tiles above a skirting board."""
    weave = 0.03 * noise(y, z, cells_per_m=(25.0, 25.0), seed=9)
    row = np.floor(z / 0.10)
    shifted = np.mod(y + 0.1 * np.mod(row, 2), 0.2)
    joint = (shifted < 0.006) | (np.mod(z, 0.10) < 0.006)
    tile_tone = 0.04 * np.sin(row * 12.9 + np.floor((y + 0.1 * np.mod(row, 2)) / 0.2) * 78.2)
    shade = (1.0 + weave + tile_tone) * np.where(joint, 0.80, 1.0) * (0.70 + 0.30 * np.clip(z / 0.9, 0.0, 1.0))
    return np.array([0.50, 0.56, 0.58]) * shade[:, None]
